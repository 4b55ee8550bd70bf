"""Class names and labels of other formats that lie nearby: for messages, nobody takes them unasked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from yoloflow.data.formats.coco_entries import foreign_program
from yoloflow.data.formats.list_file import read_list_file
from yoloflow.structures import YoloflowError

_DATASET_FILES = ("data.y*ml", "dataset.y*ml", "*.data")
_NAMES_FILES = ("*.names", "classes.txt", "labels/classes.txt")
_LABEL_FILES = ("*.json", "*.csv", "*.xml", "*/*.json", "*/*.csv", "*/*.xml")
_MOST_BYTES = 2**24
_HEAD_BYTES = 4096
_LEVELS_UP = 2
_MOST_NAMES = 20
_PLAIN_NAME = re.compile(r"\w[\w .-]*")


def describe_names_nearby(source: str) -> str:
    """Returns a clause about files at a source or above it that name classes; "" if there is none.

    Args:
        source: list file, folder or glob pattern.
    """
    path = Path(os.path.abspath(source))
    for folder in (path, *list(path.parents)[:_LEVELS_UP]):
        clauses = [*_clauses(folder)]
        if clauses:
            return "; " + ", or ".join(clauses)
    return ""


def _clauses(folder: Path) -> Iterator[str]:
    for path in (found for pattern in _DATASET_FILES for found in sorted(folder.glob(pattern))):
        yield f"{path} describes a data set: data={path}"
    for path in (found for pattern in _NAMES_FILES for found in sorted(folder.glob(pattern))):
        try:
            names = [name for name, _ in read_list_file(str(path))]
        except (OSError, YoloflowError):
            continue
        if names:
            are_plain = len(names) <= _MOST_NAMES and all(map(_PLAIN_NAME.fullmatch, names))
            given = f"'data.names=[{', '.join(names)}]'" if are_plain else f"data.nc={len(names)}"
            yield f"{path} names {len(names)}: {given}"


def describe_labels_nearby(source: str) -> str:
    """Returns a clause about labels of another format at a source without labels; "" if there are none.

    Args:
        source: list file, folder or glob pattern.
    """
    path = Path(os.path.abspath(source))
    folder = path if path.is_dir() else path.parent
    for place in (folder, *folder.parents[: _LEVELS_UP - 1]):
        found = (one for pattern in _LABEL_FILES for one in sorted(place.glob(pattern)))
        for file in found:
            return f"; {file} {_what_it_is(file)}"
    return ""


def _what_it_is(file: Path) -> str:
    """Returns what a file of labels is and what can be done with it."""
    program = "of another format"
    if file.suffix == ".json":
        try:
            content = json.loads(file.read_bytes()) if file.stat().st_size < _MOST_BYTES else {"images": []}
        except (OSError, ValueError):
            content = None
        if isinstance(content, dict) and "images" in content:
            return "may be a COCO json of these images: give it as the source"
        program = foreign_program(content) or program
    elif file.suffix == ".xml":
        with open(file, "rb") as handle:
            program = "CVAT's own XML" if b"<annotations" in handle.read(_HEAD_BYTES) else program
    return f"is {program}, which is not read: save its labels as COCO json, YOLO or PASCAL VOC"
