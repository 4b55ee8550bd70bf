"""Weights files and the networks of settings: whether they fit, and the recipes whose networks would."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from yoloflow.config.reader import load_config
from yoloflow.config.recipes import list_recipes
from yoloflow.config.schema import Config
from yoloflow.models import Network, create_model
from yoloflow.models.pretrain import WeightsMismatchError, check_pretrain, fits_but_for_classes
from yoloflow.run.folder import RunFolder
from yoloflow.structures import YoloflowError
from yoloflow.trainer.start import require_unfolded, start_files
from yoloflow.weights.files import WeightsFile, read_weights

_COCO_CLASSES = 80
_VARIATIONS = ("-small-data", "-finetune")
# The original's input, which the files of other formats are trained with.
_ORIGINAL = "-original"


@contextmanager
def naming_the_recipe() -> Iterator[None]:
    """Adds the recipes that a weights file would fit to the error that it does not fit."""
    try:
        yield
    except WeightsMismatchError as error:
        fitting = recipes_that_fit(error.path)
        if not fitting:
            raise
        raise YoloflowError(f"{error}\nThe file fits the recipe {' or '.join(fitting)}") from None


def check_start(config: Config, run: RunFolder) -> None:
    """Raises an error where a training cannot start from its weights, before any data is read.

    What depends on the classes, which the data tells, is left aside.

    Raises:
        YoloflowError: a file is missing, damaged, folded, or of another network.
    """
    for path in start_files(config, run).values():
        require_unfolded(path, check_weights(config, path, config.strict_load is False))


def check_weights(config: Config, path: Path, in_part: bool = False) -> bool:
    """Raises an error where weights are not of the network of the settings, the classes left aside.

    Args:
        config: the settings.
        path: the file.
        in_part: it is enough that some of the file fits.

    Returns:
        whether BatchNorm is folded in the file.

    Raises:
        YoloflowError: the file cannot be read, or does not fit.
    """
    with naming_the_recipe():
        return check_pretrain(_outline(config), path, strict=not in_part).is_folded


def _outline(config: Config) -> Network:
    """Returns the network of settings without values, for COCO's classes."""
    with torch.device("meta"):
        return create_model(
            config.network.model_name, config.network_table(), _COCO_CLASSES, variant=config.variant
        )


def recipes_that_fit(path: str | Path) -> list[str]:
    """Returns the recipes whose networks have all tensors of a file, those of the classes left aside."""
    file = read_weights(path)
    found = []
    summaries = {recipe.name: recipe.summary for recipe in list_recipes() if recipe.family}
    for name in summaries:
        # The reference's own widths differ little from those of the size's recipe.
        summary = summaries.get(name.removesuffix("-mindyolo"), "")
        if name.endswith(_VARIATIONS) or not _is_near(summary, file):
            continue
        if name.endswith(_ORIGINAL) and file.format in ("MindSpore", "safetensors"):
            continue
        if fits_but_for_classes(_outline(load_config(name)), file):
            found.append(name)
    return sorted(found, key=lambda name: not name.endswith(_ORIGINAL))


def _is_near(summary: str, file: WeightsFile) -> bool:
    """Returns whether a recipe's number of parameters, where its first line states it, may be the file's."""
    stated = re.search(r"([\d.]+) M parameters", summary)
    # A file may lack auxiliary parts, or hold more than the network; without names it has all, in order.
    factor = 2.5 if file.values is None else 1.2
    return stated is None or 1 / factor < file.numel / (float(stated[1]) * 1e6) < factor
