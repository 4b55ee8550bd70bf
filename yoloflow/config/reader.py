"""Recipes and overrides in, `Config` out; and back to YAML."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from yoloflow.config.dataset_file import expand_dataset_file
from yoloflow.config.document import BASE_KEY, Located, merge, read_value, read_yaml, write_yaml
from yoloflow.config.finetune import with_finetune
from yoloflow.config.mindyolo import translate_mindyolo
from yoloflow.config.recipes import RECIPES_FOLDER, WEIGHTS_SUFFIXES, RecipeInfo, find_recipe, list_recipes
from yoloflow.config.schema import Config
from yoloflow.config.validation import validate
from yoloflow.run import file_names
from yoloflow.settings import dotted_name
from yoloflow.structures import YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

__all__ = ["RECIPES_FOLDER", "RecipeInfo", "dump_config", "list_recipes", "load_config"]


def load_config(recipe_or_path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and put the command line's values over it.

    Args:
        recipe_or_path: a recipe's name, a YAML file, or a run folder.
        overrides: `key=value` texts; keys are dotted and values are YAML, such as `optimizer.lr_init=0.02`,
            `data.train_transforms.0.prob=0.5` or `data.names=[cat, dog]`. `data=FILE.yaml` reads a data set
            file (path, train, val, names). Later ones win.

    Returns:
        the checked settings, those of recipes/finetune.yaml among them where weights to start from are given.

    Raises:
        YoloflowError: naming file and line, or the override, for each fault.
    """
    if not isinstance(recipe_or_path, str | os.PathLike):
        raise YoloflowError(f"{recipe_or_path!r}: a recipe's name, a YAML file or a run folder is expected")
    check_overrides(overrides)
    path = find_recipe(recipe_or_path)
    tree = _as_it_was(read_with_bases(path), path)
    _refuse_data_set(tree, path)
    for text in overrides:
        tree = _override(tree, text)
    if "recipe" not in tree.mapping:
        tree = Located({"recipe": Located(path.stem, str(path)), **tree.mapping}, tree.place)
    # What no value is at fault of is the file's, not that of the last override.
    return validate(with_finetune(Located(tree.value, str(path))))


def check_overrides(overrides: object) -> None:
    """Raises YoloflowError where overrides are one text or a dictionary, not a list of texts."""
    if isinstance(overrides, str | Mapping):
        raise YoloflowError(
            f"overrides={overrides!r}: should be a list of texts, such as ['epochs=100', 'data=my.yaml']"
        )


def _as_it_was(tree: Located, path: Path) -> Located:
    """Returns the settings of a run with those that it was trained by before they had a key."""
    if path.name != file_names.CONFIG or "recipe" not in tree.mapping:
        return tree
    before = Located({"mosaic_partners": Located("anywhere", str(path))}, str(path))
    return merge(Located({"data": before}, str(path)), tree)


def _refuse_data_set(tree: Located, path: Path) -> None:
    """Say what a file is for that describes a data set and no training."""
    keys = tree.mapping.keys()
    if {"train", "val"} & keys and not {"network", "epochs", "optimizer"} & keys:
        raise YoloflowError(
            f"{path}: describes a data set, not how to train; give it after a recipe, such as "
            f"`yolov8n data={path}`"
        )


def dump_config(config: Config) -> str:
    """Returns the settings of `config` as YAML that `load_config` reads back as an equal `Config`."""
    return write_yaml(config.model_dump())


def read_with_bases(path: Path, chain: tuple[Path, ...] = ()) -> Located:
    """One file over its `__BASE__` files, each translated to our keys, lower ones first.

    Args:
        path: the file.
        chain: the files that led here.

    Raises:
        YoloflowError: a file is its own base, or cannot be read.
    """
    real = path.resolve()
    if real in [file.resolve() for file in chain]:
        raise YoloflowError(
            f"{BASE_KEY} goes in a circle: {' -> '.join(str(file) for file in (*chain, path))}"
        )
    own = read_yaml(path)
    bases = own.mapping.get(BASE_KEY)
    own = Located({key: child for key, child in own.mapping.items() if key != BASE_KEY}, own.place)
    tree = Located({}, own.place)
    for base in _base_paths(bases, path.parent):
        tree = merge(tree, read_with_bases(base, (*chain, path)))
    return merge(tree, expand_dataset_file(translate_mindyolo(own), path.parent))


