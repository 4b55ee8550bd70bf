"""The small files that describe a data set for other YOLO programs: YAML, or Darknet's `obj.data`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from yoloflow.config.dataset_paths import locate_sets
from yoloflow.config.document import Located, read_yaml
from yoloflow.data.formats import voc_xml
from yoloflow.data.formats.coco_entries import coco_files
from yoloflow.data.formats.list_file import read_list_file
from yoloflow.structures import YoloflowError, fault_of_class_name, nearest_names

logger = logging.getLogger("yoloflow")

_SETS = ("train", "val", "test")
DATASET_FILE_KEYS = ("path", "nc", "names", "kpt_shape", "channels", "ch")
"""Keys of such files that are read and name no set."""

_USED = ("train", "val", *DATASET_FILE_KEYS)
_YAML_SUFFIXES = (".yaml", ".yml")
_DARKNET_SUFFIX = ".data"
DATASET_FILE_SUFFIXES = (*_YAML_SUFFIXES, _DARKNET_SUFFIX)
"""How the names of such files end."""

_SPLIT_FOLDERS = ("images/{}", "{}/images", "{}")
_NAMES_TOO = " 'data.names=[...]'"
_MOST_NAMED = 5
_OF_DARKNET = {"classes": "nc", "valid": "val"}
_CHANNELS = 3
_CHANNEL_KEYS = {"channels", "ch"}


def expand_dataset_file(tree: Located, folder: Path) -> Located:
    """Replace `data: FILE.yaml` by the section that the file describes.

    Args:
        tree: a recipe's mapping.
        folder: what a relative FILE starts from.

    Raises:
        YoloflowError: the file cannot be read or does not describe a data set.
    """
    data = tree.mapping.get("data")
    if data is None or not isinstance(data.value, str):
        return tree
    path = folder / Path(data.value).expanduser()
    if path.is_dir():
        text = f"there is no such file: it is a folder; {_instead_of_folder(path)}"
        raise YoloflowError(f"{data.place}: data: {data.value}: {text}")
    if not path.is_file():
        others = [file.name for file in path.parent.glob("*.y*ml")]
        near = f"; {nearest_names(path.name, others)}" if others else ""
        raise YoloflowError(f"{data.place}: data: {data.value}: there is no such file{near}")
    if path.suffix.lower() not in DATASET_FILE_SUFFIXES:
        raise YoloflowError(
            f"{data.place}: data: {data.value} is no YAML file that describes a data set; "
            "give one, or the section's own keys (data.train_set=..., data.val_set=...)"
        )
    return Located({**tree.mapping, "data": _section(path)}, tree.place)


def _instead_of_folder(folder: Path) -> str:
    """Returns what to give for a folder, by what lies in it."""
    inside = sorted(one.name for one in folder.iterdir() if one.suffix.lower() in DATASET_FILE_SUFFIXES)
    if inside:
        return f"data={folder / inside[0]} is there"
    if files := coco_files(str(folder)):
        found = f" ({', '.join(files[1:_MOST_NAMED])} too)" if len(files) > 1 else ""
        return f"give data.train_set={files[0]}{found}"
    pairs = ((form.format("train"), form.format(val)) for form in _SPLIT_FOLDERS for val in ("val", "valid"))
    parts = next((pair for pair in pairs if all((folder / part).is_dir() for part in pair)), ("",))
    places = [str(folder / part) for part in parts]
    sets = " ".join(f"data.{key}_set={place}" for key, place in zip(("train", "val"), places, strict=False))
    return f"give {sets}{'' if voc_xml.recognises(places[0]) else _NAMES_TOO}"


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """The content of a data set file.

    Attributes:
        sets: sources of each set (train, val, test) that it names.
        names: class names; nc: number of classes.
        kpt_shape: keypoints of a label line, and the figures of each.
    """

    sets: dict[str, list[str]]
    names: list[str] | None
    nc: int | None
    kpt_shape: list[int] | None


def read_dataset_file(path: Path) -> DatasetFile:
    """Read a data set file with all its sets.

    Raises:
        YoloflowError: the file cannot be read, names no set, or says what cannot be.
    """
    keys = _checked_keys(path)
    sets = {name: keys[name] for name in _SETS if name in keys}
    if not sets:
        raise YoloflowError(f"{path}: names none of {', '.join(_SETS)}")
    located = {name: one.plain() for name, one in locate_sets(sets, keys.get("path"), path, "test").items()}
    names, nc, kpt_shape = (
        keys[key].plain() if key in keys else None for key in ("names", "nc", "kpt_shape")
    )
    return DatasetFile(
        {name: [one] if isinstance(one, str) else one for name, one in located.items()}, names, nc, kpt_shape
    )


def _section(path: Path) -> Located:
    keys = _checked_keys(path)
    for theirs in ("train", "val"):
        akin = [key for key in keys if key.lower().startswith(theirs)]
        if akin and theirs not in keys:
            raise YoloflowError(f"{path}: its key {akin[0]} would have to be called {theirs}")
    if "train" not in keys:
        raise YoloflowError(f"{path}: needs `train`, the images to train on")
    named = {key: node for key, node in keys.items() if key in ("train", "val")}
    sets = locate_sets(named, keys.get("path"), path)
    section = {key: Located(None, str(path)) for key in ("nc", "names", "kpt_shape", "val_set")}
    section |= {f"{key}_set": node for key, node in sets.items()}
    section |= {key: keys[key] for key in ("nc", "names", "kpt_shape") if key in keys}
    ignored = sorted(set(keys) - set(_USED))
    if ignored:
        logger.info("%s: not used: %s", path, ", ".join(ignored))
    return Located(section, str(path))


def _checked_keys(path: Path) -> dict[str, Located]:
    """Returns the keys that have a value; classes, their number and keypoints in our form."""
    written = (_read_darknet(path) if path.suffix.lower() == _DARKNET_SUFFIX else read_yaml(path)).mapping
    keys = {key: node for key, node in written.items() if node.value not in (None, "")}
    for key in ("train", "val"):
        if key in written and key not in keys:
            place = written[key].place
            raise YoloflowError(f"{place}: {key}: a path, or a list of paths, is expected")
    if "names" in keys:
        keys["names"] = _names(keys["names"])
    if "nc" in keys:
        keys["nc"] = _whole_number(keys["nc"], "nc")
    if "kpt_shape" in keys:
        keys["kpt_shape"] = _kpt_shape(keys["kpt_shape"])
    _check_count(keys)
    _check_channels(keys)
    return keys


def _read_darknet(path: Path) -> Located:
    """Returns the keys of Darknet's `obj.data`, by their names in YAML files, with the names of its file."""
    keys: dict[str, Located] = {}
    for line, number in read_list_file(str(path)):
        if line.startswith(("#", ";")):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise YoloflowError(f"{path}:{number}: `key = value` is expected, not {line!r}")
        keys[_OF_DARKNET.get(key, key)] = Located(value, f"{path}:{number}")
    if "names" in keys:
        node = locate_sets({"names": keys["names"]}, None, path)["names"]
        if not Path(str(node.value)).is_file():
            raise YoloflowError(f"{node.place}: names: there is no file {node.value}; correct the path")
        names = [Located(name, f"{node.value}:{number}") for name, number in read_list_file(str(node.value))]
        keys["names"] = Located([*names], node.place)
    return Located({**keys}, str(path))


