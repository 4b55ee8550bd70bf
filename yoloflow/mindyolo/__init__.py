"""MindYOLO's functions, with its names and arguments, on top of ours.

A script written for MindYOLO's eight steps (`examples/mindyolo_flow.py`) finds its functions here. Every
argument is used, or refused with the reason. What they return are our networks, losses, loaders and trainers.
"""

from yoloflow.evaluation.test_function import Synchronizer
from yoloflow.mindyolo import ms
from yoloflow.mindyolo.arguments import Arguments, load_args
from yoloflow.mindyolo.callbacks import CALLBACK_REGISTRY, BaseCallback, RunContext, create_callback
from yoloflow.mindyolo.data import COCODataset, ConcatDataset, create_loader
from yoloflow.mindyolo.evaluation import test
from yoloflow.mindyolo.network import (
    EMA,
    auto_mixed_precision,
    create_loss,
    create_model,
    freeze_layers,
    load_pretrain,
)
from yoloflow.mindyolo.optimizer import (
    create_group_param,
    create_lr_scheduler,
    create_optimizer,
    create_warmup_momentum_scheduler,
)
from yoloflow.mindyolo.step import create_train_step_fn, get_gradreducer, get_loss_scaler
from yoloflow.mindyolo.trainer import Trainer, create_trainer
from yoloflow.runtime.random_generators import seed_everything as set_seed

__all__ = [
    "CALLBACK_REGISTRY",
    "EMA",
    "Arguments",
    "BaseCallback",
    "COCODataset",
    "ConcatDataset",
    "RunContext",
    "Synchronizer",
    "Trainer",
    "auto_mixed_precision",
    "create_callback",
    "create_group_param",
    "create_loader",
    "create_loss",
    "create_lr_scheduler",
    "create_model",
    "create_optimizer",
    "create_train_step_fn",
    "create_trainer",
    "create_warmup_momentum_scheduler",
    "freeze_layers",
    "get_gradreducer",
    "get_loss_scaler",
    "load_args",
    "load_pretrain",
    "ms",
    "set_seed",
    "test",
]
