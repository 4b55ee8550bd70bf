"""Boxes and masks drawn on images, and images side by side."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.outlines import pixels_of_mask
from yoloflow.structures import Float32Array, Int64Array, RunLengthMask, Uint8Array

Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Height of a capital letter of that font at scale 1, in pixels.
_FONT_HEIGHT = 21.0
_READABLE_SIDE = 480
"""Pixels of the longer side of a drawn image at least."""
_GRID_GAP = 4
_GRID_COLOUR = 40
_LEAST_CAPTION = 24
_WHITE = (255, 255, 255)
# Share of a mask's colour in its pixels.
_OPACITY = 0.45


def class_colour(number: int) -> Colour:
    """Returns the BGR colour of a class: hues a golden angle apart, so that neighbours differ clearly."""
    hue = (0.58 + number * 0.618034) % 1.0
    saturation, value = ((0.85, 0.95), (0.6, 1.0), (0.95, 0.7))[number // 8 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def text_colour(background: Colour) -> Colour:
    """Returns black or white, whichever is easier to read on a BGR background."""
    blue, green, red = background
    return (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else (255, 255, 255)


def draw_detections(
    image_bgr: Uint8Array,
    boxes_xyxy: Float32Array,
    classes: Int64Array,
    scores: Float32Array | None,
    names: Sequence[str],
    masks: Sequence[RunLengthMask] | None = None,
    text_side: int | None = None,
) -> Uint8Array:
    """Returns a copy of an image with labelled boxes over their masks; the best detection lies on top.

    A mask is filled half transparent, with its outline around it, holes included. Line width and text size
    follow the size of the image.

    Args:
        image_bgr: (H, W, 3) uint8.
        boxes_xyxy: (N, 4) corner boxes in pixels.
        classes: (N,) class numbers.
        scores: (N,) in 0..1, or None for ground truth.
        names: class names in class order; a class beyond them is labelled by its number.
        masks: of each box, at the image's size or another of its proportions; None draws none.
        text_side: pixels that line width and text size follow, such as those of the cell that images of
            several sizes are shown in; the shorter side of the image by default.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    canvas = image_bgr.copy()
    side = min(canvas.shape[:2]) if text_side is None else text_side
    line_width = max(1, round(side / 300))
    order = range(len(boxes_xyxy)) if scores is None else np.argsort(scores, kind="stable").tolist()
    if masks is not None:
        for k in order:
            _draw_mask(canvas, pixels_of_mask(masks[k]), class_colour(int(classes[k])), line_width)
    for k in order:
        number = int(classes[k])
        text = names[number] if 0 <= number < len(names) else str(number)
        if scores is not None:
            text = f"{text} {scores[k]:.2f}"
        colour = class_colour(number)
        corners = _pixel_corners(boxes_xyxy[k], canvas)
        cv2.rectangle(canvas, corners[:2], corners[2:], colour, line_width)
        _draw_label(canvas, text, corners, colour, side)
    return canvas


