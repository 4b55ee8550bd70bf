"""Rules of the schedules: the published ones, and all deviations of the variant "mindyolo"."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from yoloflow.optim.settings import OptimizerSettings, RunLength

Float64Array = NDArray[np.float64]
Variant = Literal["published", "mindyolo"]


class ScheduleRules:
    """The published rules."""

    def table_length(self, length: RunLength) -> RunLength:
        """Returns the length of the training that warm-up and curve are laid out for."""
        return length

    def peak_groups(self, settings: OptimizerSettings) -> frozenset[str]:
        """Returns the groups whose warm-up aims at `lr_init` instead of the curve's present value."""
        return settings.strategy.peak_groups

    def momentum_position(self, update: Float64Array, warmup_updates: int) -> Float64Array:
        """Returns the positions in the momentum's warm-up of updates (U,)."""
        return update

    def cooldown_epochs(self, settings: OptimizerSettings, length: RunLength) -> int:
        """Returns the epochs at the final rate, a third of the training at most.

        YOLOX's 15 are meant for 300; all of a short training at the final rate would teach it little.
        """
        return min(settings.cooldown_epochs, length.epochs // 3)


class MindYOLORules(ScheduleRules):
    """The reference's rules."""

    def table_length(self, length: RunLength) -> RunLength:
        """Returns the length in micro-batches: tables made for these are read by the number of the update.

        With `accumulate=k` the warm-up so takes k times as long, and the rate never decays.
        """
        return replace(length, accumulate=1)

    def peak_groups(self, settings: OptimizerSettings) -> frozenset[str]:
        """Returns YOLOv7's biases too."""
        return frozenset({"bias"}) if settings.group_param == "yolov7" else super().peak_groups(settings)

    def momentum_position(self, update: Float64Array, warmup_updates: int) -> Float64Array:
        """Returns positions that stop one update early, so that the final momentum is never reached."""
        return np.minimum(update, max(warmup_updates - 2, 0))

    def cooldown_epochs(self, settings: OptimizerSettings, length: RunLength) -> int:
        """Returns the epochs as they are set, be they the whole training."""
        return settings.cooldown_epochs


RULES: dict[Variant, ScheduleRules] = {"published": ScheduleRules(), "mindyolo": MindYOLORules()}
