"""A folder of predictions: files in the formats asked for, and the images and videos drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from yoloflow.report.box_drawing import draw_detections
from yoloflow.report.image_writer import ImageWriter
from yoloflow.report.prediction_formats import FORMATS, Naming, PredictedImage, PredictionFormat
from yoloflow.structures import Detections, Uint8Array, YoloflowError, nearest_names


class PredictionWriter:
    """A writer of predictions as they come, in constant memory but for their names; use it with `with`.

    All files are whole, and hold everything done, even if the prediction is interrupted.
    """

    def __init__(
        self,
        folder: Path,
        naming: Naming,
        formats: Sequence[str] = ("json",),
        save_images: bool = True,
    ) -> None:
        """Makes the folder.

        Args:
            folder: where everything goes.
            naming: names and ids of classes and images.
            formats: keys of `FORMATS`.
            save_images: draw images and videos too.

        Raises:
            YoloflowError: no such format; the folder holds predictions already, or cannot be written.
        """
        for name in formats:
            if name not in FORMATS:
                raise YoloflowError(f"format {name!r} is not known; {nearest_names(name, FORMATS)}")
        for place in (folder / known.file_name for known in FORMATS.values()):
            if place.exists():
                raise YoloflowError(
                    f"{place} exists already: predictions are never overwritten; choose another folder"
                )
        self._files: dict[str, PredictionFormat] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in dict.fromkeys(formats):
                self._files[name] = FORMATS[name](folder, naming)
        except OSError as error:
            raise YoloflowError(f"{folder}: cannot be written ({error.strerror})") from error
        self._naming = naming
        self._drawn = ImageWriter(folder) if save_images else None
        # The last number that was given to each name.
        self._taken = {entry.stem.lower(): 1 for entry in folder.iterdir()}
        self._video_source: Path | None = None
        self._video_stem = ""

    @property
    def paths(self) -> dict[str, Path]:
        """The files or folders that are written, by format."""
        return {name: file.path for name, file in self._files.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn is not None:
            self._drawn.close()
        for file in self._files.values():
            file.close()

    def write(
        self, source: Path, number: int | None, fps: float | None, image_bgr: Uint8Array, found: Detections
    ) -> None:
        """Adds an image, or the next frame of a video (frames of one video come in order).

        Args:
            source: the file.
            number: 0-based number of the frame; None for an image.
            fps: frames of the video in a second; None for an image.
            image_bgr: (H, W, 3) uint8.
            found: detections in pixels of the image.

        Raises:
            YoloflowError: a file cannot be written.
        """
        stem = self._stem(source, number)
        drawn_name = None
        if self._drawn is not None:
            names = self._naming.names
            drawn = draw_detections(image_bgr, found.boxes_xyxy, found.classes, found.scores, names)
            if number is None or fps is None:
                drawn_name = self._drawn.write_image(stem, drawn)
            else:
                drawn_name = self._drawn.write_frame(stem, fps, drawn)
        height, width = image_bgr.shape[:2]
        image = PredictedImage(str(source), number, height, width, stem, drawn_name, found)
        for file in self._files.values():
            try:
                file.write(image)
            except OSError as error:
                raise YoloflowError(f"{file.path}: cannot be written ({error.strerror})") from error

    def _stem(self, source: Path, number: int | None) -> str:
        """Returns the name of an image's files, or of a video's."""
        if number is None:
            return self._free_stem(source)
        if source != self._video_source or number == 0:
            self._video_source, self._video_stem = source, self._free_stem(source)
        return self._video_stem

    def _free_stem(self, source: Path) -> str:
        """Returns a stem that nothing in the folder has, also where upper and lower case are equal."""
        # A camera is named with a colon, the address of a stream with worse.
        clean = "".join("-" if letter in '<>:"\\|?*' else letter for letter in source.stem)
        stem = clean
        while stem.lower() in self._taken:
            self._taken[clean.lower()] += 1
            stem = f"{clean}-{self._taken[clean.lower()]}"
        self._taken[stem.lower()] = 1
        return stem
