"""Class names that lie beside labels without names: for messages, nobody takes them unasked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from yoloflow.data.formats.list_file import read_list_file
from yoloflow.structures import YoloflowError

_DATASET_FILES = ("data.y*ml", "dataset.y*ml", "*.data")
_NAMES_FILES = ("*.names", "classes.txt", "labels/classes.txt")
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
