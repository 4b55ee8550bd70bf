"""Image and video files, such as those with the detections drawn, written as they come."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yoloflow.files import is_utf8
from yoloflow.structures import Uint8Array, YoloflowError

_JPEG_QUALITY = 95
_JPEG_MAX_SIDE = 65500
_MAX_RATE = 65535


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
        name = stem + image_suffix(drawn_bgr)
        save_image(self._folder / name, drawn_bgr)
        return name

    def write_frame(self, stem: str, fps: float, drawn_bgr: Uint8Array) -> str | None:
        """Writes the next frame of a video; a new stem begins a new one.

        Returns:
            the name of its file; None where a frame before it raised the error.

        Raises:
            YoloflowError: this video cannot be written.
        """
        name = f"{stem}.mp4"
        if name != self._video_name:
            self.close()
            self._video_name, self._video_size_wh = name, (drawn_bgr.shape[1], drawn_bgr.shape[0])
            self._video = _open_video(self._folder / name, fps, self._video_size_wh)
        if self._video is None:  # it could not be opened
            return None
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


def image_suffix(image_bgr: Uint8Array) -> str:
    """Returns .jpg, or .png for an image that is too large for JPEG."""
    return ".jpg" if max(image_bgr.shape) <= _JPEG_MAX_SIDE else ".png"


def save_image(path: Path, image_bgr: Uint8Array) -> None:
    """Writes an image in the format of its suffix.

    Raises:
        YoloflowError: no such format, or the file cannot be written.
    """
    is_jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if is_jpeg else []
    try:
        is_encoded, encoded = cv2.imencode(path.suffix, image_bgr, options)
    except cv2.error as error:
        raise YoloflowError(f"{path}: no image format; give a name that ends in .jpg or .png") from error
    if not is_encoded:
        height, width = image_bgr.shape[:2]
        raise YoloflowError(f"{path}: an image of {width} x {height} pixels cannot be encoded")
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be written ({error.strerror})") from error


def video_rate(fps: float) -> float:
    """Returns the nearest frame rate that an MPEG-4 video can have: a fraction whose terms have 16 bits.

    OpenCV writes the rate as a whole number over 1, 10, 100 or 1000.
    """
    fps = min(max(fps, 0.01), float(_MAX_RATE))
    decimals = next(digits for digits in (3, 2, 1, 0) if round(fps * 10**digits) <= _MAX_RATE)
    return round(fps, decimals)


def _open_video(path: Path, fps: float, size_wh: tuple[int, int]) -> cv2.VideoWriter:
    if not is_utf8(path):
        raise YoloflowError(
            f"{path}: its name is no UTF-8, and OpenCV writes no such video; choose another folder"
        )
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error says it better
    try:
        video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), video_rate(fps), size_wh)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not video.isOpened():
        path.unlink(missing_ok=True)
        width, height = size_wh
        raise YoloflowError(
            f"{path}: OpenCV cannot write MPEG-4 video of {width} x {height} pixels (2 to 8191 a side)"
        )
    return video
