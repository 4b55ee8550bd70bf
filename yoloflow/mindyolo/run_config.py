"""The settings that a run folder keeps, put together from the parts of a training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from yoloflow.config.schema import Config
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.mindyolo.data import COCODataset
from yoloflow.mindyolo.network import amp_level_of, class_names_of, section_of, sections_of
from yoloflow.mindyolo.step import TrainStepFn
from yoloflow.trainer.settings import TrainerSettings


def run_config(
    step_fn: TrainStepFn, loader: ConcatLoader, test_fn: Callable[..., Any] | None, settings: TrainerSettings
) -> Config:
    """Returns the settings, so that `yoloflow test`, `predict` and `export` take the run.

    Args:
        step_fn: has network, loss and optimizer.
        loader: of the training.
        test_fn: a partial of `test` says what is evaluated; of any other function nothing is known.
        settings: of the trainer.

    Raises:
        YoloflowError: the parts do not make a valid recipe.
    """
    step, first = step_fn.train_step, loader.loaders[0]
    table, own = sections_of(step.network)
    own.pop("names", None)
    recompute = {key: table.pop(key, None) for key in ("recompute", "recompute_layers")}
    amp_level = amp_level_of(step.network)
    content: dict[str, Any] = {
        "variant": "published",
        "epochs": loader.epochs,
        "per_batch_size": first.batch_size,
        "img_size": first.dataset.img_size,
        "nbs": step_fn.optimizer.length.nbs,
        "ema": step.ema is not None,
        "seed": first.dataset.seed,
        "amp_level": amp_level,
        "keep_loss_fp32": step_fn.precision.keep_loss_fp32,
        "run_eval": test_fn is not None,
        "network": table,
        "loss": section_of(step_fn.loss_fn),
        "optimizer": step_fn.optimizer.settings.model_dump(),
        "data": {**_sets(loader, test_fn), **_data(loader, step.network)},
        **{key: value for key, value in (own | recompute).items() if value is not None},
        **step_fn.settings.model_dump(),
        **settings.model_dump(),
        **_thresholds(test_fn),
    }
    return Config(**content)


def _data(loader: ConcatLoader, network: nn.Module) -> dict[str, Any]:
    """Returns the keys of the training set and its stages."""
    first = loader.loaders[0]
    rows = [
        [dict(row) for row in getattr(stage.dataset, "transforms_dict", None) or [{"func_name": "letterbox"}]]
        for stage in loader.loaders
    ]
    lengths = [stage.epochs for stage in loader.loaders]
    stages = {"stage_epochs": lengths, "trans_list": rows}
    single_cls = first.dataset.single_cls
    return {
        "names": None if single_cls else class_names_of(network, first.dataset.index.names),
        "single_cls": single_cls,
        "num_parallel_workers": first.num_parallel_workers,
        "train_transforms": rows[0] if len(rows) == 1 else stages,
        "rect": bool(getattr(first.dataset, "rect", False)),
    }


def _sets(loader: ConcatLoader, test_fn: Callable[..., Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"train_set": _source(loader.loaders[0].dataset)}
    if isinstance(test_fn, partial) and "dataloader" in test_fn.keywords:
        dataset = test_fn.keywords["dataloader"].dataset
        found["val_set"] = _source(dataset)
        if isinstance(dataset, COCODataset) and dataset.transforms_dict:
            found["test_transforms"] = [dict(row) for row in dataset.transforms_dict]
    return {key: value for key, value in found.items() if value is not None}


def _source(dataset: object) -> str | list[str] | None:
    if not isinstance(dataset, COCODataset):
        return None
    return dataset.dataset_path if isinstance(dataset.dataset_path, str) else list(dataset.dataset_path)


def _thresholds(test_fn: Callable[..., Any] | None) -> dict[str, Any]:
    if not isinstance(test_fn, partial):
        return {}
    found = {key: test_fn.keywords[key] for key in ("conf_thres", "iou_thres") if key in test_fn.keywords}
    return {key: float(value) for key, value in found.items()}
