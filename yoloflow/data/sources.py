"""Sources to predict on: files, folders, patterns, a list on standard input, a camera."""

from __future__ import annotations

import glob
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from yoloflow.data.image_files import IMAGE_SUFFIXES, decode_image
from yoloflow.structures import Problem, Uint8Array, YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
STANDARD_INPUT = "-"
CAMERA = "camera:"
_FALLBACK_FPS = 25.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Frame:
    """An image, or one frame of a video or camera.

    Attributes:
        path: the file; of a camera, as the user named it.
        image: (H, W, 3) uint8 BGR, turned as the file's EXIF or rotation mark says.
        number: 0-based number in the video; None for an image.
        fps: frames of the video in a second; None for an image.
    """

    path: Path
    image: Uint8Array
    number: int | None = None
    fps: float | None = None


class ByteStream(Protocol):
    """An unbuffered binary file: `read` gives what is there already, and waits only for the first byte."""

    def read(self, size: int, /) -> bytes | None:
        """At most `size` bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class PathList:
    """Paths that are read one by one, a line each."""

    stream: ByteStream

    def __iter__(self) -> Iterator[Path]:
        rest = b""
        while chunk := self.stream.read(_READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from self._paths(lines)
        yield from self._paths([rest])

    @staticmethod
    def _paths(lines: Sequence[bytes]) -> Iterator[Path]:
        for line in lines:
            if text := os.fsdecode(line).removesuffix("\r"):
                yield Path(text).expanduser()


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that is open already.

    Attributes:
        name: as the user gave it, `camera:0`.
    """

    name: str
    capture: cv2.VideoCapture


Source = Path | PathList | Camera
Reading = Callable[[], Frame | Problem]
"""What gives a frame, or what is wrong with it, when called."""


def open_sources(sources: Sequence[str]) -> list[Source]:
    """Opens sources: files in order, each once, and streams, such as a list of paths or cameras.

    A folder gives the images and videos directly in it, a pattern (`shots/**/*.jpg`) those that match, both
    sorted by name; other files in them are counted in the log. A file named itself is taken whatever its
    name ends in.

    Args:
        sources: files, folders, glob patterns, `camera:NUMBER` (or the address of a stream after `camera:`),
            and `-` for paths on standard input.

    Raises:
        YoloflowError: a source does not exist, holds neither image nor video, or is a camera that does not
            open.
    """
    if not sources:
        raise YoloflowError(
            "no source given: name images, videos, folders, patterns such as 'shots/*.jpg', - or camera:0"
        )
    found: dict[Source, None] = {}
    for source in dict.fromkeys(sources):
        path = Path(source).expanduser()
        if source == STANDARD_INPUT:
            found[PathList(io.FileIO(sys.stdin.fileno(), closefd=False))] = None
        elif source.startswith(CAMERA):
            found[_open_camera(source)] = None
        elif path.is_file():
            found[path] = None
        elif path.is_dir():
            found |= dict.fromkeys(_usable(source, sorted(path.iterdir())))
        elif glob.has_magic(source):
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
            found |= dict.fromkeys(_usable(source, matches))
        else:
            raise YoloflowError(f"{source}: there is no such file or folder{_similar(path)}")
    return list(found)


def _open_camera(source: str) -> Camera:
    """Returns the camera behind `camera:0`; frames are taken when they are asked for."""
    device = source.removeprefix(CAMERA)
    if not device:
        raise YoloflowError(f"{source}: which camera? camera:0 is the first")
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error says it better
    try:
        capture = cv2.VideoCapture(int(device) if device.isdecimal() else device)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        known = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*")))
        raise YoloflowError(
            f"{source}: there is no such camera, it may not be used, or another program uses it "
            f"(camera devices here: {known or 'none'})"
        )
    return Camera(source, capture)


def _usable(source: str, candidates: Sequence[Path]) -> list[Path]:
    files = [path for path in candidates if path.is_file() and not path.name.startswith(".")]
    usable = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if not usable:
        folders = sum(path.is_dir() for path in candidates)
        pattern = Path(source) / "**" / "*.jpg"
        hint = f"; a pattern such as '{pattern}' looks into its {folders} folders" if folders else ""
        raise YoloflowError(f"{source}: holds no image or video ({len(files)} other files){hint}")
    others = [path for path in files if path not in set(usable)]
    if others:
        logger.info(
            "%s: %d files are neither image nor video, such as %s", source, len(others), others[0].name
        )
    return usable


def _similar(path: Path) -> str:
    """Returns a hint at a misspelt name, from the folder in which it should be."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = [entry.name for entry in path.parent.iterdir()]
    hint = nearest_names(path.name, names)
    return f"; {hint}" if hint.startswith("did you mean") else ""


def readings(sources: Sequence[Source]) -> Iterator[Reading]:
    """For each image what decodes it when called, for each frame of a video what gives it.

    Nothing of a list or a video is read before it is asked for. The calls of images may be made in any
    order and thread.

    Args:
        sources: of `open_sources`.
    """
    for source in sources:
        if isinstance(source, Camera):
            yield from _capture_readings(Path(source.name), source.capture, is_camera=True)
            continue
        for path in [source] if isinstance(source, Path) else source:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield from _capture_readings(path, cv2.VideoCapture(str(path)))
            else:
                yield _ImageReading(path)


@dataclass(frozen=True, slots=True)
class _ImageReading:
    """Decodes an image when called."""

    path: Path

    def __call__(self) -> Frame | Problem:
        try:
            return Frame(self.path, decode_image(str(self.path)))
        except YoloflowError as error:
            detail = str(error).removeprefix(f"{self.path}: ")
            return Problem(str(self.path), None, "unreadable-image", "drop-image", detail)


@dataclass(frozen=True, slots=True)
class _Known:
    """Gives what is there already."""

    result: Frame | Problem

    def __call__(self) -> Frame | Problem:
        return self.result


def _capture_readings(path: Path, capture: cv2.VideoCapture, is_camera: bool = False) -> Iterator[Reading]:
    try:
        announced = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        fps = capture.get(cv2.CAP_PROP_FPS)
        if not (np.isfinite(fps) and fps > 0):
            fps = _FALLBACK_FPS
        count = 0
        while capture.isOpened():
            is_read, image = capture.read()
            if not is_read:
                break
            yield _Known(Frame(path, np.asarray(image, np.uint8), count, fps))
            count += 1
    finally:
        capture.release()
    if is_camera:
        yield _Known(Problem(str(path), None, "camera-ended", "keep", f"gives no more images after {count}"))
    elif count == 0:
        detail = "not a video that can be read: missing, damaged, empty or of an unknown codec"
        yield _Known(Problem(str(path), None, "unreadable-video", "drop-image", detail))
    elif count < announced:
        detail = f"ends after {count} of the {announced} frames that it announces"
        yield _Known(Problem(str(path), None, "short-video", "keep", detail))
