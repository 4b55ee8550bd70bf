"""Class names and labels of other formats that lie nearby: for messages, nobody takes them unasked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

from yoloflow.data.formats.coco_entries import foreign_program
from yoloflow.data.formats.list_file import read_list_file
from yoloflow.data.formats.voc_files import IMAGE_FOLDERS
from yoloflow.structures import YoloflowError

_DATASET_FILES = ("data.y*ml", "dataset.y*ml", "*.data")
_NAMES_FILES = ("*.names", "classes.txt", "labels/classes.txt")
_LABEL_FILES = ("*.json", "*.csv", "*.xml", "*/*.json", "*/*.csv", "*/*.xml")
_MOST_FILES = 20
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


def describe_labels_nearby(source: str, image: str) -> str:
    """Returns a clause about other labels at a source without labels; "" if there are none.

    Args:
        source: list file, folder or glob pattern.
        image: path of one of its images.
    """
    path = Path(os.path.abspath(source))
    folder = path if path.is_dir() else path.parent
    for place in (folder, *folder.parents[: _LEVELS_UP - 1]):
        clauses = [clause for file in _label_files(place) if (clause := _what_it_is(file, Path(image)))]
        if clauses:
            return f"; {min(clauses)[1]}"
    return ""


def _label_files(place: Path) -> Iterator[Path]:
    """Yields files that may have labels, the first ones of each folder."""
    for pattern in _LABEL_FILES:
        for _, files in groupby(sorted(place.glob(pattern)), key=lambda file: file.parent):
            yield from islice(files, _MOST_FILES)


def _what_it_is(file: Path, image: Path) -> tuple[int, str] | None:
    """Returns what a file is and what to do with it, behind a number of rank; None if it has no labels."""
    program = "of another format"
    if file.suffix == ".json":
        try:
            text = file.read_bytes() if file.stat().st_size < _MOST_BYTES else b'{"images": []}'
            content = json.loads(text)
        except (OSError, ValueError):
            return None
        if isinstance(content, dict) and "images" in content:
            return 0, f"{file} may be a COCO json of these images: give it as the source"
        known = foreign_program(content)
        is_ours = isinstance(content, dict) and {"errors", "train_set"} <= content.keys()
        if not known and (is_ours or image.stem.encode() not in text):
            return None
        program = known or program
    elif file.suffix == ".xml":
        with open(file, "rb") as handle:
            head = handle.read(_HEAD_BYTES)
        if b"<annotation>" in head:
            is_found = image.parent.name.lower() in IMAGE_FOLDERS
            images = "" if is_found else f", with data.image_folder={image.parent}"
            return 1, f"{file.parent} has XML files of PASCAL VOC: give it as the source{images}"
        program = "CVAT's own XML" if b"<annotations" in head else program
    return 2, f"{file} is {program}, which is not read: save its labels as COCO json, YOLO or PASCAL VOC"
