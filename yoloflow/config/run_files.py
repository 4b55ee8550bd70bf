"""The settings that a run folder keeps, when a training begins there or goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.schema import Config
from yoloflow.data.problems import problems_report
from yoloflow.evaluation.settings import EvaluationSettings
from yoloflow.run.folder import RunFolder
from yoloflow.structures import DatasetIndex

logger = logging.getLogger("yoloflow")


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


def begin_run(
    run: RunFolder,
    config: Config,
    sets: Mapping[str, DatasetIndex],
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Makes the run folder, now that nothing of settings, data and state can be refused any more.

    Args:
        run: where; the main rank alone calls this.
        config: the settings.
        sets: the data sets by their keys, `train_set` among them.
        origin: of the weights that it starts from, for `weights.json`; None leaves that file as it is.
    """
    if run.resumed and (changed := _changed_settings(run, config)):
        logger.warning("%s: goes on with other settings than it began with: %s", run.path, ", ".join(changed))
    named = config.model_copy(update={"name": run.path.name})
    report = {key: problems_report(index) for key, index in sets.items()}
    run.create(dump_config(named), sets["train_set"].names, report, origin)


def tell_finished(run: RunFolder, config: Config) -> None:
    """Logs that a run which is resumed has nothing left to train."""
    logger.info("%s is finished: nothing is left to train", run.path)
    if changed := _changed_settings(run, config):
        logger.warning(
            "%s: these settings are not those it was trained with: %s. A finished run is not trained "
            "further: begin another with name=... (and weight=FILE, one of those in %s)",
            *(run.path, ", ".join(changed), run.weights),
        )


def _changed_settings(run: RunFolder, config: Config) -> list[str]:
    """Returns the settings, by their top-level keys, that differ from those in a run folder."""
    before = load_config(run.path)
    where = {"resume", "name", "save_dir"}
    return [
        key
        for key in Config.model_fields
        if key not in where and getattr(before, key) != getattr(config, key)
    ]
