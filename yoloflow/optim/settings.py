"""What the recipe's `optimizer` section says, and how long the training is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from yoloflow.structures import YoloflowError, nearest_names

ParameterKind = Literal["bias", "weight", "norm", "other"]

OPTIMIZER_NAMES = ("momentum", "nesterov", "sgd", "adamw")
CURVE_NAMES = ("linear", "cosine", "constant", "yolox")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStrategy:
    """How the parameters of a network are divided, and what each group gets.

    Attributes:
        group_of_kind: group name of every kind of parameter; the order of first mention is the groups' order.
        decayed_group: the one group with weight decay.
        curve: learning-rate curve where the recipe names none.
        is_decay_scaled: whether the decay grows with the batch (times total batch / nbs).
        peak_groups: groups whose warm-up aims at `lr_init` instead of the curve's present value.
    """

    group_of_kind: Mapping[ParameterKind, str]
    decayed_group: str
    curve: str
    is_decay_scaled: bool
    peak_groups: frozenset[str] = frozenset()

    @property
    def group_names(self) -> list[str]:
        """The groups in order."""
        return list(dict.fromkeys(self.group_of_kind.values()))


_THREE: Mapping[ParameterKind, str] = {"bias": "bias", "weight": "weight", "norm": "norm", "other": "norm"}
_TWO: Mapping[ParameterKind, str] = {
    "bias": "no_decay",
    "norm": "no_decay",
    "weight": "decay",
    "other": "decay",
}
_ONE: Mapping[ParameterKind, str] = {"bias": "all", "weight": "all", "norm": "all", "other": "all"}


def _three_groups(curve: str) -> GroupStrategy:
    return GroupStrategy(group_of_kind=_THREE, decayed_group="weight", curve=curve, is_decay_scaled=True)


STRATEGIES: dict[str | None, GroupStrategy] = {
    "yolov3": _three_groups("cosine"),
    "yolov4": GroupStrategy(
        group_of_kind=_TWO,
        decayed_group="decay",
        curve="cosine",
        is_decay_scaled=False,
        peak_groups=frozenset({"no_decay", "decay"}),
    ),
    "yolov5": _three_groups("linear"),
    "yolov7": _three_groups("cosine"),
    "yolov8": _three_groups("linear"),
    "filter_bias_and_bn": GroupStrategy(
        group_of_kind=_TWO, decayed_group="decay", curve="constant", is_decay_scaled=False
    ),
    None: GroupStrategy(group_of_kind=_ONE, decayed_group="all", curve="constant", is_decay_scaled=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """The keys of a recipe's `optimizer` section.

    Attributes:
        optimizer: "momentum", "nesterov" or "sgd" (heavy ball all three; "nesterov" switches Nesterov on), or
            "adamw" (`momentum` is its first beta).
        lr_init: initial learning rate, the curves' unit.
        start_factor: where a linear or cosine curve starts, times `lr_init`.
        end_factor: where the curve ends, times `lr_init`.
        lr_scheduler: "linear", "cosine", "constant", "yolox", or None for the curve of `group_param`.
        by_epoch: whether the curve is constant within an epoch; None: linear and cosine are, yolox is not.
        cooldown_epochs: last epochs at the final rate (yolox).
        momentum: final momentum.
        nesterov: Nesterov's form of the update.
        loss_scale: divides the gradients (MindSpore's optimizer argument; YOLOv4's recipe has 64). The flow
            passes it on as `StepSettings.loss_ratio`.
        warmup_epochs: length of the warm-up in epochs.
        warmup_momentum: momentum at the first update; None: no momentum warm-up.
        warmup_bias_lr: learning rate of the group "bias" at the first update; all other groups start from 0.
        min_warmup_step: the warm-up has at least so many optimizer updates.
        max_warmup_fraction: the warm-up is at most this fraction of all updates. Published recipes leave it
            off (None) and warm up for 1,000 updates at least, which small data sets may never reach.
        group_param: a key of `STRATEGIES`, or None for one group.
        gp_weight_decay: weight decay of the decayed group.
        weight_decay: weight decay where `group_param` is None.

    Raises:
        YoloflowError: a value that cannot be meant; the message names the key.
    """

    optimizer: str = "momentum"
    lr_init: float = 0.01
    start_factor: float = 1.0
    end_factor: float = 0.01
    lr_scheduler: str | None = None
    by_epoch: bool | None = None
    cooldown_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    loss_scale: float = 1.0
    warmup_epochs: float = 0.0
    warmup_momentum: float | None = None
    warmup_bias_lr: float = 0.0
    min_warmup_step: int = 0
    max_warmup_fraction: float | None = None
    group_param: str | None = None
    gp_weight_decay: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_name("optimizer", self.optimizer, OPTIMIZER_NAMES)
        if self.lr_scheduler is not None:
            _check_name("lr_scheduler", self.lr_scheduler, CURVE_NAMES)
        if self.group_param is not None:
            _check_name("group_param", self.group_param, [name for name in STRATEGIES if name is not None])
        for key in ("lr_init", "loss_scale"):
            _check_range(key, getattr(self, key), above=0.0)
        for key in ("start_factor", "end_factor", "cooldown_epochs", "warmup_epochs", "warmup_bias_lr"):
            _check_range(key, getattr(self, key))
        for key in ("min_warmup_step", "gp_weight_decay", "weight_decay"):
            _check_range(key, getattr(self, key))
        for key in ("momentum", "warmup_momentum"):
            if getattr(self, key) is not None:
                _check_range(key, getattr(self, key), below=1.0)
        if self.max_warmup_fraction is not None:
            _check_range("max_warmup_fraction", self.max_warmup_fraction, above=0.0, below=1.0 + 1e-12)
        if self.uses_nesterov and self.momentum == 0.0:
            raise YoloflowError(
                "optimizer.momentum: Nesterov needs a momentum above 0; set it or nesterov=false"
            )
        if self.group_param is not None and self.weight_decay:
            raise YoloflowError(
                f"optimizer.weight_decay: not used with group_param={self.group_param}; "
                "set gp_weight_decay instead"
            )
        if self.group_param is None and self.gp_weight_decay:
            raise YoloflowError(
                "optimizer.gp_weight_decay: needs group_param; set that, or weight_decay instead"
            )

    @property
    def uses_nesterov(self) -> bool:
        """Whether the update is Nesterov's."""
        return self.optimizer == "nesterov" or (self.nesterov and self.optimizer != "adamw")

    @property
    def strategy(self) -> GroupStrategy:
        """The division of parameters that `group_param` names."""
        return STRATEGIES[self.group_param]

    @property
    def curve(self) -> str:
        """The learning-rate curve in force."""
        return self.lr_scheduler or self.strategy.curve


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLength:
    """How much training there is.

    Attributes:
        epochs: passes over the data.
        steps_per_epoch: micro-batches an epoch on one device.
        total_batch_size: images of one micro-batch over all devices.
        accumulate: micro-batches in one optimizer update; an update may span the border of two epochs.
        nbs: nominal batch size, the images an update for which the weight decay is meant.

    Raises:
        YoloflowError: a number below 1, or fewer micro-batches than one update needs.
    """

    epochs: int
    steps_per_epoch: int
    total_batch_size: int
    accumulate: int = 1
    nbs: int = 64

    def __post_init__(self) -> None:
        for key in ("epochs", "steps_per_epoch", "total_batch_size", "accumulate", "nbs"):
            if getattr(self, key) < 1:
                raise YoloflowError(f"{key}={getattr(self, key)}: must be at least 1")
        if self.num_updates < 1:
            raise YoloflowError(
                f"accumulate={self.accumulate}: the training has only {self.num_micro_batches} micro-batches "
                "and so not one optimizer update; lower accumulate or train longer"
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def num_updates(self) -> int:
        """Optimizer updates of the whole training."""
        return self.num_micro_batches // self.accumulate

    @property
    def decay_factor(self) -> float:
        """Images an update over `nbs`: what scaled weight decay is multiplied by."""
        return self.total_batch_size * self.accumulate / self.nbs


def _check_name(key: str, value: str, known: list[str] | tuple[str, ...]) -> None:
    if value not in known:
        raise YoloflowError(f"optimizer.{key}={value}: unknown; {nearest_names(value, known)}")


def _check_range(key: str, value: float, above: float | None = None, below: float = math.inf) -> None:
    is_low = value <= above if above is not None else value < 0.0
    # Written so that NaN fails too.
    if is_low or not value < below:
        bound = f"above {above:g}" if above is not None else "at least 0"
        bound += "" if math.isinf(below) else f" and {'below' if below == 1.0 else 'at most'} 1"
        raise YoloflowError(f"optimizer.{key}={value}: must be {bound}")
