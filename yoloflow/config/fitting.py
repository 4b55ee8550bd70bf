"""The recipes whose networks a weights file fits, for the message where it does not fit the one asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from yoloflow.config.reader import load_config
from yoloflow.config.recipes import list_recipes
from yoloflow.models import create_model
from yoloflow.models.pretrain import WeightsMismatchError, fits_but_for_classes
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights

_COCO_CLASSES = 80
_VARIATIONS = ("-small-data", "-finetune", "-original")


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


def recipes_that_fit(path: str | Path) -> list[str]:
    """Returns the recipes whose networks have all tensors of a file, those of the classes left aside."""
    file = read_weights(path)
    found = []
    summaries = {recipe.name: recipe.summary for recipe in list_recipes() if recipe.family}
    for name in summaries:
        # The reference's own widths differ little from those of the size's recipe.
        summary = summaries.get(name.removesuffix("-mindyolo"), "")
        if name.endswith(_VARIATIONS) or not _is_near(summary, file.numel):
            continue
        config = load_config(name)
        with torch.device("meta"):
            network = create_model(
                config.network.model_name, config.network_table(), _COCO_CLASSES, variant=config.variant
            )
        if fits_but_for_classes(network, file):
            found.append(name)
    return found


def _is_near(summary: str, size: int) -> bool:
    """Returns whether a recipe's number of parameters, where its first line states it, may be the file's."""
    stated = re.search(r"([\d.]+) M parameters", summary)
    return stated is None or 0.4 < size / (float(stated[1]) * 1e6) < 2.5