def _names(node: Located) -> Located:
    children = node.value
    if isinstance(children, dict):
        children = _in_order(children, node.place)
    if not isinstance(children, list) or not children:
        raise YoloflowError(f"{node.place}: names: a list of class names is expected, not {node.plain()!r}")
    seen: set[str] = set()
    for child in children:
        # Numbers are names, as in the digits; true, null and lists are mistakes.
        if isinstance(child.value, bool) or not isinstance(child.value, str | int):
            text = f"names: a class name is expected, not {child.plain()!r}; put a name in quotes"
            raise YoloflowError(f"{child.place}: {text}")
        if fault := fault_of_class_name(str(child.value)):
            raise YoloflowError(f"{child.place}: names: the name of class {len(seen)} {fault}")
        if str(child.value) in seen:
            raise YoloflowError(f"{child.place}: names: {child.value} stands there twice")
        seen.add(str(child.value))
    return Located([Located(str(child.value), child.place) for child in children], node.place)


def _in_order(numbered: dict[str, Located], place: str) -> list[Located]:
    """Returns the names of `{0: cat, 1: dog}`, by number."""
    for key, child in numbered.items():
        if not key.isdecimal():
            raise YoloflowError(f"{child.place}: class numbers are expected in names, not {key!r}")
    by_number = {int(key): child for key, child in numbered.items()}
    if sorted(by_number) != list(range(len(by_number))):
        raise YoloflowError(f"{place}: names must be numbered 0 to {len(by_number) - 1} without gaps")
    return [by_number[number] for number in range(len(by_number))]


def _whole_number(node: Located, key: str) -> Located:
    """Returns a number from 1 that may be written as '2' or 2.0."""
    value = node.value
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise YoloflowError(f"{node.place}: {key}: a whole number from 1 is expected, not {node.plain()!r}")
    return Located(value, node.place)


def _kpt_shape(node: Located) -> Located:
    children = node.value if isinstance(node.value, list) else []
    numbers = [_whole_number(child, "kpt_shape") for child in children]
    if len(numbers) != 2 or numbers[1].value not in (2, 3):
        text = "[number of keypoints, 2 or 3 figures of each] is expected"
        raise YoloflowError(f"{node.place}: kpt_shape: {text}, not {node.plain()!r}")
    return Located(numbers, node.place)


def _check_count(keys: dict[str, Located]) -> None:
    names, nc = (keys[key].plain() if key in keys else None for key in ("names", "nc"))
    if names and nc and nc != len(names):
        raise YoloflowError(
            f"{keys['nc'].place}: data: nc is {nc} but {len(names)} names are given; leave one of them out"
        )


def _check_channels(keys: dict[str, Located]) -> None:
    """Images of other than three channels would lose what makes them worth keeping."""
    for key in _CHANNEL_KEYS & keys.keys():
        count = _whole_number(keys[key], key)
        if count.value == 1:
            logger.info("%s: %s: 1: grey images are read as three equal channels", count.place, key)
        elif count.value != _CHANNELS:
            raise YoloflowError(
                f"{count.place}: {key}: {count.value}: networks take {_CHANNELS} channels, others would be "
                f"lost; save images of {_CHANNELS} channels and remove the line"
            )
