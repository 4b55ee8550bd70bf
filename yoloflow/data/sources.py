"""Pictures and videos that a user names: files, folders, patterns."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yoloflow.data.images import IMAGE_SUFFIXES, decode_image
from yoloflow.structures import Problem, Uint8Array, YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
_FALLBACK_FPS = 25.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture, or one frame of a video.

    Attributes:
        path: the file.
        image: (H, W, 3) uint8 BGR, turned as the file's EXIF or rotation mark says.
        number: 0-based number in the video; None for a picture.
        fps: frames of the video in a second; None for a picture.
    """

    path: Path
    image: Uint8Array
    number: int | None = None
    fps: float | None = None


def find_files(sources: Sequence[str]) -> list[Path]:
    """The picture and video files that the sources name, in order, each once.

    A folder gives the pictures and videos directly in it, a pattern (`shots/**/*.jpg`) those that match, both
    sorted by name; other files in them are counted in the log. A file named itself is taken whatever its
    name ends in.

    Args:
        sources: files, folders and glob patterns.

    Raises:
        YoloflowError: a source does not exist or holds neither picture nor video.
    """
    if not sources:
        raise YoloflowError(
            "no source given: name a picture, a video, a folder or a pattern such as 'shots/*.jpg'"
        )
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file():
            found[path] = None
        elif path.is_dir():
            found |= dict.fromkeys(_usable(source, sorted(path.iterdir())))
        elif glob.has_magic(source):
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
            found |= dict.fromkeys(_usable(source, matches))
        else:
            raise YoloflowError(f"{source}: there is no such file or folder{_similar(path)}")
    return list(found)


def _usable(source: str, candidates: Sequence[Path]) -> list[Path]:
    files = [path for path in candidates if path.is_file() and not path.name.startswith(".")]
    usable = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if not usable:
        folders = sum(path.is_dir() for path in candidates)
        pattern = Path(source) / "**" / "*.jpg"
        hint = f"; a pattern such as '{pattern}' looks into its {folders} folders" if folders else ""
        raise YoloflowError(f"{source}: holds no picture or video ({len(files)} other files){hint}")
    others = [path for path in files if path not in set(usable)]
    if others:
        logger.info(
            "%s: %d files are neither picture nor video, such as %s", source, len(others), others[0].name
        )
    return usable


def _similar(path: Path) -> str:
    """A hint at a misspelt name, from the folder in which it should be."""
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent} either"
    names = [entry.name for entry in path.parent.iterdir()]
    hint = nearest_names(path.name, names)
    return f"; {hint}" if hint.startswith("did you mean") else ""


def read_frames(paths: Sequence[Path], problems: list[Problem]) -> Iterator[Frame]:
    """Pictures and video frames one after the other, in constant memory.

    A file that cannot be read is logged, appended to `problems` and passed over; so is a video that ends
    before the number of frames that it announces, whose frames are kept.

    Args:
        paths: files of `find_files`.
        problems: takes what was found wrong.
    """
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            yield from _video_frames(path, problems)
            continue
        try:
            image = decode_image(str(path))
        except YoloflowError as error:
            detail = str(error).removeprefix(f"{path}: ")
            _report(problems, Problem(str(path), None, "unreadable-image", "drop-image", detail))
            continue
        yield Frame(path, image)


def _video_frames(path: Path, problems: list[Problem]) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
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
            yield Frame(path, np.asarray(image, np.uint8), count, fps)
            count += 1
    finally:
        capture.release()
    if count == 0:
        detail = "not a video that can be read: damaged, empty or of an unknown codec"
        _report(problems, Problem(str(path), None, "unreadable-video", "drop-image", detail))
    elif count < announced:
        detail = f"ends after {count} of the {announced} frames that it announces"
        _report(problems, Problem(str(path), None, "short-video", "keep", detail))


def _report(problems: list[Problem], problem: Problem) -> None:
    logger.warning("%s", problem)
    problems.append(problem)
