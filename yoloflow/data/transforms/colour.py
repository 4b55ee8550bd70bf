"""Transforms of colours; objects stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.structures import Uint8Array

MILD_PROB = 0.01
STRIP_ROWS = 64
HUES = 180


@dataclass(frozen=True, slots=True)
class HsvAugment(Transform):
    """Multiplies hue, saturation and value, each by one plus a random share of its gain.

    Attributes:
        hgain: largest relative change of the hue.
        sgain: of the saturation.
        vgain: of the value.
    """

    func_name: ClassVar[str] = "hsv_augment"
    hgain: float = 0.5
    sgain: float = 0.5
    vgain: float = 0.5

    def __post_init__(self) -> None:
        for name in ("hgain", "sgain", "vgain"):
            self.require_range(name, 0, 1)

    @property
    def does_nothing(self) -> bool:
        """True if all gains are 0."""
        return self.hgain == self.sgain == self.vgain == 0

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the sample in other colours."""
        factors = 1 + context.rng.uniform(-1, 1, 3) * (self.hgain, self.sgain, self.vgain)
        multiply = _multiplier(factors)
        changed = np.empty_like(sample.image)
        # Strip by strip the intermediate image stays in the processor's cache.
        for top in range(0, len(changed), STRIP_ROWS):
            strip = sample.image[top : top + STRIP_ROWS]
            hsv = np.asarray(cv2.cvtColor(strip, cv2.COLOR_BGR2HSV), np.uint8)
            multiply(hsv)
            cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=changed[top : top + STRIP_ROWS])
        return sample.with_image(changed)


def _multiplier(factors: NDArray[np.float64]) -> Callable[[Uint8Array], object]:
    """Return what multiplies HSV in place, rounding down; hues go round at 180, the others stop at 255."""
    if factors[0] * HUES <= 255:
        # OpenCV takes hues from 180 to 255 as it should, and rounds to the nearest: half less rounds down.
        matrix = np.full((3, 4), -0.4999, np.float32)
        matrix[:, :3] = np.diag(factors)
        return lambda hsv: cv2.transform(hsv, matrix, dst=hsv)
    values = np.arange(256)[:, None] * factors
    values[:, 0] %= HUES
    table = np.minimum(values, 255).astype(np.uint8)[None]
    return lambda hsv: cv2.LUT(hsv, table, dst=hsv)


@dataclass(frozen=True, slots=True)
class MildOps(Transform):
    """Applies blur, median blur, grey and local contrast, each to one image of a hundred.

    MindYOLO and others do this through the albumentations library, hence the name in recipes.
    """

    func_name: ClassVar[str] = "albumentations"
    # Its probability in MindYOLO is 0 either way.
    ignored: ClassVar[Mapping[str, object]] = {"random_resized_crop": None, "size": None}

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the sample, mostly untouched."""
        chosen = context.rng.random(len(_MILD_OPS)) < MILD_PROB
        if not chosen.any():
            return sample
        image = sample.image
        for apply, operation in zip(chosen, _MILD_OPS, strict=True):
            if apply:
                image = operation(image, context.rng)
        return sample.with_image(image)


def _blurred(image: Uint8Array, rng: np.random.Generator) -> Uint8Array:
    side = _odd_side(rng)
    return np.asarray(cv2.blur(image, (side, side)), np.uint8)


def _median_blurred(image: Uint8Array, rng: np.random.Generator) -> Uint8Array:
    return np.asarray(cv2.medianBlur(image, _odd_side(rng)), np.uint8)


def _grey(image: Uint8Array, rng: np.random.Generator) -> Uint8Array:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)


def _local_contrast(image: Uint8Array, rng: np.random.Generator) -> Uint8Array:
    lab = cv2.cvtColor(image, cv2.COLOR_BGR2LAB)
    equaliser = cv2.createCLAHE(clipLimit=rng.uniform(1, 4), tileGridSize=(8, 8))
    lab[..., 0] = equaliser.apply(lab[..., 0])
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2BGR), np.uint8)


def _odd_side(rng: np.random.Generator) -> int:
    """Draw the side of a blur in pixels: 3, 5 or 7."""
    return int(3 + 2 * rng.integers(3))


_MILD_OPS = (_blurred, _median_blurred, _grey, _local_contrast)
