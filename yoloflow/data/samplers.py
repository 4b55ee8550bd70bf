"""Samplers: the images of an epoch in order, a pure function of (seed, epoch).

Every sampler gives as many images as the data set has, so an epoch has the same number of steps with each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from yoloflow.structures import DatasetIndex, Int64Array, YoloflowError, nearest_names

SamplerName = Literal["uniform", "class_aware", "repeat_factor", "image_weights"]

Sampler = Callable[[int], Int64Array]
"""(epoch) -> (n,) positions in the data set."""

REPEAT_THRESHOLD = 0.001
"""Share of images below which `repeat_factor` repeats a class, as for LVIS."""


@dataclass(frozen=True, slots=True)
class UniformSampler:
    """Each image once, in a new permutation each epoch or, without `shuffle`, as they are listed."""

    count: int
    seed: int = 0
    shuffle: bool = True

    def __call__(self, epoch: int) -> Int64Array:
        """Return (n,) positions."""
        return _rng(self.seed, epoch).permutation(self.count) if self.shuffle else np.arange(self.count)


@dataclass(frozen=True, slots=True)
class WeightedSampler:
    """Images drawn with replacement.

    Attributes:
        weights: (n,) how likely each is, of sum 1.
    """

    weights: NDArray[np.float64]
    seed: int = 0

    def __call__(self, epoch: int) -> Int64Array:
        """Return (n,) positions."""
        return _rng(self.seed, epoch).choice(len(self.weights), len(self.weights), p=self.weights)


@dataclass(frozen=True, slots=True)
class RepeatFactorSampler:
    """Each image as often as its factor says, the fraction at random; a permutation of these, cut to n.

    Attributes:
        factors: (n,) of at least 1.
    """

    factors: NDArray[np.float64]
    seed: int = 0

    def __call__(self, epoch: int) -> Int64Array:
        """Return (n,) positions."""
        rng = _rng(self.seed, epoch)
        times = np.floor(self.factors + rng.random(len(self.factors))).astype(np.int64)
        return rng.permutation(np.repeat(np.arange(len(times)), times))[: len(times)]


def create_sampler(name: SamplerName, index: DatasetIndex, seed: int) -> Sampler:
    """Create the sampler that a stage names.

    - uniform: every image once, in a new permutation each epoch.
    - class_aware: a class drawn uniformly, then an image that shows it (Shen et al. 2016); images without
      objects come as often as they would by chance.
    - repeat_factor: images of rare classes more often, sqrt(t / f) times for the rarest class of the image,
      where f is the share of images that show it and t = 0.001 (Gupta et al. 2019).
    - image_weights: an image as often as the sum over its objects of 1 / objects of that class says; images
      without objects as often as they would by chance.

    Raises:
        YoloflowError: no such sampler.
    """
    if name == "uniform":
        return UniformSampler(len(index), seed)
    if name == "class_aware":
        return WeightedSampler(_class_aware_weights(index), seed)
    if name == "repeat_factor":
        return RepeatFactorSampler(_repeat_factors(index), seed)
    if name == "image_weights":
        return WeightedSampler(_object_weights(index), seed)
    raise YoloflowError(f"sampler={name}: unknown; {nearest_names(name, get_args(SamplerName))}")


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng((seed, epoch))


@dataclass(frozen=True, slots=True)
class _Shown:
    """The classes that images show: one entry for each image and class, without regions to ignore.

    Attributes:
        images: (P,) positions; classes: (P,) classes; counts: (P,) objects of the class in the image.
        num_images: of the data set.
    """

    images: Int64Array
    classes: Int64Array
    counts: Int64Array
    num_images: int

    @classmethod
    def of(cls, index: DatasetIndex) -> _Shown:
        images = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))[~index.is_crowd]
        pairs = images * len(index.names) + index.classes[~index.is_crowd]
        pairs, counts = np.unique(pairs, return_counts=True)
        return cls(pairs // len(index.names), pairs % len(index.names), counts, len(index))

    def sum_by_image(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the (n,) sums of the entries' values."""
        sums: NDArray[np.float64] = np.bincount(self.images, values, self.num_images).astype(np.float64)
        return sums

    @property
    def has_object(self) -> NDArray[np.bool_]:
        """(n,) whether the image has an object."""
        return np.bincount(self.images, minlength=self.num_images) > 0


def _with_background(weights: NDArray[np.float64], has_object: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Let images without objects keep their share of the data set; `weights` share out the rest."""
    shared = weights / max(float(weights.sum()), 1e-300) * has_object.mean()
    result: NDArray[np.float64] = np.where(has_object, shared, 1 / len(weights))
    result /= result.sum()
    return result


def _class_aware_weights(index: DatasetIndex) -> NDArray[np.float64]:
    shown = _Shown.of(index)
    images_of_class = np.bincount(shown.classes)
    return _with_background(shown.sum_by_image(1 / images_of_class[shown.classes]), shown.has_object)


def _object_weights(index: DatasetIndex) -> NDArray[np.float64]:
    shown = _Shown.of(index)
    objects_of_class = np.bincount(shown.classes, shown.counts)
    return _with_background(
        shown.sum_by_image(shown.counts / objects_of_class[shown.classes]), shown.has_object
    )


def _repeat_factors(index: DatasetIndex) -> NDArray[np.float64]:
    shown = _Shown.of(index)
    share = np.bincount(shown.classes) / len(index)
    factors = np.ones(len(index))
    np.maximum.at(factors, shown.images, np.sqrt(REPEAT_THRESHOLD / share[shown.classes]))
    return factors
