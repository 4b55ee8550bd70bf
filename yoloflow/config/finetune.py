"""Finetuning: the settings of recipes/finetune.yaml, over a recipe and beneath what the user wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yoloflow.config.document import Located, merge, read_yaml
from yoloflow.config.recipes import RECIPES_FOLDER
from yoloflow.config.schema import Config
from yoloflow.run import file_names
from yoloflow.run.folder import run_to_continue
from yoloflow.settings import flatten

_FILE = "finetune.yaml"
_SWITCH = "finetune=false keeps the recipe's own"


def with_finetune(tree: Located) -> Located:
    """Returns settings with those of the finetuning, where there is one.

    What a user's file or override states stays; what a recipe of the package states is replaced. A batch that
    is smaller in the recipe stays too, for the memory it takes. A run that goes on is what it began as: its
    weights need not be named again.

    Args:
        tree: all settings, `recipe` among them, not yet checked.
    """
    settings = {key: node.value for key, node in tree.mapping.items()}
    if not _is_wanted(settings):
        return tree
    if "weight" not in settings and (begun := _begun(settings)) is not None:
        tree = Located({**tree.mapping, "weight": begun["weight"]}, tree.place)
    network = tree.mapping.get("network")
    name = network.mapping.get("model_name") if network else None
    return _beneath(tree, _block(str(name.value) if name else ""))


def describe_finetune(config: Config, recipe: Config | None = None, *, as_list: bool = False) -> list[str]:
    """Returns lines about the finetuning that settings describe; none where there is no finetuning.

    Args:
        config: the settings.
        recipe: the same without finetuning, whose settings that it leaves as they are go without saying; None
            where it is not known.
        as_list: every setting has a line of its own, with what it is without finetuning.
    """
    if not _is_wanted(config.model_dump(include=_KEYS)):
        return []
    settings = config.model_dump()
    block = flatten(_block(config.network.model_name).plain())
    before = {} if recipe is None else recipe.model_dump()
    taken = {key: value for key, value in block.items() if _at(settings, key) == value}
    own = {key: _at(settings, key) for key in block if key not in taken}
    if recipe is not None:
        taken = {key: value for key, value in taken.items() if _at(before, key) != value}
    if not as_list:
        kept = f"; kept: {_shown(own)}" if own else ""
        return [f"finetuning with recipes/{_FILE}: {_shown(taken) or 'nothing of it'}{kept} ({_SWITCH})"]
    lines = [f"finetuning from weight={config.weight}, recipes/{_FILE} ({_SWITCH}):"]
    shown = [key for key in block if key in taken or key in own]
    width = max(map(len, shown), default=0)
    for key in shown:
        remark = "" if key in taken else f"; not {block[key]}, which recipes/{_FILE} has"
        lines.append(f"  {key:{width}}  {_at(settings, key)} (without: {_at(before, key)}{remark})")
    return lines


_KEYS = {"finetune", "weight", "resume", "save_dir", "name", "recipe"}


def _is_wanted(settings: Mapping[str, Any]) -> bool:
    """Returns whether settings finetune: as they say, or, for "auto", where weights to start from are given.

    A run that goes on is what it began as.
    """
    wanted = settings.get("finetune", "auto")
    if wanted != "auto":
        return wanted is True
    if (begun := _begun(settings)) is None:
        return settings.get("weight") not in (None, "")
    # Runs from before there was this setting did not finetune.
    before = begun["finetune"].value if "finetune" in begun else False
    return before is True or (before == "auto" and begun["weight"].value is not None)


def _begun(settings: Mapping[str, Any]) -> dict[str, Located] | None:
    """Returns the settings of the run that goes on; None for a run that begins."""
    if settings.get("resume") != "auto":
        return None
    name = settings.get("name")
    name = None if name is None else str(name)
    run = run_to_continue(Path(str(settings.get("save_dir", "runs"))), name, str(settings["recipe"]))
    if not (path := run / file_names.CONFIG).is_file():
        return None
    return {"weight": Located(None, str(path)), **read_yaml(path).mapping}


def _block(model_name: str) -> Located:
    """Returns the settings of the finetuning of a family."""
    families = {path.parent.name: path for path in RECIPES_FOLDER.glob(f"*/{_FILE}")}
    block = read_yaml(RECIPES_FOLDER / _FILE)
    return merge(block, read_yaml(families[model_name])) if model_name in families else block


def _beneath(tree: Located, block: Located, key: str = "") -> Located:
    """Returns a block over what the package's recipes state of a tree, beneath all else in it."""
    if isinstance(tree.value, dict) and isinstance(block.value, dict):
        merged = dict(tree.value)
        for name, child in block.value.items():
            merged[name] = _beneath(merged[name], child, name) if name in merged else child
        return Located(merged, tree.place)
    is_smaller = key == "per_batch_size" and isinstance(tree.value, int) and tree.value < block.value  # type: ignore[operator]
    return tree if is_smaller or _is_own(tree) else block


def _is_own(node: Located) -> bool:
    """Returns whether a user wrote a value, or a part of it."""
    if isinstance(node.value, list) and any(_is_own(child) for child in node.value):
        return True
    if isinstance(node.value, dict) and any(_is_own(child) for child in node.value.values()):
        return True
    file, _, line = node.place.rpartition(":")
    in_package = line.isdecimal() and Path(os.path.abspath(file)).is_relative_to(RECIPES_FOLDER)
    return not (in_package or node.place == "")


def _at(settings: Mapping[str, Any], dotted: str) -> Any:
    value: Any = settings
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _shown(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
