"""What a transform is, and how a chain of them is run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

from yoloflow.structures import Sample, TransformContext, YoloflowError


class Transform(ABC):
    """One step on a sample: a small frozen dataclass whose fields are its YAML parameters.

    A transform draws only from `context.rng`, returns a new sample and never writes into the arrays of the
    one it was given: they may belong to the image cache.
    """

    __slots__ = ()
    func_name: ClassVar[str]

    @property
    def does_nothing(self) -> bool:
        """Whether these parameters change no sample; such a step is left out of the chain."""
        return False

    @abstractmethod
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """The transformed sample."""

    def most_objects(self, count: int, per_image: int) -> int:
        """Objects that may come out at most, where `count` go in and another image has `per_image`."""
        return count


@dataclass(frozen=True, slots=True)
class Step:
    """A transform and the probability that a sample goes through it."""

    transform: Transform
    prob: float = 1.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Transforms, one after the other, each gated by its own probability."""

    steps: tuple[Step, ...] = ()

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """The sample after the whole chain."""
        for _, outcome in self.trace(sample, context):
            sample = outcome
        return sample

    def trace(self, sample: Sample, context: TransformContext) -> Iterator[tuple[str, Sample]]:
        """Name and outcome of each step that is taken; steps of probability 1 draw no gate."""
        for step in self.steps:
            if step.prob >= 1 or context.rng.random() < step.prob:
                name = step.transform.func_name
                with context.clock.span(name) if context.clock else nullcontext():
                    sample = step.transform(sample, context)
                yield name, sample

    def most_objects(self, count: int, per_image: int) -> int:
        """Objects that may come out at most, where `count` go in and another image has `per_image`."""
        for step in self.steps:
            count = step.transform.most_objects(count, per_image)
        return count

    def __len__(self) -> int:
        return len(self.steps)


def require_range(func_name: str, name: str, value: float, low: float, high: float) -> None:
    """Raise YoloflowError unless `low <= value <= high`."""
    if not low <= value <= high:
        raise YoloflowError(f"{func_name}: {name}={value} is outside {low} to {high}")
