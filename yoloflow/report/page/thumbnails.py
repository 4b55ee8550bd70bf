"""Thumbnails of the gallery: shrunk images as text, never more than there is room for."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yoloflow.data.decoder_messages import collected_standard_error
from yoloflow.report.box_drawing import shrunk
from yoloflow.structures import Uint8Array

LEVELS = ((640, 78), (560, 74), (480, 70), (400, 66), (320, 60), (240, 52))
"""Longer side in pixels and JPEG quality, best first."""
_HEAD = "data:image/jpeg;base64,"


@dataclass(slots=True)
class Thumbnails:
    """The images of a page.

    Attributes:
        texts: `data:` URIs by file.
        unreadable: files that are not there or are no images.
        left_out: files for which there was no room.
        side: longer side of the largest in pixels.
    """

    texts: dict[str, str]
    unreadable: set[str]
    left_out: set[str]
    side: int


def make_thumbnails(files: Sequence[str], budget: int) -> Thumbnails:
    """Shrinks images to the best level at which all fit; at the smallest one the last ones are left out.

    Args:
        files: paths, the most important first; one that comes twice counts once.
        budget: letters that all texts together may have.
    """
    read = {file: _read(file) for file in dict.fromkeys(files)}
    images = {file: image for file, image in read.items() if image is not None}
    for side, quality in LEVELS:
        texts = _encode(images, side, quality, budget)
        if len(texts) == len(images):
            break
    return Thumbnails(texts, read.keys() - images.keys(), images.keys() - texts.keys(), side)


def _encode(images: dict[str, Uint8Array], side: int, quality: int, budget: int) -> dict[str, str]:
    """Returns the texts of the first images, until the budget is spent."""
    texts: dict[str, str] = {}
    for file, image in images.items():
        done, content = cv2.imencode(".jpg", shrunk(image, side), [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        text = _HEAD + base64.b64encode(content.tobytes()).decode()
        budget -= len(text)
        if budget < 0:
            break
        texts[file] = text
    return texts


def _read(file: str) -> Uint8Array | None:
    """Returns an image of the largest level, turned as its EXIF says; None if the file holds none."""
    try:
        content = np.fromfile(file, np.uint8)
        with collected_standard_error():  # the evaluation named what decoders print
            image = cv2.imdecode(content, cv2.IMREAD_COLOR) if len(content) else None
    except (OSError, cv2.error):  # not there; more pixels than OpenCV takes
        return None
    return None if image is None else shrunk(np.asarray(image, np.uint8), LEVELS[0][0])
