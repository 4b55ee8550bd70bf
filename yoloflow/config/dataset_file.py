"""The small YAML files that describe a data set for other YOLO programs: path, train, val, nc, names."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from yoloflow.config.document import Located, read_yaml
from yoloflow.structures import YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

_SETS = ("train", "val", "test")


def expand_dataset_file(tree: Located, folder: Path) -> Located:
    """Replace `data: FILE.yaml` by the section that the file describes.

    Args:
        tree: a recipe's mapping.
        folder: what a relative FILE starts from.

    Raises:
        YoloflowError: the file cannot be read or does not describe a data set.
    """
    if not isinstance(tree.value, dict):
        return tree
    data = tree.value.get("data")
    if data is None or not isinstance(data.value, str):
        return tree
    path = folder / Path(data.value).expanduser()
    if not path.is_file():
        others = [file.name for file in path.parent.glob("*.y*ml")]
        near = f"; {nearest_names(path.name, others)}" if others else ""
        raise YoloflowError(f"{data.place}: data: {data.value}: there is no such file{near}")
    if path.suffix not in (".yaml", ".yml"):
        raise YoloflowError(
            f"{data.place}: data: {data.value} is no YAML file that describes a data set; "
            "give one, or the section's own keys (data.train_set=..., data.val_set=...)"
        )
    return Located({**tree.value, "data": _section(path)}, tree.place)


def read_dataset_file(path: Path) -> tuple[dict[str, list[str]], list[str] | None, int | None]:
    """The sets that a data set file names (train, val, test), their class names and their number of classes.

    Raises:
        YoloflowError: the file cannot be read or names no set.
    """
    keys, root = _keys_and_root(path)
    sets = {name: _sources(keys[name], root).plain() for name in _SETS if name in keys}
    if not sets:
        raise YoloflowError(f"{path}: names none of {', '.join(_SETS)}")
    names = _names(keys["names"]).plain() if "names" in keys else None
    nc = keys["nc"].plain() if "nc" in keys else None
    return {name: [one] if isinstance(one, str) else one for name, one in sets.items()}, names, nc


def _keys_and_root(path: Path) -> tuple[dict[str, Located], Path]:
    """The file's keys, and the folder where its relative paths begin."""
    document = read_yaml(path)
    assert isinstance(document.value, dict)
    keys = document.value
    return keys, path.parent / str(keys["path"].value) if "path" in keys else path.parent


def _section(path: Path) -> Located:
    keys, root = _keys_and_root(path)
    section = {key: Located(None, str(path)) for key in ("nc", "names", "val_set")}
    if "train" not in keys:
        raise YoloflowError(f"{path}: needs `train`, the images to train on")
    for theirs, ours in (("train", "train_set"), ("val", "val_set")):
        if theirs in keys:
            section[ours] = _sources(keys[theirs], root)
    if "nc" in keys:
        section["nc"] = keys["nc"]
    if "names" in keys:
        section["names"] = _names(keys["names"])
    ignored = sorted(set(keys) - {"path", "train", "val", "nc", "names"})
    if ignored:
        logger.info("%s: not used: %s", path, ", ".join(ignored))
    return Located(section, str(path))


def _sources(node: Located, root: Path) -> Located:
    if isinstance(node.value, list):
        return Located([_sources(child, root) for child in node.value], node.place)
    if not isinstance(node.value, str):
        raise YoloflowError(f"{node.place}: a path, or a list of paths, is expected")
    return Located(os.path.normpath(root / node.value), node.place)


def _names(node: Located) -> Located:
    if not isinstance(node.value, dict):
        return node
    numbered = {}
    for key, child in node.value.items():
        if not key.isdecimal():
            raise YoloflowError(f"{child.place}: class numbers are expected in names, not {key!r}")
        numbered[int(key)] = child
    if sorted(numbered) != list(range(len(numbered))):
        raise YoloflowError(f"{node.place}: names must be numbered 0 to {len(numbered) - 1} without gaps")
    return Located([numbered[number] for number in range(len(numbered))], node.place)
