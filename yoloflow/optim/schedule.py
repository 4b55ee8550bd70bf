"""Learning rates and momentum of every optimizer update, as tables.

All tables have one value per optimizer update. Micro-batches that are accumulated into one update share its
value, so warm-up and decay take the same part of the training whatever `accumulate` is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yoloflow.optim.rules import RULES, Float64Array, Variant
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.structures import YoloflowError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("yoloflow")

# YOLOX's warm-up starts from this part of the initial rate.
YOLOX_WARMUP_START_FACTOR = 0.01


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rates and the momentum of each update.

    Attributes:
        lr_by_group: (U,) learning rates for each group name.
        momentum: (U,) momentum, the same for all groups.
    """

    lr_by_group: Mapping[str, Float64Array]
    momentum: Float64Array

    @property
    def num_updates(self) -> int:
        """U, the updates of the whole training."""
        return len(self.momentum)

    def lr(self, update: int) -> dict[str, float]:
        """Returns the learning rate of every group at a 0-based update; the last one's beyond the end."""
        row = min(update, self.num_updates - 1)
        return {name: float(table[row]) for name, table in self.lr_by_group.items()}

    def apply(self, optimizer: torch.optim.Optimizer, update: int) -> None:
        """Sets learning rate, times the group's factor, and momentum (AdamW: the first beta) of every group.

        Args:
            optimizer: with the groups of `create_group_param`.
            update: from 0.

        Raises:
            YoloflowError: the optimizer has a group that the schedule does not know.
        """
        rates = self.lr(update)
        momentum = float(self.momentum[min(update, self.num_updates - 1)])
        for group in optimizer.param_groups:
            name = group.get("name")
            if name not in rates:
                raise YoloflowError(f"optimizer group {name!r} is not in the schedule: {', '.join(rates)}")
            group["lr"] = rates[name] * group.get("lr_factor", 1.0)
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum


def linear_curve(position: Float64Array, length: float, start: float, end: float) -> Float64Array:
    """Returns a straight line from `start` at position 0 to `end` at position `length`."""
    return start + (end - start) * position / length


def cosine_curve(position: Float64Array, length: float, start: float, end: float) -> Float64Array:
    """Returns half a cosine from `start` to `end` (SGDR, Loshchilov and Hutter, equation 5)."""
    return end + 0.5 * (start - end) * (1.0 + np.cos(np.pi * position / length))


def quadratic_curve(position: Float64Array, length: float, start: float, end: float) -> Float64Array:
    """Returns a parabola with its minimum `start` at position 0, reaching `end` at position `length`."""
    return start + (end - start) * (position / length) ** 2


def yolox_curve(
    position: Float64Array, length: float, warmup: float, cooldown: float, peak: float, end: float
) -> Float64Array:
    """Returns YOLOX's curve (section 2.1): quadratic to `peak`, cosine to `end`, constant for `cooldown`."""
    rising = quadratic_curve(position, max(warmup, 1.0), peak * YOLOX_WARMUP_START_FACTOR, peak)
    falling = cosine_curve(position - warmup, max(length - warmup - cooldown, 1.0), peak, end)
    return np.where(position < warmup, rising, np.where(position < length - cooldown, falling, end))


def count_warmup_updates(settings: OptimizerSettings, length: RunLength) -> int:
    """Returns the number of optimizer updates in the warm-up.

    That is `warmup_epochs`, at least `min_warmup_step` updates, at most `max_warmup_fraction` of all updates.
    """
    updates = max(
        round(settings.warmup_epochs * length.steps_per_epoch / length.accumulate), settings.min_warmup_step
    )
    if settings.max_warmup_fraction is not None:
        updates = min(updates, max(1, math.floor(settings.max_warmup_fraction * length.num_updates)))
    return updates


