"""The base class of transforms, and the pipeline that runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from yoloflow.data.loading_time import SpanTimer
from yoloflow.data.transforms.sample import Sample
from yoloflow.structures import YoloflowError


class SampleSource(Protocol):
    """The images that transforms which mix several (mosaic, mixup) take the others from, by their numbers.

    They are the whole data set, or what `data.mosaic_partners=window` leaves of it for the sample.
    """

    def __len__(self) -> int: ...

    def load(self, index: int) -> Sample:
        """Return image `index` of these, decoded, its longer side resized to the context's image size."""
        ...


@dataclass(slots=True)
class TransformContext:
    """The things that a transform may use beside the sample.

    Attributes:
        rng: the sample's own generator, a pure function of (seed, epoch, index).
        source: other images, for transforms that mix several.
        image_size: longer side of the network input in pixels.
        shape_hw: its height and width; None for a square.
        timer: counts the seconds of each transform; None where nobody asks.
    """

    rng: np.random.Generator
    source: SampleSource
    image_size: int
    shape_hw: tuple[int, int] | None = None
    timer: SpanTimer | None = None

    @property
    def output_hw(self) -> tuple[int, int]:
        """Height and width that the transforms end with."""
        return self.shape_hw or (self.image_size, self.image_size)


@dataclass(frozen=True, slots=True)
class Transform(ABC):
    """One step on a sample: a frozen dataclass whose fields are its YAML parameters.

    A transform draws only from `context.rng`, returns a new sample and never writes into the arrays of the
    one it was given: they may belong to the image cache. A field `prob` replaces the probability of the step.

    Attributes:
        func_name: its name in YAML rows.
        ignored: parameters that are accepted and do nothing, with the value that each must have (None: any).
        must_be_last: no transform may follow it.
        mixes_images: it takes other images from the context's source.
    """

    func_name: ClassVar[str]
    ignored: ClassVar[Mapping[str, object]] = {}
    must_be_last: ClassVar[bool] = False
    mixes_images: ClassVar[bool] = False

    @property
    def does_nothing(self) -> bool:
        """True if these parameters change no sample; such a step is left out of the chain."""
        return False

    @abstractmethod
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the transformed sample."""

    def most_objects(self, count: int, per_image: int) -> int:
        """Return how many objects may come out, where `count` go in and another image has `per_image`."""
        return count

    def require_range(self, name: str, low: float, high: float) -> None:
        """Raise YoloflowError unless field `name` is from `low` to `high`."""
        value = getattr(self, name)
        if not low <= value <= high:
            raise YoloflowError(f"{self.func_name}: {name}={value} is outside {low} to {high}")


@dataclass(frozen=True, slots=True)
class Step:
    """A transform and the probability that a sample goes through it."""

    transform: Transform
    prob: float = 1.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A chain of transforms, each applied with its own probability."""

    steps: tuple[Step, ...] = ()

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the sample after the whole chain."""
        for _, outcome in self.trace(sample, context):
            sample = outcome
        return sample

    def trace(self, sample: Sample, context: TransformContext) -> Iterator[tuple[str, Sample]]:
        """Yield name and outcome of each step that is taken; steps of probability 1 draw no random number."""
        for step in self.steps:
            if step.prob >= 1 or context.rng.random() < step.prob:
                name = step.transform.func_name
                with context.timer.span(name) if context.timer else nullcontext():
                    sample = step.transform(sample, context)
                yield name, sample

    def most_objects(self, count: int, per_image: int) -> int:
        """Return how many objects may come out, as `Transform.most_objects` does."""
        for step in self.steps:
            count = step.transform.most_objects(count, per_image)
        return count

    @property
    def mixes_images(self) -> bool:
        """True if some step takes other images from the context's source."""
        return any(step.transform.mixes_images for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)
