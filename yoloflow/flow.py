"""The flow: train and evaluate a detector in eight steps. Read `train` and you know the project."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from yoloflow.callbacks import RunContext, create_callback
from yoloflow.callbacks.settings import callback_rows
from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.schema import Config
from yoloflow.data.caches.decoded_images import ImageCache, open_image_cache
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import COCODataset, resized_sizes
from yoloflow.data.index import as_one_class
from yoloflow.data.loader import create_loader
from yoloflow.data.problems import problems_report, summarise_problems
from yoloflow.data.shapes import Rectangular
from yoloflow.data.stage_loaders import create_stage_loaders
from yoloflow.evaluation.test_function import EvaluationResult, Synchronizer, test
from yoloflow.losses import create_loss
from yoloflow.models import Network, create_model, freeze_layers, load_pretrain
from yoloflow.models.exported import EXPORT_SUFFIX, ExportedNetwork
from yoloflow.models.precision import Precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.run.checkpoint import newest_step
from yoloflow.run.folder import RunFolder, choose_run, find_weights, names_of_run
from yoloflow.run.lock import release_run_lock
from yoloflow.runtime.random_generators import seed_everything, set_determinism
from yoloflow.runtime.rank_failures import explain_rank_timeout
from yoloflow.runtime.ranks import Ranks, init_ranks
from yoloflow.structures import DatasetIndex
from yoloflow.train_step.step import (
    auto_mixed_precision,
    create_train_step_fn,
    get_gradreducer,
    get_loss_scaler,
)
from yoloflow.trainer.create import create_trainer

logger = logging.getLogger("yoloflow")


@release_run_lock()
@explain_rank_timeout("preparing to train")
def train(config: Config) -> dict[str, Any]:
    """Train and evaluate as `config` says.

    Args:
        config: settings of `load_config`.

    Returns:
        the summary, as in the run folder's `summary.json`.

    Raises:
        YoloflowError: settings, data or run folder cannot be used; the message says what to do.
    """
    ranks, device = init_ranks(config.device, config.threads, config.rank_timeout)
    run = choose_run(config.save_dir, config.name, config.recipe or "run", config.resume, ranks)
    if run.finished_summary is not None:
        return _say_finished(run, run.finished_summary, config, ranks)
    sets = _read_sets(config, ranks)
    class_names = sets["train_set"].names
    set_determinism(config.determinism)
    seed_everything(config.seed)

    # 1. Network, and its running average, which is what is evaluated
    network = create_model(
        config.network.model_name,
        config.network_table(),
        num_classes=len(class_names),
        sync_bn=config.sync_bn and ranks.world_size > 1,
        variant=config.variant,
    ).to(device)
    ema = _start_weights(config, network, has_state=run.resumed and newest_step(run.weights) is not None)

    # 2. Data loaders, one stage after the other
    loader = _create_train_loader(config, sets["train_set"], ranks)

    # 3. Loss
    loss_fn = create_loss(**config.loss_arguments(network.stride, network.num_classes)).to(device)

    # 4. Optimizer: parameter groups, each with its own learning rates, and momentum
    settings = config.optimizer.settings()
    length = config.run_length(loader.steps_per_epoch, ranks.world_size)
    optimizer = create_optimizer(create_group_param(network, settings, length), settings)
    schedule = create_schedule(settings, length, config.variant)

    # 5. Train step: forward, loss, backward, mean over ranks, loss scale, clipping, update, average
    train_step_fn = create_train_step_fn(
        network,
        loss_fn,
        optimizer,
        schedule,
        scaler=get_loss_scaler(config.loss_scaler, config.loss_scaler_value),
        reducer=get_gradreducer(ranks.world_size > 1),
        ema=ema,
        precision=_precision(config, device),
        settings=config.step_settings(ranks.world_size),
        loss_ratio=config.loss_ratio(loss_fn.reduction, ranks.world_size),
    )

    # 6. Callbacks: they watch
    callbacks = create_callback(callback_rows(config, config.epochs))

    # 7. Test function
    test_fn = None
    if config.run_eval:
        test_fn = _create_test_fn(config, sets["val_set"], ranks, device, loader.cache_memory)

    # 8. Trainer
    context = RunContext(
        run,
        ranks,
        train_step_fn,
        test_fn,
        class_names,
        loss_fn.loss_item_name,
    )
    identity = _identity(config, sets["train_set"], ranks)
    trainer = create_trainer(context, loader, callbacks, config, identity=identity)
    _begin_run(run, config, sets, ranks)
    return trainer.train_with_datasink(config.sink_size) if config.datasink else trainer.train()


@explain_rank_timeout("evaluating")
def evaluate_run(
    run_or_recipe: str,
    overrides: Sequence[str] = (),
    weight: str | None = None,
    save_json: str | Path | None = None,
) -> EvaluationResult:
    """Evaluate weights, or an exported file, on the validation set that a run or recipe names.

    Args:
        run_or_recipe: a run folder, a recipe's name, a YAML file, or an exported file (`yoloflow export`),
            which has all settings but the data set.
        overrides: `key=value` texts over its settings.
        weight: weights file or exported file; None takes the run's best (averaged where there is an average).
        save_json: write the detections here, as a COCO results file.

    Raises:
        YoloflowError: no weights or no validation set, or they do not fit together.
    """
    config = _load_test_config(run_or_recipe, overrides)
    ranks, device = init_ranks(config.device, config.threads, config.rank_timeout)
    path = Path(weight or find_weights(Path(run_or_recipe)))
    is_one_class = config.data.single_cls
    index = config.data.read("val_set", None if is_one_class else names_of_run(Path(run_or_recipe)))
    if is_one_class:
        index = as_one_class(index)
    network: nn.Module
    if path.suffix == EXPORT_SUFFIX:
        network = ExportedNetwork(path, device.type)
        network.check_names(index.names)
        config = _as_exported(config, network)
    else:
        network = create_model(
            config.network.model_name, config.network_table(), len(index.names), variant=config.variant
        )
        load_pretrain(network, path)
    logger.info("%s on %d images", path, len(index))
    result = _create_test_fn(config, index, ranks, device, save_json=save_json)(network.to(device))
    return replace(result, settings={"weights": str(path), **result.settings})


def _load_test_config(run_or_recipe: str, overrides: Sequence[str]) -> Config:
    """Settings of a run or recipe, or those that an exported file holds."""
    if Path(run_or_recipe).suffix != EXPORT_SUFFIX:
        return load_config(run_or_recipe, overrides)
    with TemporaryDirectory() as folder:
        file = Path(folder) / f"{Path(run_or_recipe).stem}.yaml"
        file.write_text(ExportedNetwork(run_or_recipe).info.config, encoding="utf-8")
        return load_config(file, overrides)


def _as_exported(config: Config, network: ExportedNetwork) -> Config:
    """The settings with the one input shape that an exported network takes."""
    size = network.info.img_size
    if config.img_size != size or config.data.test_rect:
        logger.info("evaluated on squares of %d pixels, which the exported file takes", size)
    data = config.data.model_copy(update={"test_rect": False})
    return config.model_copy(update={"img_size": size, "data": data})


def _read_sets(config: Config, ranks: Ranks) -> dict[str, DatasetIndex]:
    """The training set and, if it is evaluated, the validation set."""
    sets = config.data.read_sets(config.img_size, config.run_eval)
    if ranks.is_main:
        for key, index in sets.items():
            for line in summarise_problems(index):
                logger.info("data.%s: %s", key, line)
    return sets


def _begin_run(run: RunFolder, config: Config, sets: Mapping[str, DatasetIndex], ranks: Ranks) -> None:
    """Make the run folder (rank 0), now that nothing of settings, data and state can be refused any more."""
    if not ranks.is_main:
        return
    if run.resumed and (changed := _changed_settings(run, config)):
        logger.warning("%s: goes on with other settings than it began with: %s", run.path, ", ".join(changed))
    report = {key: problems_report(index) for key, index in sets.items()}
    named = config.model_copy(update={"name": run.path.name})
    run.create(dump_config(named), sets["train_set"].names, report)


def _say_finished(run: RunFolder, summary: dict[str, Any], config: Config, ranks: Ranks) -> dict[str, Any]:
    """The summary of a run that is resumed but finished."""
    if ranks.is_main:
        logger.info("%s is finished: nothing is left to train", run.path)
        if changed := _changed_settings(run, config):
            logger.warning(
                "%s: these settings are not those it was trained with: %s. A finished run is not trained "
                "further: begin another with name=... (and weight=FILE, one of those in %s)",
                *(run.path, ", ".join(changed), run.weights),
            )
    return summary


def _changed_settings(run: RunFolder, config: Config) -> list[str]:
    """The settings, by their top-level keys, that differ from those in a run folder."""
    before = load_config(run.path)
    where = {"resume", "name", "save_dir"}
    return [
        key
        for key in Config.model_fields
        if key not in where and getattr(before, key) != getattr(config, key)
    ]


def _identity(config: Config, index: DatasetIndex, ranks: Ranks) -> dict[str, Any]:
    """What must be the same where a run goes on, in the words of messages."""
    return {
        "images of a step": config.per_batch_size * ranks.world_size,
        "training set": f"{len(index)} images (sum {index.fingerprint()})",
        "classes": index.names,
    }


def _start_weights(config: Config, network: Network, has_state: bool) -> EMA | None:
    """Load the weights to start from, which a state replaces, freeze, and make the average."""
    if config.weight is not None and not has_state:
        load_pretrain(network, config.weight, config.strict_load)
    freeze_layers(network, config.freeze)
    if not config.ema:
        return None
    if config.ema_weight is None:
        return EMA(network, config.ema_decay, config.ema_tau)
    ema = EMA(network, config.ema_decay, config.ema_tau, updates=0)
    if not has_state:
        load_pretrain(ema.network, config.ema_weight, config.strict_load)
    return ema


def _create_train_loader(config: Config, index: DatasetIndex, ranks: Ranks) -> ConcatLoader:
    """A loader for each stage, joined."""
    steps_per_epoch = config.steps_per_epoch(len(index), ranks.world_size)
    options = config.loader_options(ranks.rank, ranks.world_size)
    return create_stage_loaders(index, config.stages(steps_per_epoch), options)


def _open_test_cache(config: Config, index: DatasetIndex, promised: int | None) -> ImageCache | None:
    """The image cache of the validation set."""
    data = config.data
    # Without a training every image is looked at once: only a file that a training left can help.
    if promised is None and data.cache != "disk":
        return None
    sizes_hw = resized_sizes(index.sizes_hw, config.img_size)
    return open_image_cache(data.cache, index, sizes_hw, data.test_shrink, promised=promised or 0)


def _create_test_fn(
    config: Config,
    index: DatasetIndex,
    ranks: Ranks,
    device: torch.device,
    promised: int | None = None,
    save_json: str | Path | None = None,
) -> Callable[[nn.Module], EvaluationResult]:
    """`test` with everything but the network filled in; its result's settings tell the pre-processing too.

    Args:
        config: the settings.
        index: the validation set.
        ranks: this process among its peers.
        device: of the network.
        promised: bytes of memory that the training set's image caches will fill; None without a training.
        save_json: file for the detections.
    """
    cache = _open_test_cache(config, index, promised)
    rows = config.data.test_rows
    loader = create_loader(
        COCODataset(index, config.img_size, rows, cache=cache or "none", shrink=config.data.test_shrink),
        config.per_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        shuffle=False,
        drop_last=False,
        num_parallel_workers=min(config.data.num_parallel_workers, 2),
    )
    if config.data.test_rect:
        sizes_hw = resized_sizes(index.sizes_hw, config.img_size)
        loader = replace(loader, shapes=Rectangular(sizes_hw, max(config.network.stride), shuffle=False))
    loader = replace(loader, timeout_s=config.data.load_timeout or 0.0)
    run_test = partial(
        test,
        dataloader=loader,
        index=index,
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        max_det=config.max_det,
        nms_time_limit=config.nms_time_limit,
        precision=_precision(config, device),
        synchronizer=Synchronizer(ranks.world_size),
        save_json=save_json,
    )
    settings = {
        "shape": "rectangular" if config.data.test_rect else "square",
        "img_size": config.img_size,
        "test_transforms": [dict(row) for row in rows],
        "test_shrink": config.data.test_shrink,
        "pixels": config.network.pixels,
        "batch_size": config.per_batch_size,
    }

    def test_fn(network: nn.Module) -> EvaluationResult:
        result = run_test(network)
        return replace(result, settings={**settings, **result.settings})

    return test_fn


def _precision(config: Config, device: torch.device) -> Precision:
    return auto_mixed_precision(config.amp_level, device.type, config.amp_dtype, config.keep_loss_fp32)
