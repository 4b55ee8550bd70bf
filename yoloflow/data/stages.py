"""The stages of a training, and the rule that fits their planned lengths to the epochs trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from yoloflow.data.samplers import SamplerName
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the training in which everything about the data stays the same.

    Attributes:
        steps: its length in steps (micro-batches); 0 if the training is too short for it.
        transforms: rows of its transforms.
        img_size: side of its images in pixels.
        multi_scale: factors on img_size between which each batch has its own side, or None.
        rect: whether batches are rectangles that fit their images.
        sampler: the name of its sampler.
        loss: hyper-parameters of the loss that change.
    """

    steps: int
    transforms: Sequence[Mapping[str, Any]]
    img_size: int
    multi_scale: Sequence[float] | None = None
    rect: bool = False
    sampler: SamplerName = "uniform"
    loss: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """Return size, sampler, transforms and loss in a line."""
        size = f"{self.img_size} px"
        if self.multi_scale:
            size += f" x {self.multi_scale[0]:g} to {self.multi_scale[1]:g}"
        words = [size, *(["rectangles"] if self.rect else []), f"sampler {self.sampler}"]
        words.append(" > ".join(str(row.get("func_name")) for row in self.transforms) or "no transforms")
        if self.loss:
            words.append("loss " + ", ".join(f"{key}={value}" for key, value in self.loss.items()))
        return "; ".join(words)


def fit_stages(
    stage_epochs: Sequence[int], num_epochs: int, unit: Literal["epochs", "steps"] = "epochs"
) -> list[int]:
    """Fit stage lengths so that they add up to `num_epochs`.

    The rule: **late stages keep their length, the first takes up the difference**; the last stage is where
    mosaic is off and is planned in absolute epochs, whatever the length of the run. One stage becomes
    `[num_epochs]`, two become `[num_epochs - last, last]`, both as in MindYOLO. With more than two the
    middle stages keep their length too (MindYOLO drops them). Where the first stage would fall below one
    epoch it keeps one, and the second gives up the rest, then the third, and so on: every stage keeps at
    least one epoch. Only when there are fewer epochs than stages do stages vanish: the first `num_epochs`
    of them get one epoch each, and a warning names the others.

    Args:
        stage_epochs: planned epochs of each stage, at least 1 each.
        num_epochs: epochs to train, at least 1.
        unit: of both.

    Returns:
        one length for each stage; 0 for a stage that vanished.

    Raises:
        YoloflowError: no stage, or a length below 1.
    """
    if not stage_epochs or min(stage_epochs) < 1:
        raise YoloflowError(
            f"stage_{unit}={list(stage_epochs)}: give at least one stage, of at least 1 of these each"
        )
    if num_epochs < 1:
        raise YoloflowError(f"{unit}={num_epochs}: train at least 1")
    fitted = list(stage_epochs)
    if num_epochs < len(fitted):
        gone = ", ".join(str(number) for number in range(num_epochs + 1, len(fitted) + 1))
        logger.warning(
            "%s=%d is fewer than the %d stages of the recipe: stage %s will not be trained",
            unit,
            num_epochs,
            len(fitted),
            gone,
        )
        return [1] * num_epochs + [0] * (len(fitted) - num_epochs)
    missing = num_epochs - sum(fitted)
    if missing >= 0:
        fitted[0] += missing
        return fitted
    for stage, planned in enumerate(fitted):
        fitted[stage] = max(1, planned + missing)
        missing += planned - fitted[stage]
    return fitted
