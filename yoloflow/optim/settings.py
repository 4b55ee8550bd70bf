"""Settings of the optimizer and of the running average, and the length of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from yoloflow.settings import NotNegative, Section, key_error
from yoloflow.structures import YoloflowError

OptimizerName = Literal["momentum", "nesterov", "sgd", "adamw"]
GroupParam = Literal["yolov3", "yolov4", "yolov5", "yolov7", "yolov8", "filter_bias_and_bn"]
ParameterKind = Literal["bias", "weight", "norm", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStrategy:
    """The division of a network's parameters into groups, and the settings of each group.

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


STRATEGIES: dict[GroupParam | None, GroupStrategy] = {
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


class OptimizerSettings(Section):
    """Optimizer, learning rates and warm-up; lengths in updates are optimizer updates."""

    optimizer: OptimizerName = Field(
        "momentum", description="update rule (the first three are SGD; nesterov switches its form on)"
    )
    lr_init: float = Field(0.01, gt=0, description="learning rate that the factors multiply")
    start_factor: NotNegative = Field(1.0, description="where the curve starts, times lr_init")
    end_factor: NotNegative = Field(0.01, description="where the curve ends, times lr_init")
    lr_scheduler: Literal["linear", "cosine", "constant", "yolox"] | None = Field(
        None, description="the curve (null: that of group_param)"
    )
    by_epoch: bool | None = Field(
        None, description="constant within an epoch (null: linear and cosine are, yolox is not)"
    )
    cooldown_epochs: int = Field(
        0, ge=0, description="last epochs at the final rate, at most a third (yolox)"
    )
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="factors of the rate by pattern of parameters, or of backbone; the last match counts",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum after the warm-up; AdamW's first beta")
    nesterov: bool = Field(False, description="Nesterov's form of the update")
    loss_scale: float = Field(1.0, gt=0, description="divides the gradients")
    warmup_epochs: NotNegative = Field(0.0, description="length of the warm-up")
    warmup_momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum at the first update (null: momentum)"
    )
    warmup_bias_lr: NotNegative = Field(
        0.0, description="learning rate of biases at the first update; others start at 0"
    )
    min_warmup_step: int = Field(0, ge=0, description="updates the warm-up has at least")
    max_warmup_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="part of all updates the warm-up has at most, for small data sets (null: no limit)",
    )
    group_param: GroupParam | None = Field(None, description="how parameters are grouped (null: one group)")
    gp_weight_decay: NotNegative = Field(
        0.0, description="weight decay of the decayed group for nbs images an update"
    )
    weight_decay: NotNegative = Field(0.0, description="weight decay where group_param is null")

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.uses_nesterov and self.momentum == 0.0:
            raise key_error("momentum", "Nesterov needs a momentum above 0; set it or nesterov=false")
        if self.group_param is not None and self.weight_decay:
            raise key_error(
                "weight_decay", f"not used with group_param={self.group_param}; set gp_weight_decay instead"
            )
        if self.group_param is None and self.gp_weight_decay:
            raise key_error("gp_weight_decay", "needs group_param; set that, or weight_decay instead")
        return self

    @property
    def uses_nesterov(self) -> bool:
        """True if the update is Nesterov's."""
        return self.optimizer == "nesterov" or (self.nesterov and self.optimizer != "adamw")

    @property
    def strategy(self) -> GroupStrategy:
        """The division of parameters that `group_param` names."""
        return STRATEGIES[self.group_param]

    @property
    def curve(self) -> str:
        """The learning-rate curve in force."""
        return self.lr_scheduler or self.strategy.curve


class AverageSettings(Section):
    """The running average of the weights."""

    ema: bool = Field(True, description="average the weights; evaluation uses the average")
    ema_decay: float = Field(0.9999, gt=0, lt=1, description="decay after many updates")
    ema_tau: float = Field(2000.0, gt=0, description="updates until the decay is near its end")
    ema_weight: str | None = Field(
        None, description="weights of the averaged network to start from: a file or a run folder"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLength:
    """The length of a training.

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