def _draw_mask(canvas: Uint8Array, pixels: Uint8Array, colour: Colour, line_width: int) -> None:
    height, width = canvas.shape[:2]
    if pixels.shape != (height, width):
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    x, y, columns, rows = cv2.boundingRect(pixels)
    if not columns:
        return
    inside = np.s_[y : y + rows, x : x + columns]
    part, covered = canvas[inside], pixels[inside] > 0
    part[covered] = np.rint((1 - _OPACITY) * part[covered] + _OPACITY * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(pixels[inside], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(canvas, contours, -1, colour, line_width, offset=(x, y))


def cut_out(image_bgr: Uint8Array, box_xyxy: Sequence[float]) -> Uint8Array:
    """Returns the pixels that a box touches, at least one."""
    height, width = image_bgr.shape[:2]
    x1, y1, x2, y2 = box_xyxy
    left, top = min(max(math.floor(x1), 0), width - 1), min(max(math.floor(y1), 0), height - 1)
    return image_bgr[top : max(math.ceil(y2), top + 1), left : max(math.ceil(x2), left + 1)]


def _pixel_corners(box: NDArray[np.floating], canvas: Uint8Array) -> tuple[int, int, int, int]:
    """Returns first and last pixel of a box, inside the image."""
    height, width = canvas.shape[:2]
    pixels = np.nan_to_num(np.asarray(box, np.float64)).round() - (0, 0, 1, 1)
    x1, y1, x2, y2 = pixels.clip(0, (width - 1, height - 1) * 2).astype(np.int64).tolist()
    return x1, y1, x2, y2


def _draw_label(
    canvas: Uint8Array, text: str, corners: tuple[int, int, int, int], colour: Colour, side: int
) -> None:
    """Writes text on a filled strip above the box, or inside it where there is no room above."""
    width, line_width = canvas.shape[1], max(1, round(side / 300))
    letter_height = min(max(side / 45, 7.0), 40.0)
    scale = letter_height / _FONT_HEIGHT
    thickness = max(1, round(letter_height / 9))
    # OpenCV's stroke fonts hold ASCII alone: others would all become question marks of the same look.
    ascii_text = text.encode("ascii", "replace").decode()
    (text_width, text_height), below = cv2.getTextSize(ascii_text, _FONT, scale, thickness)
    margin = max(1, round(letter_height / 5))
    strip_width, strip_height = text_width + 2 * margin, text_height + below + 2 * margin
    x = min(max(corners[0] - line_width // 2, 0), max(width - strip_width, 0))
    y = corners[1] - strip_height if corners[1] >= strip_height else corners[1]
    cv2.rectangle(canvas, (x, y), (x + strip_width - 1, y + strip_height - 1), colour, cv2.FILLED)
    origin = (x + margin, y + margin + text_height)
    cv2.putText(canvas, ascii_text, origin, _FONT, scale, text_colour(colour), thickness, cv2.LINE_AA)


def enlarged(image: Uint8Array) -> Uint8Array:
    """Returns a small image so much larger, by a whole factor, that captions on it can be read."""
    factor = -(-_READABLE_SIDE // max(image.shape[:2]))
    if factor == 1:
        return image
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def cell_of_grid(images: Sequence[Uint8Array]) -> tuple[int, int]:
    """Returns height and width of the median image, to which a grid fits all."""
    height, width = (int(np.median([image.shape[axis] for image in images])) for axis in (0, 1))
    return height, width


def draw_grid(
    images: Sequence[Uint8Array], columns: int, captions: Sequence[str] | None = None
) -> Uint8Array:
    """Places images side by side in equal cells, in reading order.

    A cell has the size of the median image; the others are shrunk or enlarged to fit it, in proportion.

    Args:
        images: (H, W, 3) uint8, of any sizes, at least one.
        columns: images in a row at most.
        captions: texts above the images; None for none.

    Returns:
        one (H, W, 3) uint8 image.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell_height, cell_width = cell_of_grid(images)
    bar_height = 0 if captions is None else max(_LEAST_CAPTION, round(cell_width / 18))
    pitch_y, pitch_x = bar_height + cell_height + _GRID_GAP, cell_width + _GRID_GAP
    shape = (rows * pitch_y + _GRID_GAP, columns * pitch_x + _GRID_GAP, 3)
    grid: Uint8Array = np.full(shape, _GRID_COLOUR, np.uint8)
    for k, image in enumerate(images):
        tile = fit_image(image, cell_height, cell_width)
        height, width = tile.shape[:2]
        top, left = k // columns * pitch_y + _GRID_GAP, k % columns * pitch_x + _GRID_GAP
        if captions is not None:
            _write_caption(grid[top : top + bar_height, left : left + cell_width], captions[k])
        y, x = top + bar_height + (cell_height - height) // 2, left + (cell_width - width) // 2
        grid[y : y + height, x : x + width] = tile
    return grid


def _write_caption(bar: Uint8Array, text: str) -> None:
    """Writes text on a dark bar, as large as it fits."""
    height, width = bar.shape[:2]
    bar[:] = 0
    margin = height // 4
    (text_width, _), _ = cv2.getTextSize(text, _FONT, 1, 1)
    scale = min(height / 2 / _FONT_HEIGHT, (width - 2 * margin) / max(text_width, 1))
    thickness = max(1, round(scale * _FONT_HEIGHT / 9))
    cv2.putText(bar, text, (margin, height * 3 // 4), _FONT, scale, _WHITE, thickness, cv2.LINE_AA)


def shrunk(image: Uint8Array, side: int) -> Uint8Array:
    """Shrinks an image until its longer side is `side` pixels; smaller ones stay."""
    return image if max(image.shape[:2]) <= side else fit_image(image, side, side)


def fit_image(image: Uint8Array, cell_height: int, cell_width: int) -> Uint8Array:
    """Resizes an image to the greatest size that fits a cell, in proportion."""
    height, width = image.shape[:2]
    ratio = min(cell_height / height, cell_width / width)
    new_height, new_width = max(1, round(height * ratio)), max(1, round(width * ratio))
    if (new_height, new_width) == (height, width):
        return image
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (new_width, new_height), interpolation=method), np.uint8)