def _base_paths(node: Located | None, folder: Path) -> list[Path]:
    if node is None or node.value is None:
        return []
    entries = node.value if isinstance(node.value, list) else [node]
    paths = []
    for entry in entries:
        if not isinstance(entry.value, str):
            raise YoloflowError(f"{entry.place}: {BASE_KEY} takes a path, a recipe's name or a list of these")
        base = Path(os.path.normpath(folder / Path(entry.value).expanduser()))
        paths.append(base if base.is_file() else _base_recipe(entry, base))
    return paths


def _base_recipe(entry: Located, missing: Path) -> Path:
    """The recipe that a base names, where it is no file beside the one that names it."""
    recipes = {recipe.name: recipe.path for recipe in list_recipes()}
    if entry.value not in recipes:
        hint = nearest_names(str(entry.value), recipes)
        raise YoloflowError(
            f"{entry.place}: {BASE_KEY} names {missing}, which is no file; as a recipe: {hint}"
        )
    return recipes[str(entry.value)]


def _example(text: str) -> str:
    """Returns the override that an argument without a key was probably meant to be."""
    suffix = Path(text).suffix.lower()
    if suffix == ".onnx":
        return f"weight={text}; a file to write goes with --out {text}"
    if suffix in WEIGHTS_SUFFIXES:
        return f"weight={text}"
    if suffix in {".yaml", ".yml"}:
        return f"data={text}"
    return "optimizer.lr_init=0.02"


def _override(tree: Located, text: str) -> Located:
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise YoloflowError(f"{text}: not an override; write key=value, such as {_example(text)}")
    place = f"override {text}"
    # A pattern of files (*.jpg); YAML's aliases mean nothing in one value.
    node = Located(value, place) if value.startswith("*") else read_value(value, place)
    if any(key.isdecimal() for key in keys):
        return _set(tree, keys, node, ())
    if keys == ["data", "names"]:
        _tell_of_moved_names(tree, node)
    for key in reversed(keys):
        node = Located({key: node}, place)
    return merge(tree, expand_dataset_file(translate_mindyolo(node), Path()))


def _tell_of_moved_names(tree: Located, names: Located) -> None:
    """Warns where an override gives the numbers of YOLO labels other names of the same list."""
    data = tree.mapping.get("data")
    before = data.mapping.get("names") if data else None
    if before is None or not isinstance(before.value, list) or not isinstance(names.value, list):
        return
    old, new = before.plain(), names.plain()
    for number, (was, now) in enumerate(zip(old, new, strict=False)):
        if was != now and (was in new or now in old):
            logger.warning(
                "%s: number %d in YOLO labels means %s, which was %s (%s); other formats are matched by name",
                *(names.place, number, now, was, before.place),
            )
            return


def _set(tree: Located, keys: Sequence[str], node: Located, done: tuple[str, ...]) -> Located:
    """Replace what lies at `keys`, some of which are positions in lists."""
    if not keys:
        return merge(tree, node)
    key, where = keys[0], dotted_name(done)
    if isinstance(tree.value, list):
        if not key.isdecimal() or int(key) >= len(tree.value):
            raise YoloflowError(
                f"{node.place}: {where} is a list of {len(tree.value)}; give a position from 0"
            )
        items = list(tree.value)
        items[int(key)] = _set(items[int(key)], keys[1:], node, (*done, key))
        return Located(items, tree.place)
    if not isinstance(tree.value, dict) or (key not in tree.value and len(keys) > 1):
        raise YoloflowError(f"{node.place}: there is no list at {dotted_name((*done, key))}")
    child = tree.value.get(key, Located(None, node.place))
    return Located({**tree.value, key: _set(child, keys[1:], node, (*done, key))}, tree.place)
