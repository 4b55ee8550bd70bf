"""A data set in memory whose objects are its bright pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from yoloflow.data.transforms import Sample
from yoloflow.data.transforms.canvas import Canvas

IMAGE_SIZE = 160


@dataclass
class ToyImages:
    """Images with one bright object each, of a colour that tells the class."""

    polygons: bool = False
    smooth: bool = False
    size: int = IMAGE_SIZE
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(5)
        for index in range(12):
            height, width = (self.size, self.size * 3 // 4) if index % 2 else (self.size * 3 // 4, self.size)
            self.samples.append(self._draw(rng, index, height, width))

    def _draw(self, rng: np.random.Generator, index: int, height: int, width: int) -> Sample:
        image = np.zeros((height, width, 3), np.uint8)
        w, h = rng.integers(self.size // 6, self.size // 2, 2)
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        if self.smooth:
            noise = cv2.GaussianBlur(rng.random(image.shape, np.float32), (0, 0), 6)
            image = cv2.normalize(noise, noise, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
        elif self.polygons:
            points = np.array(
                [[x + w / 2, y], [x + w, y + h / 2], [x + w / 2, y + h], [x, y + h / 2]], np.float32
            )
            cv2.fillPoly(image, [np.round(points * 16 - 8).astype(np.int32)], (255, 255, 255), shift=4)
        else:
            image[y : y + h, x : x + w] = 255
        polygon = points if self.polygons else np.zeros((0, 2), np.float32)
        box = np.array([[x, y, x + w, y + h]], np.float32)
        return Sample(Canvas.of_image(image), box, np.array([index % 5]), [polygon], index, (height, width))

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, index: int) -> Sample:
        return self.samples[index]
