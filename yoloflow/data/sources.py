"""Sources to predict on: files, folders, patterns, a list on standard input, cameras and streams."""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from yoloflow.data.decoder_messages import decode_named
from yoloflow.data.image_files import DRAWING_SUFFIXES, IMAGE_SUFFIXES
from yoloflow.files import is_utf8, similar_paths
from yoloflow.structures import Problem, Uint8Array, YoloflowError

logger = logging.getLogger("yoloflow")

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
STANDARD_INPUT = "-"
CAMERA = "camera:"
_STREAM = re.compile(r"(rtsps?|rtmps?|rtp|udp|tcp|srt|mmsh?|https?)://", re.IGNORECASE)
_WAITS_SECONDS = (0, 1, 2, 4, 8, 15)
"""Waits before each try to open a broken stream again; the next break begins with the first."""
_FALLBACK_FPS = 25.0
_FFMPEG_SILENT = "-8"
_MOST_DEVICES = 2**31 - 1
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Frame:
    """An image, or one frame of a video or camera.

    Attributes:
        path: the file; of a camera, its name as a path.
        image: (H, W, 3) uint8 BGR, turned as the file's EXIF or rotation mark says.
        number: 0-based number in the video; None for an image.
        fps: frames of the video in a second; None for an image.
        name: of a camera or stream, as the user gave it; of a file, its path; "" where there is no path.
    """

    path: Path
    image: Uint8Array = field(repr=False)
    number: int | None = None
    fps: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name and self.path.name:
            object.__setattr__(self, "name", str(self.path))


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
    """A camera or stream that is open already.

    Attributes:
        name: as the user gave it: `camera:0`, `rtsp://host/door`.
        capture: gives its frames.
        device: its number or address, to open it again.
    """

    name: str
    capture: cv2.VideoCapture
    device: str

    @property
    def is_live(self) -> bool:
        """True if it has no end of its own: a device, or a stream of unknown length."""
        is_stream = bool(_STREAM.match(self.device))
        return self.device.isdecimal() or (is_stream and self.capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 0)


Source = Path | PathList | Camera
Reading = Callable[[], Frame | Problem]
"""What gives a frame, or what is wrong with it, when called."""


