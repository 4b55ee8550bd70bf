"""Pictures of the gallery: shrunk, as text, and never more than there is room for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from yoloflow.structures import Uint8Array

LEVELS = ((640, 78), (560, 74), (480, 70), (400, 66), (320, 60), (240, 52))
"""Longer side in pixels and JPEG quality, best first."""
_HEAD = "data:image/jpeg;base64,"


@dataclass(slots=True)
class Pictures:
    """The pictures of a page.

    Attributes:
        texts: `data:` URIs by file.
        unreadable: files that are not there or are no pictures.
        left_out: files for which there was no room.
        side: longer side of the largest in pixels.
    """

    texts: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    side: int = 0


def make_thumbnails(files: Sequence[str], budget: int) -> Pictures:
    """Pictures at the best level at which all of them fit; at the smallest one the last ones are left out.

    Args:
        files: paths, the most important first; one that comes twice counts once.
        budget: letters that all texts together may have.
    """
    pictures = Pictures()
    small: dict[str, Uint8Array] = {}
    for file in dict.fromkeys(files):
        image = _read(file)
        if image is None:
            pictures.unreadable.append(file)
        else:
            small[file] = _fit(image, LEVELS[0][0])
    for side, quality in LEVELS:
        texts = _encode(small, side, quality, budget)
        if len(texts) == len(small):
            break
    pictures.texts = texts
    pictures.left_out = [file for file in small if file not in texts]
    pictures.side = side
    return pictures


def _encode(images: dict[str, Uint8Array], side: int, quality: int, budget: int) -> dict[str, str]:
    """Texts of the first pictures, until the budget is spent."""
    texts: dict[str, str] = {}
    for file, image in images.items():
        done, content = cv2.imencode(".jpg", _fit(image, side), [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        text = _HEAD + base64.b64encode(content.tobytes()).decode()
        budget -= len(text)
        if budget < 0:
            break
        texts[file] = text
    return texts


def _read(file: str) -> Uint8Array | None:
    """A picture, turned as its EXIF says; None if the file is not there or is none."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError:
        return None
    if not len(content):
        return None
    try:
        image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    except cv2.error:  # more pixels than OpenCV takes
        return None
    return None if image is None else np.asarray(image, np.uint8)


def _fit(image: Uint8Array, side: int) -> Uint8Array:
    """Shrunk until the longer side is `side` pixels; smaller ones stay."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return image
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    shrunk: Uint8Array = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return shrunk
