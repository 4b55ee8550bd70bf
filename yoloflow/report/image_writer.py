"""Images and videos with the detections drawn, written as they come."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yoloflow.structures import Uint8Array, YoloflowError

_JPEG_QUALITY = 95
_JPEG_MAX_SIDE = 65500


class ImageWriter:
    """A writer of a JPEG for each image, and of an MPEG-4 video for each video or camera."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._video: cv2.VideoWriter | None = None
        self._video_name = ""
        self._video_size_wh = (0, 0)

    def write_image(self, stem: str, drawn_bgr: Uint8Array) -> str:
        """Writes an image; returns the name of its file.

        Raises:
            YoloflowError: it cannot be written.
        """
        name = f"{stem}{'.jpg' if max(drawn_bgr.shape) <= _JPEG_MAX_SIDE else '.png'}"
        _, encoded = cv2.imencode(Path(name).suffix, drawn_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        try:
            (self._folder / name).write_bytes(encoded.tobytes())
        except OSError as error:
            raise YoloflowError(f"{self._folder / name}: cannot be written ({error.strerror})") from error
        return name

    def write_frame(self, stem: str, fps: float, drawn_bgr: Uint8Array) -> str:
        """Writes the next frame of a video; a new stem begins a new one. Returns the name of its file.

        Raises:
            YoloflowError: this OpenCV cannot write video.
        """
        name = f"{stem}.mp4"
        if self._video is None or name != self._video_name:
            self.close()
            self._video_name, self._video_size_wh = name, (drawn_bgr.shape[1], drawn_bgr.shape[0])
            path = self._folder / name
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(path), fourcc, fps, self._video_size_wh)
            if not self._video.isOpened():
                raise YoloflowError(
                    f"{path}: this OpenCV cannot write MPEG-4 video; predict without drawn images"
                )
        if (drawn_bgr.shape[1], drawn_bgr.shape[0]) != self._video_size_wh:
            # The writer drops frames of another size without a word.
            drawn_bgr = np.asarray(cv2.resize(drawn_bgr, self._video_size_wh), np.uint8)
        self._video.write(drawn_bgr)
        return name

    def close(self) -> None:
        """Ends the video in progress."""
        if self._video is not None:
            self._video.release()
            self._video = None
