"""A data set in memory whose pixels say which object they belong to: outlines of parts, holes and bays."""

from __future__ import annotations

import cv2
import numpy as np

from tests.support.toy_images import IMAGE_SIZE
from yoloflow.data.formats.outlines import join_parts
from yoloflow.data.transforms import Sample
from yoloflow.data.transforms.canvas import FILL, Canvas

CLASSES = 4
_FINE = 8


def red_of(number: int) -> int:
    """The red of the objects of a class; their green is 255 and their blue 0, all else is grey."""
    return number * 85


def objectness(image: np.ndarray) -> np.ndarray:
    """(H, W) 0 where no object is to 255 where one is."""
    return np.asarray(np.clip(image[..., 1].astype(int) - image[..., 0], 0, 255))


def _star(rng: np.random.Generator) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = np.where(np.arange(16) % 2, 1.0, rng.uniform(0.4, 0.8))
    return [np.stack((np.cos(angles), np.sin(angles)), 1) * radii[:, None]]


def _ring(rng: np.random.Generator) -> list[np.ndarray]:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1)
    return [circle, circle[::-1] * rng.uniform(0.3, 0.7)]


def _two_parts(rng: np.random.Generator) -> list[np.ndarray]:
    square = np.array([[-1, -1], [-0.2, -1], [-0.2, 1], [-1, 0.6]])
    return [square, -square[::-1] * rng.uniform(0.7, 1)]


def _angle(rng: np.random.Generator) -> list[np.ndarray]:
    width = rng.uniform(-0.6, 0)
    return [np.array([[-1, -1], [width, -1], [width, -width], [1, -width], [1, 1], [-1, 1]])]


SHAPES = (_star, _ring, _two_parts, _angle)


class PaintedObjects:
    """Images of two sizes with two objects each, that do not overlap."""

    def __init__(self, size: int = IMAGE_SIZE, count: int = 12) -> None:
        rng = np.random.default_rng(7)
        self.samples = [
            self._paint(rng, index, *((size, size * 3 // 4) if index % 2 else (size * 3 // 4, size)))
            for index in range(count)
        ]

    @staticmethod
    def _paint(rng: np.random.Generator, index: int, height: int, width: int) -> Sample:
        fine = np.full((height * _FINE, width * _FINE, 3), FILL, np.uint8)
        polygons, classes = [], []
        for half in range(2):
            shape = SHAPES[int(rng.integers(len(SHAPES)))](rng)
            number = int(rng.integers(CLASSES))
            radius = rng.uniform(0.2, 0.42, 2) * (width / 2, height)
            centre = (width * (0.25 + 0.5 * half), height / 2) + rng.uniform(-1, 1, 2)
            parts = [(part * radius + centre).astype(np.float32) for part in shape]
            corners = [np.rint(part * _FINE - 0.5).astype(np.int32) for part in parts]
            cv2.fillPoly(fine, corners, (0, 255, red_of(number)))
            polygons.append(join_parts(parts))
            classes.append(number)
        image = np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        boxes = np.array([[*one.min(0), *one.max(0)] for one in polygons], np.float32)
        return Sample(Canvas.of_image(image), boxes, np.array(classes), polygons, index, (height, width))

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> Sample:
        return self.samples[index]