def create_lr_scheduler(
    settings: OptimizerSettings, length: RunLength, variant: Variant = "published"
) -> dict[str, Float64Array]:
    """Computes the learning rate of every group at every optimizer update.

    The curve (linear, cosine, constant) is warmed up linearly from 0, the group "bias" from
    `warmup_bias_lr`, towards the value the curve has at that update; YOLOX's curve has a warm-up of its own.

    Args:
        settings: the recipe's optimizer section.
        length: how much training there is.
        variant: see `yoloflow/optim/rules.py`.

    Returns:
        group name -> (U,) float64.
    """
    rules = RULES[variant]
    table_length = rules.table_length(length)
    warmup_updates = count_warmup_updates(settings, table_length)
    if warmup_updates > length.num_updates:
        logger.warning(
            "the warm-up of %d updates is longer than the training of %d: the learning rate never reaches "
            "its curve; set optimizer.max_warmup_fraction (such as 0.1) or lower optimizer.min_warmup_step",
            warmup_updates,
            length.num_updates,
        )
    update = np.arange(length.num_updates, dtype=np.float64)
    cooldown_epochs = rules.cooldown_epochs(settings, length)
    if settings.curve == "yolox" and cooldown_epochs < settings.cooldown_epochs:
        logger.info(
            "optimizer.cooldown_epochs: %d of the %d epochs are at the final rate, not %d",
            *(cooldown_epochs, length.epochs, settings.cooldown_epochs),
        )
    curve = _curve(settings, table_length, update, warmup_updates, cooldown_epochs)
    if settings.curve == "yolox" or warmup_updates == 0:
        return dict.fromkeys(settings.strategy.group_names, curve)
    peak_groups = rules.peak_groups(settings)
    part = np.minimum(update / warmup_updates, 1.0)
    tables = {}
    for name in settings.strategy.group_names:
        first = settings.warmup_bias_lr if name == "bias" else 0.0
        aim = settings.lr_init if name in peak_groups else curve
        tables[name] = np.where(part < 1.0, first + (aim - first) * part, curve)
    return tables


def create_warmup_momentum_scheduler(
    settings: OptimizerSettings, length: RunLength, variant: Variant = "published"
) -> Float64Array:
    """Computes the momentum at every optimizer update: from `warmup_momentum` linearly to `momentum`.

    Args:
        settings: the recipe's optimizer section.
        length: how much training there is.
        variant: see `yoloflow/optim/rules.py`.

    Returns:
        (U,) float64.
    """
    rules = RULES[variant]
    update = np.arange(length.num_updates, dtype=np.float64)
    warmup_updates = count_warmup_updates(settings, rules.table_length(length))
    if settings.warmup_momentum is None or warmup_updates == 0:
        return np.full_like(update, settings.momentum)
    position = rules.momentum_position(update, warmup_updates)
    return np.interp(position, [0.0, warmup_updates], [settings.warmup_momentum, settings.momentum])


def create_schedule(
    settings: OptimizerSettings, length: RunLength, variant: Variant = "published"
) -> Schedule:
    """Computes learning rates and momentum of every optimizer update.

    Args:
        settings: the recipe's optimizer section.
        length: how much training there is.
        variant: see `yoloflow/optim/rules.py`.
    """
    return Schedule(
        create_lr_scheduler(settings, length, variant),
        create_warmup_momentum_scheduler(settings, length, variant),
    )


def ema_decay(update: float, decay: float = 0.9999, tau: float = 2000.0) -> float:
    """Returns the kept part of the averaged weights at the `update`-th averaging; it grows to `decay`."""
    return -decay * math.expm1(-update / tau)


def _curve(
    settings: OptimizerSettings,
    length: RunLength,
    update: Float64Array,
    warmup_updates: int,
    cooldown_epochs: int,
) -> Float64Array:
    # Positions are in micro-batches: these divide an epoch evenly, updates need not.
    position = update * length.accumulate
    by_epoch = settings.by_epoch if settings.by_epoch is not None else settings.curve != "yolox"
    if by_epoch:
        position = position // length.steps_per_epoch * length.steps_per_epoch
    start, end = settings.lr_init * settings.start_factor, settings.lr_init * settings.end_factor
    whole = float(length.num_micro_batches)
    if settings.curve == "linear":
        return linear_curve(position, whole, start, end)
    if settings.curve == "cosine":
        return cosine_curve(position, whole, start, end)
    if settings.curve == "yolox":
        warmup = float(warmup_updates * length.accumulate)
        cooldown = float(cooldown_epochs * length.steps_per_epoch)
        return yolox_curve(position, whole, warmup, cooldown, start, end)
    return np.full_like(position, start)
