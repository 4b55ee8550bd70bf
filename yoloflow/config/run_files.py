"""The settings that a run folder keeps, when a training begins there or goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

from yoloflow.callbacks import RunContext
from yoloflow.config.finetune import describe_finetune
from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.recipes import list_recipes
from yoloflow.config.schema import Config
from yoloflow.data.problems import problems_report
from yoloflow.data.stage_loaders import choose_partners
from yoloflow.data.stages import Stage
from yoloflow.evaluation.settings import EvaluationSettings
from yoloflow.report.labels_plot import plot_labels
from yoloflow.run import file_names
from yoloflow.run.checkpoint import newest_step
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.ranks import Ranks, from_main_rank
from yoloflow.settings import flatten
from yoloflow.structures import DatasetIndex, YoloflowError
from yoloflow.train_step.state import OtherStateError

logger = logging.getLogger("yoloflow")

_OF_TENSORS = ("network.", "freeze", "ema", "optimizer.", "loss_scaler")
"""The settings that decide which tensors a training state has begin so."""


def weights_facts(config: Config, names: Sequence[str], origin: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns what the weights files of a run say of themselves, so that one alone can be used.

    Args:
        config: the settings.
        names: class names in class order.
        origin: of the weights that the run starts from, see `start_weights`.
    """
    data = {
        "names": list(names),
        **{key: getattr(config.data, key) for key in ("test_transforms", "test_shrink", "test_rect")},
    }
    needed = ("recipe", "variant", "img_size", *EvaluationSettings.model_fields)
    settings = config.model_dump(include={*needed, "network", "loss"})
    settings["loss"]["stages"] = []  # they go with the stages of the training's data
    facts = {"class_names": list(names), "img_size": config.img_size, "config": settings | {"data": data}}
    if origin is not None:
        facts["licence"] = origin["licence"]
        facts["origin"] = {key: origin[key] for key in ("file", "sha256", "format", "licence", "producer")}
    return facts


def settle_stages(
    config: Config, run: RunFolder, index: DatasetIndex, ranks: Ranks
) -> tuple[Config, list[Stage]]:
    """Returns settings with `data.mosaic_partners` decided, and the stages of the training.

    A run that goes on takes the partners as it began; one that begins by what the main rank's memory holds.

    Args:
        config: the settings.
        run: the run folder.
        index: the training set.
        ranks: this process among its peers.
    """
    stages = config.stages(config.steps_per_epoch(len(index), ranks.world_size))
    data = config.data
    if data.mosaic_partners == "auto" and run.resumed:
        begun = load_config(run.path).data.mosaic_partners
        data = data.model_copy(update={"mosaic_partners": begun})
    partners = from_main_rank(choose_partners(index, stages, data, max(config.network.stride)), ranks)
    return config.model_copy(update={"data": data.model_copy(update={"mosaic_partners": partners})}), stages


@contextmanager
def begun_run(
    context: RunContext,
    config: Config,
    sets: Mapping[str, DatasetIndex],
    origin: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Makes the run folder for a block that trains; removes it where that fails before its first step.

    Nothing of settings, data, memory and state can be refused any more.

    Args:
        context: of the training; its main rank alone writes.
        config: the settings.
        sets: the data sets by their keys, `train_set` among them.
        origin: of the weights that it starts from, for `weights.json`; None leaves that file as it is.
    """
    run = context.run
    if not context.ranks.is_main:
        yield
        return
    before = run.contents()
    if run.extends:
        logger.info(
            "%s: was finished after %g epochs and goes on to %d: from here on with the learning rates and "
            "stages of a training of %d epochs",
            *(run.path, context.step / context.steps_per_epoch, config.epochs, config.epochs),
        )
    if run.resumed and (changed := _changed_settings(run, config)):
        names = ", ".join(dict.fromkeys(key.partition(".")[0] for key in changed))
        logger.warning("%s: goes on with other settings than it began with: %s", run.path, names)
    if origin is not None:
        for line in describe_finetune(config, _plain_recipe(config)):
            logger.info("%s", line)
    named = config.model_copy(update={"name": run.path.name})
    report = {key: problems_report(index) for key, index in sets.items()}
    run.create(dump_config(named), sets["train_set"].names, report, origin)
    run.summary.unlink(missing_ok=True)
    plot_labels(sets["train_set"], run.plots / file_names.LABELS_PLOT)
    try:
        yield
    except (YoloflowError, OSError, RuntimeError):
        if not run.resumed and context.step == 0 and newest_step(run.weights) is None:
            run.withdraw(before)
        raise


def _plain_recipe(config: Config) -> Config | None:
    """Returns the package's recipe that settings are of; None where they are of a file of the user."""
    if config.recipe is None or config.recipe not in (recipe.name for recipe in list_recipes()):
        return None
    return load_config(config.recipe, ["finetune=false"])


def wants_more(config: Config, summary: Mapping[str, Any]) -> bool:
    """Returns whether the settings ask a finished run for more epochs than it has trained."""
    stopped = summary.get("stopped_early")
    may_wait = config.patience is None or config.patience > int((stopped or {}).get("patience", 0))
    return may_wait and config.epochs > int(summary.get("epochs", config.epochs))


def tell_finished(run: RunFolder, config: Config, summary: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Logs that a run which is resumed has nothing left to train (main rank); returns its summary.

    Raises:
        YoloflowError: more epochs are asked for, but `patience` has ended it.
    """
    changed = _changed_settings(run, config)
    stopped = summary.get("stopped_early")
    if stopped and "epochs" in changed and config.epochs > int(stopped["planned"]):
        raise YoloflowError(
            f"{run.path}: patience={stopped['patience']} ended it after {summary['epochs']} epochs: more "
            f"epochs need a larger patience=... (or null) too"
        )
    if ranks.is_main:
        logger.info("%s is finished: nothing is left to train", run.path)
    if changed and ranks.is_main:
        logger.warning(
            "%s: these settings are not those it was trained with: %s. Nothing is trained with them unless "
            "epochs=... is larger too: give that, or begin another run with name=... (and weight=%s)",
            *(run.path, ", ".join(dict.fromkeys(key.partition(".")[0] for key in changed)), run.path),
        )
    return summary


@contextmanager
def naming_changed_settings(run: RunFolder, config: Config) -> Iterator[None]:
    """Names the settings to put back where a block finds the state of another training.

    Raises:
        YoloflowError: it does.
    """
    try:
        yield
    except OtherStateError as error:
        changed = _changed_settings(run, config)
        telling = {key: both for key, both in changed.items() if key.startswith(_OF_TENSORS)} or changed
        settings = "; ".join(f"{key}: {then} then, {now} now" for key, (then, now) in telling.items())
        raise YoloflowError(
            f"{run.path}: cannot go on with other settings than it began with ({settings or error}). Put "
            f"them back, or begin a new run with another name=... and weight={run.path}"
        ) from error


def _changed_settings(run: RunFolder, config: Config) -> dict[str, tuple[str, str]]:
    """Returns the settings, by dotted key, that differ from those in a run folder: then and now."""
    before, now = (flatten(settings.model_dump()) for settings in (load_config(run.path), config))
    return {
        key: (_shown(before.get(key)), _shown(now.get(key)))
        for key in before | now
        if before.get(key) != now.get(key)
        # A setting on auto fits what it was decided to be.
        and "auto" not in (before.get(key), now.get(key))
        and key not in ("resume", "name", "save_dir")
    }


def _shown(value: object) -> str:
    """Writes a value as in YAML, cut where it is long."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str), 60, placeholder=" ...")
