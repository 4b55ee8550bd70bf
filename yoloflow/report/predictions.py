"""Predictions on disk: one JSON of all of them, and the pictures and videos with boxes drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from yoloflow.report.draw import draw_detections
from yoloflow.structures import Detections, Uint8Array, YoloflowError

_JPEG_QUALITY = 95
_JPEG_MAX_SIDE = 65500


class PredictionWriter:
    """Writes predictions as they come, in constant memory; use it in a `with` statement.

    `predictions.json` is a list of {file, frame, width, height, picture, detections: [{box_xyxy, score,
    class, name}]}: boxes in pixels of the original, `frame` the 0-based number in a video or null, `picture`
    the drawn file beside the JSON. It is valid JSON of everything done even if the prediction is interrupted.
    """

    def __init__(self, folder: Path, names: Sequence[str], save_images: bool = True) -> None:
        """Make the folder.

        Args:
            folder: where everything goes.
            names: class names in class order.
            save_images: draw pictures and videos too.

        Raises:
            YoloflowError: the folder holds predictions already, or cannot be written.
        """
        self.json_path = folder / "predictions.json"
        if self.json_path.exists():
            raise YoloflowError(
                f"{self.json_path} exists already: predictions are never overwritten; choose another folder"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._partial = folder / ".predictions.json.partial"
            self._file = self._partial.open("w", encoding="utf-8")
        except OSError as error:
            raise YoloflowError(f"{folder}: cannot be written ({error.strerror})") from error
        self._folder = folder
        self._names = names
        self._save_images = save_images
        self._num_rows = 0
        self._taken: set[str] = {entry.name.lower() for entry in folder.iterdir()}
        self._video: cv2.VideoWriter | None = None
        self._video_source: Path | None = None
        self._video_name = ""
        self._video_size_wh = (0, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_video()
        self._file.write("\n]\n" if self._num_rows else "[]\n")
        self._file.close()
        self._partial.replace(self.json_path)

    def write(
        self, source: Path, number: int | None, fps: float | None, image_bgr: Uint8Array, found: Detections
    ) -> None:
        """Add a picture, or the next frame of a video (frames of one video come in order).

        Args:
            source: the file.
            number: 0-based number of the frame; None for a picture.
            fps: frames of the video in a second; None for a picture.
            image_bgr: (H, W, 3) uint8.
            found: detections in pixels of the image.

        Raises:
            YoloflowError: the drawn picture or video cannot be written.
        """
        name = None
        if self._save_images:
            drawn = draw_detections(image_bgr, found.boxes_xyxy, found.classes, found.scores, self._names)
            if number is None or fps is None:
                name = self._write_picture(source, drawn)
            else:
                name = self._write_frame(source, number, fps, drawn)
        row = {
            "file": str(source),
            "frame": number,
            "width": image_bgr.shape[1],
            "height": image_bgr.shape[0],
            "picture": name,
            "detections": detection_rows(found, self._names),
        }
        self._file.write(("[\n" if self._num_rows == 0 else ",\n") + json.dumps(row))
        self._num_rows += 1

    def _write_picture(self, source: Path, drawn: Uint8Array) -> str:
        name = self._free_name(source.stem, ".jpg" if max(drawn.shape) <= _JPEG_MAX_SIDE else ".png")
        _, encoded = cv2.imencode(Path(name).suffix, drawn, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        try:
            (self._folder / name).write_bytes(encoded.tobytes())
        except OSError as error:
            raise YoloflowError(f"{self._folder / name}: cannot be written ({error.strerror})") from error
        return name

    def _write_frame(self, source: Path, number: int, fps: float, drawn: Uint8Array) -> str:
        size_wh = (drawn.shape[1], drawn.shape[0])
        if self._video is None or source != self._video_source or number == 0:
            self._video = self._open_video(source, fps, size_wh)
        if size_wh != self._video_size_wh:
            # The writer drops frames of another size without a word.
            drawn = np.asarray(cv2.resize(drawn, self._video_size_wh), np.uint8)
        self._video.write(drawn)
        return self._video_name

    def _open_video(self, source: Path, fps: float, size_wh: tuple[int, int]) -> cv2.VideoWriter:
        self._close_video()
        self._video_source, self._video_size_wh = source, size_wh
        self._video_name = self._free_name(source.stem, ".mp4")
        path = self._folder / self._video_name
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
        if not video.isOpened():
            raise YoloflowError(
                f"{path}: this OpenCV cannot write MPEG-4 video; predict without drawn pictures"
            )
        return video

    def _close_video(self) -> None:
        if self._video is not None:
            self._video.release()
            self._video = None

    def _free_name(self, stem: str, suffix: str) -> str:
        """A file name that nothing in the folder has; file systems may take upper and lower case as equal."""
        name, number = f"{stem}{suffix}", 2
        while name.lower() in self._taken:
            name, number = f"{stem}-{number}{suffix}", number + 1
        self._taken.add(name.lower())
        return name


def detection_rows(found: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    """Detections as JSON-able rows, best first; boxes to a hundredth of a pixel."""
    columns = (found.boxes_xyxy.tolist(), found.scores.tolist(), found.classes.tolist())
    return [
        {
            "box_xyxy": [round(value, 2) for value in box],
            "score": round(score, 5),
            "class": number,
            "name": names[number],
        }
        for box, score, number in zip(*columns, strict=True)
    ]
