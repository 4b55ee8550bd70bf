"""Step 4 in MindYOLO's words: rates, parameter groups, optimizer and momentum from `**args.optimizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from yoloflow.mindyolo.refusal import refuse
from yoloflow.models.network import TrainedParameters
from yoloflow.optim import groups, schedule
from yoloflow.optim import optimizer as ours
from yoloflow.optim.rules import Float64Array
from yoloflow.optim.schedule import Schedule
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.structures import YoloflowError, nearest_names

Rates = Mapping[str, Float64Array]
"""Learning rates of every update, by the name of the parameter group."""

_LENGTH_KEYS = ("epochs", "steps_per_epoch", "total_batch_size", "accumulate", "nbs")
_OTHER_KEYS = ("variant", "checkpoint_path")


def _taken_apart(section: Mapping[str, Any]) -> tuple[OptimizerSettings, RunLength, Any]:
    """Returns the settings, the training's length and the variant of `args.optimizer`."""
    own = OptimizerSettings.model_fields
    known = [*own, *_LENGTH_KEYS, *_OTHER_KEYS]
    for key in section:
        if key not in known:
            raise YoloflowError(f"optimizer.{key}: unknown; {nearest_names(key, known)}")
    stated = {key: value for key, value in section.items() if value is not None}
    for key in ("epochs", "steps_per_epoch", "total_batch_size"):
        if key not in stated:
            raise YoloflowError(f"optimizer.{key}: is not set; set args.optimizer.{key} first")
    refuse(
        bool(stated.get("checkpoint_path")),
        f"checkpoint_path={stated.get('checkpoint_path')}",
        "an optimizer's state goes on with its run alone: `yoloflow train RECIPE resume=auto name=...`",
    )
    settings = OptimizerSettings(**{key: value for key, value in stated.items() if key in own})
    length = RunLength(**{key: value for key, value in stated.items() if key in _LENGTH_KEYS})
    return settings, length, section.get("variant", "published")


@dataclass(slots=True)
class Optimizer:
    """An optimizer with the learning rates of its groups.

    Attributes:
        optimizer: torch's.
        rates: of all updates, by group.
        settings: of the recipe's section.
        length: of the training.
        variant: see `yoloflow/optim/rules.py`.
    """

    optimizer: torch.optim.Optimizer
    rates: Rates
    settings: OptimizerSettings
    length: RunLength
    variant: str

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that it updates."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def schedule(self, warmup_momentum: Sequence[float] | None, warmup_step: int | None = None) -> Schedule:
        """Returns the learning rates, with a momentum for each update.

        Args:
            warmup_momentum: momentum of the updates from the first on; the last one stays. None: constant.
            warmup_step: steps after which the momentum does not change any more; None: not said.

        Raises:
            YoloflowError: the momentum changes after `warmup_step`.
        """
        momentum = np.full(self.length.num_updates, self.settings.momentum)
        if warmup_momentum is not None and len(warmup_momentum):
            given = np.array(warmup_momentum[: len(momentum)], np.float64)
            momentum[: len(given)], momentum[len(given) :] = given, given[-1]
            changes = np.flatnonzero(np.diff(momentum, prepend=momentum[:1]))
            last = int(changes[-1]) if len(changes) else 0
            refuse(
                warmup_step is not None and last > warmup_step,
                f"warmup_step={warmup_step}",
                f"warmup_momentum changes until update {last}; give both of the same warm-up",
            )
        return Schedule(self.rates, momentum)

    def set_train(self, mode: bool = True) -> Optimizer:
        """Returns the optimizer: torch's has no mode.

        Raises:
            YoloflowError: `mode` is false.
        """
        refuse(not mode, "set_train(False)", "torch's optimizers have no mode; call no update instead")
        return self


def create_lr_scheduler(**section: Any) -> Rates:
    """Returns the learning rates of every update by group, warm-up included.

    MindYOLO gives `lr_init` here and makes the tables in `create_group_param`; both are in this table.

    Args:
        **section: `**args.optimizer`.

    Raises:
        YoloflowError: a key is unknown, missing or of the wrong kind.
    """
    return schedule.create_lr_scheduler(*_taken_apart(section))


def create_group_param(params: TrainedParameters, **section: Any) -> list[dict[str, Any]]:
    """Divides parameters as `group_param` says.

    Args:
        params: `network.trainable_params()`.
        **section: `**args.optimizer`.

    Raises:
        YoloflowError: `params` is another list, or as `create_lr_scheduler`.
    """
    refuse(
        not isinstance(params, TrainedParameters),
        "params",
        "give network.trainable_params() as it is, which knows the layers that the parameters belong to; "
        "freeze_layers leaves some out",
    )
    settings, length, _ = _taken_apart(section)
    return groups.create_group_param(params.network, settings, length)


def create_optimizer(
    params: TrainedParameters | Sequence[dict[str, Any]],
    optimizer: str = "momentum",
    lr: float | Sequence[float] | Rates = 1e-3,
    **section: Any,
) -> Optimizer:
    """Creates the optimizer.

    Args:
        params: of `create_group_param`, or `network.trainable_params()`.
        optimizer: "momentum", "nesterov", "sgd" or "adamw".
        lr: of `create_lr_scheduler`; or a number, or one for each update, for all groups.
        **section: the other keys of `args.optimizer`.

    Raises:
        YoloflowError: as `create_lr_scheduler`, or learning rates that are too few or not of these groups.
    """
    section = {**section, "optimizer": optimizer}
    settings, length, variant = _taken_apart(section)
    if isinstance(params, TrainedParameters):
        params = create_group_param(params, **section)
    rates = _rates(lr, [str(group["name"]) for group in params], length.num_updates)
    return Optimizer(ours.create_optimizer(params, settings), rates, settings, length, variant)


def _rates(lr: float | Sequence[float] | Rates, names: Sequence[str], num_updates: int) -> Rates:
    if isinstance(lr, Mapping):
        missing = [name for name in names if name not in lr]
        refuse(bool(missing), "lr", f"has no rates of the groups {', '.join(missing)}")
        return lr
    if isinstance(lr, int | float):
        return dict.fromkeys(names, np.full(num_updates, float(lr)))
    refuse(len(lr) < num_updates, "lr", f"has {len(lr)} rates, the training has {num_updates} updates")
    return dict.fromkeys(names, np.array(lr, np.float64))


def create_warmup_momentum_scheduler(**section: Any) -> list[float] | None:
    """Returns the momentum of every update; None where `warmup_momentum` is not set.

    Args:
        **section: `**args.optimizer`.

    Raises:
        YoloflowError: as `create_lr_scheduler`.
    """
    settings, length, variant = _taken_apart(section)
    if settings.warmup_momentum is None:
        return None
    table: list[float] = schedule.create_warmup_momentum_scheduler(settings, length, variant).tolist()
    return table
