"""Heights and widths of batches, and the groups of images that share a batch where these depend on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yoloflow.structures import Int64Array, YoloflowError

Shape = tuple[int, int]
"""Height and width of a batch in pixels."""


@dataclass(frozen=True, slots=True)
class MultiScale:
    """Square batches, each with a side of its own: a pure function of (seed, epoch, batch).

    Attributes:
        sides: to draw from, in pixels.
    """

    sides: tuple[int, ...]
    seed: int = 0

    @property
    def smallest(self) -> Shape:
        """The shape of the smallest batch that there may be."""
        return min(self.sides), min(self.sides)

    def shape(self, images: Int64Array, epoch: int, batch: int) -> Shape:
        """Return the shape of global batch number `batch`: a square."""
        side = int(np.random.default_rng((self.seed, epoch, batch)).choice(self.sides))
        return side, side


def multi_scale_sides(img_size: int, factors: Sequence[float], stride: int) -> tuple[int, ...]:
    """List the multiples of `stride` from the first to the second of two factors times `img_size`.

    Raises:
        YoloflowError: there is none.
    """
    low, high = factors
    first, last = math.ceil(img_size * low / stride - 1e-9), math.floor(img_size * high / stride + 1e-9)
    if first < 1 or first > last:
        raise YoloflowError(
            f"multi_scale=[{low:g}, {high:g}] at img_size={img_size}: no multiple of the stride {stride} "
            f"lies between {img_size * low:g} and {img_size * high:g} pixels"
        )
    return tuple(stride * step for step in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class Rectangular:
    """Batches only as large as their images need at `img_size`, in multiples of the stride.

    Attributes:
        sizes_hw: (n, 2) sizes of the images, longer side img_size.
        shuffle: batches come in another order each epoch.
    """

    sizes_hw: Int64Array
    stride: int
    seed: int = 0
    shuffle: bool = True

    def arrange(self, groups: Int64Array, epoch: int) -> Int64Array:
        """Regroup (k, T) images by their proportions; within one proportion the drawn order decides."""
        images = groups.reshape(-1)
        height, width = self.sizes_hw[images].T
        regrouped = images[np.argsort(height / width, kind="stable")].reshape(groups.shape)
        if self.shuffle:
            regrouped = np.random.default_rng((self.seed, epoch)).permutation(regrouped)
        return regrouped

    @property
    def smallest(self) -> Shape:
        """The shape of the smallest batch of one image that there may be."""
        return self.shape(np.array([self._needed(self.sizes_hw).prod(1).argmin()]))

    def _needed(self, sizes_hw: Int64Array) -> Int64Array:
        """Sizes in cells of the stride that sizes in pixels need."""
        cells: Int64Array = -(-sizes_hw // self.stride)
        return cells

    def shape(self, images: Int64Array, epoch: int = 0, batch: int = 0) -> Shape:
        """Return the shape of a batch that all its images fit into."""
        height, width = (self._needed(self.sizes_hw[images].max(0)) * self.stride).tolist()
        return height, width

    def alike(self, images: Int64Array, batch_size: int) -> list[Int64Array]:
        """Group images that need exactly the same shape, at most `batch_size` in each batch.

        So an image's shape, and with it what the network sees of it, does not depend on the batch.
        """
        needed = self._needed(self.sizes_hw[images])
        _, group = np.unique(needed, axis=0, return_inverse=True)
        groups = [images[group == number] for number in np.unique(group)]
        return [
            alike[start : start + batch_size]
            for alike in groups
            for start in range(0, len(alike), batch_size)
        ]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Batches of one shape.

    Attributes:
        shape_hw: the shape.
    """

    shape_hw: Shape

    @property
    def smallest(self) -> Shape:
        """The shape."""
        return self.shape_hw

    def shape(self, images: Int64Array, epoch: int, batch: int) -> Shape:
        """Return the shape."""
        return self.shape_hw


Shapes = MultiScale | Rectangular | Fixed
"""Gives the batches of a stage their shapes."""