def open_sources(sources: Sequence[str]) -> list[Source]:
    """Opens sources: files in order, each once, and streams, such as a list of paths or cameras.

    A folder gives the images and videos directly in it, a pattern (`shots/**/*.jpg`) those that match, both
    sorted by name; other files in them are counted in the log. A file named itself is taken whatever its
    name ends in.

    Args:
        sources: files, folders, glob patterns, `camera:NUMBER` or the number alone, addresses of streams
            (`rtsp://...`), and `-` for paths on standard input.

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
        if not source:
            raise YoloflowError("an empty text is no source; . is the folder here")
        if source == STANDARD_INPUT:
            found[PathList(io.FileIO(sys.stdin.fileno(), closefd=False))] = None
        elif (device := camera_device(source)) is not None:
            found[_open_camera(source, device)] = None
        elif path.is_file():
            found[path] = None
        elif path.is_dir():
            found |= dict.fromkeys(_usable(source, sorted(path.iterdir())))
        elif glob.has_magic(source):
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
            found |= dict.fromkeys(_usable(source, matches))
        else:
            raise YoloflowError(f"{source}: there is no such file or folder{similar_paths(path)}")
    return list(found)


def camera_device(source: str) -> str | None:
    """Returns the device number or the address of a camera or stream; None for any other source."""
    if source.startswith(CAMERA):
        return source.removeprefix(CAMERA)
    if _STREAM.match(source) or (source.isdecimal() and not Path(source).exists()):
        return source
    return None


def _open_camera(source: str, device: str) -> Camera:
    """Opens a camera; frames are taken when they are asked for."""
    if not device:
        raise YoloflowError(f"{source}: which camera? camera:0 is the first")
    is_stream = bool(_STREAM.match(device))
    try:
        place = urlsplit(device).path
    except ValueError as error:
        raise YoloflowError(f"{source}: is no address of a stream ({error})") from error
    if is_stream and Path(place).suffix.lower() in IMAGE_SUFFIXES:
        raise YoloflowError(
            f"{source}: images are not fetched from the web; fetch it (curl -O {device}) and give the file"
        )
    capture = _open_capture(device) if is_utf8(device) else cv2.VideoCapture()
    if capture.isOpened():
        return Camera(source, capture, device)
    if is_stream:
        raise YoloflowError(
            f"{source}: no video stream can be read there: no server answers, it wants a user and password "
            f"(rtsp://USER:PASSWORD@HOST/...), or it sends no video; try it in a player: ffplay {device}"
        )
    known = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*")))
    raise YoloflowError(
        f"{source}: there is no such camera, it may not be used, or another program uses it "
        f"(camera devices here: {known or 'none'})"
    )


def _open_capture(device: str) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", _FFMPEG_SILENT)  # read when the first video is opened
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # our errors say it better
    try:
        is_number = device.isascii() and device.isdecimal()
        return cv2.VideoCapture(min(int(device), _MOST_DEVICES) if is_number else device)
    finally:
        cv2.utils.logging.setLogLevel(level)


def _usable(source: str, candidates: Sequence[Path]) -> list[Path]:
    # A link that leads nowhere is a file that cannot be read.
    files = [
        path for path in candidates if (path.is_file() or not path.exists()) and not path.name.startswith(".")
    ]
    suffixes = (IMAGE_SUFFIXES - DRAWING_SUFFIXES) | VIDEO_SUFFIXES
    usable = [path for path in files if path.suffix.lower() in suffixes]
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


def readings(sources: Sequence[Source]) -> Iterator[Reading]:
    """For each image what decodes it when called, for each frame of a video what gives it.

    Nothing of a list or a video is read before it is asked for. The calls of images may be made in any
    order and thread.

    Args:
        sources: of `open_sources`.
    """
    for source in sources:
        if isinstance(source, Camera):
            yield from _camera_readings(source)
            continue
        for path in [source] if isinstance(source, Path) else source:
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield from _video_readings(path)
            else:
                yield partial(_read_image, path)


def _read_image(path: Path) -> Frame | Problem:
    try:
        return Frame(path, decode_named(str(path)))
    except YoloflowError as error:
        detail = str(error).removeprefix(f"{path}: ")
        return Problem(str(path), None, "unreadable-image", "drop-image", detail)


def _known(result: Frame | Problem) -> Reading:
    return lambda: result


def _video_readings(path: Path) -> Iterator[Reading]:
    if not is_utf8(path):
        detail = "its name is no UTF-8, and OpenCV opens no such video; rename it"
        yield _known(Problem(str(path), None, "unreadable-video", "drop-image", detail))
        return
    capture = _open_capture(str(path))
    announced = round(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    count = 0
    for image, fps in _frames(capture):
        yield _known(Frame(path, image, count, fps))
        count += 1
    if count == 0:
        detail = "not a video that can be read: missing, damaged, empty or of an unknown codec"
        yield _known(Problem(str(path), None, "unreadable-video", "drop-image", detail))
    elif count < announced:
        detail = f"ends after {count} of the {announced} frames that it announces"
        yield _known(Problem(str(path), None, "short-video", "keep", detail))


def _camera_readings(camera: Camera) -> Iterator[Reading]:
    """Frames until the camera ends; one that breaks off is opened again, a few times in a row at most."""
    is_live, capture = camera.is_live, camera.capture
    count = tries = 0
    while True:
        for image, fps in _frames(capture):
            yield _known(Frame(Path(camera.name), image, count, fps, camera.name))
            count, tries = count + 1, 0
        if not is_live or tries == len(_WAITS_SECONDS):
            break
        if tries == 0:
            logger.warning("%s: broke off after %d images; it is opened again", camera.name, count)
        time.sleep(_WAITS_SECONDS[tries])
        tries += 1
        capture = _open_capture(camera.device)
    tried = f", and {tries} tries to open it again failed" if tries else ""
    detail = f"gives no more images after {count}{tried}"
    yield _known(Problem(camera.name, None, "camera-ended", "keep", detail))


def _frames(capture: cv2.VideoCapture) -> Iterator[tuple[Uint8Array, float]]:
    """Yields each frame with the frames in a second, and closes the video."""
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        if not (np.isfinite(fps) and fps > 0):
            fps = _FALLBACK_FPS
        while capture.isOpened():
            is_read, image = capture.read()
            if not is_read:
                break
            yield np.asarray(image, np.uint8), fps
    finally:
        capture.release()
