"""Step 4: parameter groups, learning-rate and momentum schedules, optimizers, weight averaging.

Names are loaded when first used: schedules need numpy only, so that a plan can be printed without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloflow.optim.ema import EMA
    from yoloflow.optim.groups import create_group_param
    from yoloflow.optim.optimizer import create_optimizer
    from yoloflow.optim.schedule import (
        Schedule,
        create_lr_scheduler,
        create_schedule,
        create_warmup_momentum_scheduler,
    )
    from yoloflow.optim.settings import OptimizerSettings, RunLength

__all__ = [
    "EMA",
    "OptimizerSettings",
    "RunLength",
    "Schedule",
    "create_group_param",
    "create_lr_scheduler",
    "create_optimizer",
    "create_schedule",
    "create_warmup_momentum_scheduler",
]

_HOMES = {
    "EMA": "ema",
    "OptimizerSettings": "settings",
    "RunLength": "settings",
    "Schedule": "schedule",
    "create_group_param": "groups",
    "create_lr_scheduler": "schedule",
    "create_optimizer": "optimizer",
    "create_schedule": "schedule",
    "create_warmup_momentum_scheduler": "schedule",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'yoloflow.optim' has no attribute {name!r}")
    return getattr(import_module(f"yoloflow.optim.{_HOMES[name]}"), name)
