"""Train and evaluate YOLO detectors in eight visible steps.

The public names are loaded when first used, so that `import yoloflow` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yoloflow.callbacks import (
        BaseCallback,
        EvalWhileTrain,
        ProfilerCallback,
        RunContext,
        SummaryCallback,
        create_callback,
    )
    from yoloflow.config.auto_settings import resolve_auto
    from yoloflow.config.reader import dump_config, load_config
    from yoloflow.data.concat_loader import ConcatLoader
    from yoloflow.data.dataset import COCODataset
    from yoloflow.data.loader import create_loader
    from yoloflow.data.sets import read_sets
    from yoloflow.detector import Detector
    from yoloflow.evaluation.test_function import Synchronizer, test
    from yoloflow.flow import train
    from yoloflow.losses import create_loss
    from yoloflow.models import create_model, freeze_layers, load_pretrain
    from yoloflow.optim.ema import EMA
    from yoloflow.optim.groups import create_group_param
    from yoloflow.optim.optimizer import create_optimizer
    from yoloflow.optim.schedule import create_lr_scheduler, create_schedule, create_warmup_momentum_scheduler
    from yoloflow.run.folder import choose_run
    from yoloflow.run.signals import TrainingStopped
    from yoloflow.runtime.device import Machine
    from yoloflow.runtime.ranks import init_ranks
    from yoloflow.structures import Detections, YoloflowError
    from yoloflow.train_step.step import (
        auto_mixed_precision,
        create_train_step_fn,
        get_gradreducer,
        get_loss_scaler,
    )
    from yoloflow.trainer.create import create_trainer
    from yoloflow.trainer.trainer import Trainer
    from yoloflow.weights.mindyolo import load_mindyolo

_HOMES = {
    "load_config": "config.reader",
    "dump_config": "config.reader",
    "init_ranks": "runtime.ranks",
    "Machine": "runtime.device",
    "resolve_auto": "config.auto_settings",
    "choose_run": "run.folder",
    "create_model": "models",
    "freeze_layers": "models",
    "load_pretrain": "models",
    "auto_mixed_precision": "train_step.step",
    "read_sets": "data.sets",
    "COCODataset": "data.dataset",
    "ConcatLoader": "data.concat_loader",
    "create_loader": "data.loader",
    "create_loss": "losses",
    "EMA": "optim.ema",
    "create_group_param": "optim.groups",
    "create_lr_scheduler": "optim.schedule",
    "create_optimizer": "optim.optimizer",
    "create_schedule": "optim.schedule",
    "create_warmup_momentum_scheduler": "optim.schedule",
    "create_train_step_fn": "train_step.step",
    "get_gradreducer": "train_step.step",
    "get_loss_scaler": "train_step.step",
    "BaseCallback": "callbacks",
    "EvalWhileTrain": "callbacks",
    "ProfilerCallback": "callbacks",
    "RunContext": "callbacks",
    "SummaryCallback": "callbacks",
    "create_callback": "callbacks",
    "Synchronizer": "evaluation.test_function",
    "test": "evaluation.test_function",
    "Trainer": "trainer.trainer",
    "create_trainer": "trainer.create",
    "train": "flow",
    "TrainingStopped": "run.signals",
    "Detector": "detector",
    "Detections": "structures",
    "YoloflowError": "structures",
    "load_mindyolo": "weights.mindyolo",
}

__version__ = "0.1.0"
__all__ = [
    "BaseCallback",
    "COCODataset",
    "ConcatLoader",
    "Detections",
    "Detector",
    "EMA",
    "EvalWhileTrain",
    "Machine",
    "ProfilerCallback",
    "RunContext",
    "SummaryCallback",
    "Synchronizer",
    "Trainer",
    "TrainingStopped",
    "YoloflowError",
    "__version__",
    "auto_mixed_precision",
    "choose_run",
    "create_callback",
    "create_group_param",
    "create_loader",
    "create_loss",
    "create_lr_scheduler",
    "create_model",
    "create_optimizer",
    "create_schedule",
    "create_train_step_fn",
    "create_trainer",
    "create_warmup_momentum_scheduler",
    "dump_config",
    "freeze_layers",
    "get_gradreducer",
    "get_loss_scaler",
    "init_ranks",
    "load_config",
    "load_mindyolo",
    "load_pretrain",
    "read_sets",
    "resolve_auto",
    "test",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'yoloflow' has no attribute {name!r}")
    value = getattr(import_module(f"yoloflow.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
