"""The table of a profile, and what would make the training faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from yoloflow.callbacks.base import RunContext
from yoloflow.data.loading_time import describe_work

_ROWS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Seconds of one step.

    Attributes:
        parts: by part: forward, loss, backward, update, EMA.
        rows: of the forward pass, by row of the network and its class.
        convolutions: of all convolutions, both ways.
        images: of a batch.
        is_device_time: whether they are an accelerator's, or the CPU's.
    """

    parts: Mapping[str, float]
    rows: Mapping[str, float]
    convolutions: float
    images: int
    is_device_time: bool

    @property
    def seconds(self) -> float:
        """Seconds of all parts."""
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """Returns the figures of `profile.json`, in milliseconds."""
        return {
            "images": self.images,
            "is_device_time": self.is_device_time,
            "milliseconds": {name: round(1000 * part, 3) for name, part in self.parts.items()},
            "rows": {name: round(1000 * part, 3) for name, part in self.rows.items()},
            "convolutions": round(1000 * self.convolutions, 3),
        }


def table(step: StepProfile, spent: Mapping[str, float], steps: int) -> Iterator[str]:
    """Yields the lines of the table.

    Args:
        step: the recorded steps.
        spent: seconds of the whole training, by kind of activity.
        steps: how many steps the whole training took.
    """
    unit = "device ms" if step.is_device_time else "ms"
    yield f"{f'a step of {step.images} images':40} {unit:>10} {'share':>6}"
    largest = sorted(step.rows.items(), key=lambda row: -row[1])
    for name, seconds in step.parts.items():
        yield _line(name, seconds, step.seconds)
        if name == "forward":
            for row, part in largest[:_ROWS_SHOWN]:
                yield _line(f"  {row}", part, step.seconds)
            if others := largest[_ROWS_SHOWN:]:
                rest = sum(part for _, part in others)
                yield _line(f"  the {len(others)} other rows", rest, step.seconds)
    yield _line("convolutions in all this", step.convolutions, step.seconds)
    yield _line("wait for data, of all steps", spent.get("wait for data", 0.0) / max(steps, 1), step.seconds)
    total = sum(spent.values())
    yield f"{'the training':40} {'s':>10} {'share':>6}"
    for kind, seconds in sorted(spent.items(), key=lambda entry: -entry[1]):
        yield f"{kind:40} {seconds:10.1f} {seconds / total:6.0%}"


def _line(name: str, seconds: float, whole: float) -> str:
    return f"{name:40.40} {1000 * seconds:10.1f} {seconds / whole:6.0%}"


def advice(step: StepProfile, spent: Mapping[str, float], context: RunContext) -> list[str]:
    """Returns what to change, the largest part of the time first to be looked at."""
    total = sum(spent.values())
    shares = {kind: seconds / total for kind, seconds in spent.items()}
    settings = context.train_step.settings
    remarks = (
        (
            shares.get("wait for data", 0.0) > 0.1,
            f"the step waits for data (loading: {describe_work(context.loading_seconds)}): "
            "data.cache=ram, or more data.num_parallel_workers",
        ),
        (
            shares.get("evaluation", 0.0) > 0.3,
            "evaluation takes much of the time: a larger run_eval_interval",
        ),
        (shares.get("states", 0.0) > 0.05, "states take much time: larger save_steps and save_minutes"),
        (
            step.is_device_time and context.train_step.forward_loss.is_float32,
            "the network computes in float32: amp_level=auto takes the half precision that is native here",
        ),
        (not settings.channels_last, "maps lie NCHW: channels_last=auto takes the faster layout"),
        (
            settings.jit is not True and step.convolutions < 0.7 * step.seconds,
            f"{1 - step.convolutions / step.seconds:.0%} of the step are no convolutions: "
            "jit=true compiles them (the first step then takes minutes)",
        ),
        (
            step.parts.get("loss", 0.0) > 0.25 * step.seconds,
            "the loss takes much of the step: fewer objects in an image (mosaic, mixup), or jit=true",
        ),
    )
    found = [text for holds, text in remarks if holds]
    nothing = "nothing stands out; a smaller img_size or network takes less time"
    return [f"to change: {text}" for text in found or [nothing]]
