"""Images composed of several, drawn only when somebody needs the pixels.

A mosaic is a list of layers and a size. `random_perspective` composes its matrix with each layer's and draws
every image once, straight into the network input; whoever reads `Canvas.image` instead gets the composed
image. Both ways go through `Canvas.warp`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from yoloflow.data.transforms.axis_aligned import Axis, draw_axis_aligned
from yoloflow.data.transforms.fill import fill_outlines
from yoloflow.data.transforms.geometry import Matrix, move_polygons, transform_points, translation
from yoloflow.structures import Float32Array, Uint8Array

FILL = 114
"""Grey where no image lies."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One image on a canvas.

    Attributes:
        image: (H, W, 3) uint8.
        matrix: (3, 3) from the image's pixels to the canvas's.
        outline: (K, 2) polygon in canvas pixels outside of which nothing is drawn, or None.
    """

    image: Uint8Array
    matrix: Matrix
    outline: Float32Array | None = None


@dataclass(slots=True)
class Canvas:
    """Layers drawn in order on grey; each lies inside the canvas.

    Attributes:
        size_hw: height and width in pixels.
        layers: bottom first.
        drawn: the outcome at its own size, once it is there.
    """

    size_hw: tuple[int, int]
    layers: tuple[Layer, ...]
    drawn: Uint8Array | None = None

    @classmethod
    def of_image(cls, image: Uint8Array) -> Canvas:
        """Return the canvas that is one image."""
        height, width = image.shape[:2]
        return cls((height, width), (Layer(image, np.eye(3)),), image)

    @property
    def image(self) -> Uint8Array:
        """(H, W, 3) uint8; drawn on first use."""
        if self.drawn is None:
            self.drawn = self.warp(np.eye(3), self.size_hw)
        return self.drawn

    def add(self, layers: Iterable[Layer]) -> Canvas:
        """Return the canvas with more layers on top."""
        return Canvas(self.size_hw, (*self.layers, *layers))

    def warp(self, matrix: Matrix, size_hw: tuple[int, int]) -> Uint8Array:
        """Draw the layers through a matrix, each interpolated once.

        Args:
            matrix: (3, 3) from canvas pixels to output pixels.
            size_hw: height and width of the output.

        Returns:
            (H, W, 3) uint8, grey where no layer lies.
        """
        out = np.full((*size_hw, 3), FILL, np.uint8)
        for layer in self.layers:
            if layer.outline is None:
                _draw_image(out, layer.image, matrix @ layer.matrix)
            else:
                _draw_cut_out(out, layer, matrix)
        return out


def _draw_image(out: Uint8Array, image: Uint8Array, matrix: Matrix) -> None:
    """Draw an image through a matrix (image pixels to output pixels), touching only where it falls."""
    scale_x, shear_x, shift_x, shear_y, scale_y, shift_y, tilt_x, tilt_y, _ = matrix.ravel().tolist()
    if shear_x == shear_y == tilt_x == tilt_y == 0 and scale_x > 0 and scale_y > 0:
        x = Axis(scale_x, shift_x, image.shape[1], out.shape[1])
        y = Axis(scale_y, shift_y, image.shape[0], out.shape[0])
        draw_axis_aligned(out, image, x, y)
        return
    height, width = image.shape[:2]
    sides = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    corners = transform_points(sides, matrix)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    x1, y1 = max(math.floor(left), 0), max(math.floor(top), 0)
    x2, y2 = min(math.ceil(right), out.shape[1]), min(math.ceil(bottom), out.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    target = out[y1:y2, x1:x2]
    # OpenCV's coordinates name pixel centres by whole numbers, ours are half a pixel further.
    centred = translation(-x1 - 0.5, -y1 - 0.5) @ matrix @ translation(0.5, 0.5)
    size_wh, border = (x2 - x1, y2 - y1), cv2.BORDER_TRANSPARENT
    if tilt_x or tilt_y:
        cv2.warpPerspective(image, centred, size_wh, dst=target, flags=cv2.INTER_LINEAR, borderMode=border)
    else:
        cv2.warpAffine(image, centred[:2], size_wh, dst=target, flags=cv2.INTER_LINEAR, borderMode=border)


def _draw_cut_out(out: Uint8Array, layer: Layer, matrix: Matrix) -> None:
    """Draw the part of a layer that lies inside its outline."""
    assert layer.outline is not None
    outline = move_polygons([layer.outline], matrix, (out.shape[0], out.shape[1]))
    filled = fill_outlines(outline)[0]
    target = out[filled.window]
    if not target.size:
        return
    drawn = target.copy()
    _draw_image(drawn, layer.image, translation(-filled.left, -filled.top) @ matrix @ layer.matrix)
    cv2.copyTo(drawn, filled.pixels.astype(np.uint8), target)
