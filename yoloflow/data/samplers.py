"""Samplers: the images of an epoch in order, a pure function of (seed, epoch).

Every sampler gives as many images as the data set has, so an epoch has the same number of steps with each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

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
    if name not in get_args(SamplerName):
        raise YoloflowError(f"sampler={name}: unknown; {nearest_names(name, get_args(SamplerName))}")
    if name == "uniform":
        return UniformSampler(len(index), seed)
    images, classes, counts = _count_objects(index)
    images_of_class = np.bincount(classes)
    if name == "repeat_factor":
        share = images_of_class / len(index)
        factors = np.ones(len(index))
        np.maximum.at(factors, images, np.sqrt(REPEAT_THRESHOLD / share[classes]))
        return RepeatFactorSampler(factors, seed)
    if name == "class_aware":
        values = 1 / images_of_class[classes]
    else:
        values = counts / np.bincount(classes, counts)[classes]
    return WeightedSampler(_image_weights(images, values, len(index)), seed)


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng((seed, epoch))


def _count_objects(index: DatasetIndex) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Count objects by image and class, without regions to ignore: (P,) images, classes and counts."""
    images = index.box_images[~index.is_crowd]
    pairs = images * len(index.names) + index.classes[~index.is_crowd]
    pairs, counts = np.unique(pairs, return_counts=True)
    return pairs // len(index.names), pairs % len(index.names), counts


def _image_weights(images: Int64Array, values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Sum (P,) values by image, scaled so that images without objects keep their share of the data set."""
    weights = np.bincount(images, values, count)
    has_object = np.bincount(images, minlength=count) > 0
    shared = weights / max(float(weights.sum()), 1e-300) * has_object.mean()
    result: NDArray[np.float64] = np.where(has_object, shared, 1 / count)
    result /= result.sum()
    return result
