"""A folder of predictions: files in the formats asked for, and the images and videos drawn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from yoloflow.data.sources import Frame
from yoloflow.report.box_drawing import draw_detections
from yoloflow.report.image_writer import ImageWriter
from yoloflow.report.prediction_formats import FORMATS, Naming, PredictedImage, PredictionFormat, file_name_of
from yoloflow.structures import Detections, Problem, YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")


def check_free(folder: Path, formats: Sequence[str]) -> None:
    """Raises YoloflowError where there is no such format, or a folder has predictions already."""
    for name in formats:
        if name not in FORMATS:
            raise YoloflowError(f"format {name!r} is not known; {nearest_names(name, FORMATS)}")
    for place in (folder / known.file_name for known in FORMATS.values()):
        if place.exists():
            raise YoloflowError(
                f"{place} exists already: predictions are never overwritten; choose another folder"
            )


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
        problems: list[Problem] | None = None,
    ) -> None:
        """Makes the folder.

        Args:
            folder: where everything goes.
            naming: names and ids of classes and images.
            formats: keys of `FORMATS`.
            save_images: draw images and videos too.
            problems: takes what could not be drawn; its detections are written all the same.

        Raises:
            YoloflowError: no such format; the folder holds predictions already, or cannot be written.
        """
        check_free(folder, formats)
        self._files: dict[str, PredictionFormat] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in dict.fromkeys(formats):
                self._files[name] = FORMATS[name](folder, naming)
        except OSError as error:
            raise YoloflowError(f"{folder}: cannot be written ({error.strerror})") from error
        self._naming = naming
        self._problems = [] if problems is None else problems
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

    def write(self, frame: Frame, found: Detections) -> None:
        """Adds an image, or the next frame of a video (frames of one video come in order).

        Args:
            frame: the image, and where it is from.
            found: detections in pixels of the image, all with masks or none.

        Raises:
            YoloflowError: a file of detections cannot be written.
        """
        stem = self._stem(frame)
        drawn_name = self._draw(stem, frame, found)
        image = PredictedImage(frame.name, frame.number, frame.image, stem, drawn_name, found)
        for file in self._files.values():
            try:
                file.write(image)
            except OSError as error:
                raise YoloflowError(f"{file.path}: cannot be written ({error.strerror})") from error

    def _draw(self, stem: str, frame: Frame, found: Detections) -> str | None:
        """Draws the detections; returns the name of the file, or None where there is none."""
        if self._drawn is None:
            return None
        arrays = (found.boxes_xyxy, found.classes, found.scores)
        drawn = draw_detections(frame.image, *arrays, self._naming.names, found.masks)
        try:
            if frame.number is None or frame.fps is None:
                return self._drawn.write_image(stem, drawn)
            return self._drawn.write_frame(stem, frame.fps, drawn)
        except YoloflowError as error:
            problem = Problem(frame.name, None, "not-drawn", "keep", f"is not drawn: {error}")
            logger.warning("%s", problem)
            self._problems.append(problem)
            return None

    def _stem(self, frame: Frame) -> str:
        """Returns the name of an image's files, or of a video's."""
        if frame.number is None:
            return self._free_stem(frame.path)
        if frame.path != self._video_source or frame.number == 0:
            self._video_source, self._video_stem = frame.path, self._free_stem(frame.path)
        return self._video_stem

    def _free_stem(self, source: Path) -> str:
        """Returns a stem that nothing in the folder has, also where upper and lower case are equal."""
        # A camera is named with a colon, the address of a stream with worse. What follows needs room too.
        clean = file_name_of(source.stem)
        stem = clean
        while stem.lower() in self._taken:
            self._taken[clean.lower()] += 1
            stem = f"{clean}-{self._taken[clean.lower()]}"
        self._taken[stem.lower()] = 1
        return stem
