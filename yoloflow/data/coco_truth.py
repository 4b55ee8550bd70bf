"""COCO's json beside a list file: the truth of an evaluation, and the ids of COCO's classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from yoloflow.data.formats import coco_json, yolo_txt
from yoloflow.data.formats.annotations import Annotations
from yoloflow.structures import Int64Array, Problem, YoloflowError
from yoloflow.weights.published import coco_names

# The gaps in the ids of COCO's 80 categories.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_COCO_IDS = [number for number in range(1, 91) if number not in _COCO_GAPS]


class ForeignTruthError(YoloflowError):
    """A json beside a list file is not about the list's images or classes."""


def truth_beside(list_file: str) -> str | None:
    """Returns `annotations/instances_NAME.json` beside NAME.txt, or MindYOLO's `instances_val2017.json`."""
    folder, name = os.path.split(list_file)
    stem, suffix = os.path.splitext(name)
    if suffix.lower() != ".txt":
        return None
    names = (f"instances_{stem}.json", "instances_val2017.json")
    paths = [os.path.join(folder, "annotations", candidate) for candidate in names]
    return next((path for path in paths if os.path.isfile(path)), None)


def read_truth(
    path: str, source: str, image_folder: str | None, names: Sequence[str] | None, nc: int | None
) -> Annotations:
    """Reads the annotations of a YOLO source's images from a COCO json; label files are not read.

    Args:
        path: the json.
        source: names the images, see `yolo_txt.read`.
        image_folder: likewise.
        names: class names that the json's categories must have, in any order; mere numbers stand for the
            categories in the order of their ids.
        nc: number of classes that it must have.

    Raises:
        ForeignTruthError: it lacks an image, or has other classes.
        YoloflowError: a file cannot be read.
    """
    paths, lines, problems = yolo_txt.listed_images(source, image_folder)
    try:
        found = coco_json.read(path, image_paths=list(dict.fromkeys(paths)))
    except YoloflowError as error:
        raise ForeignTruthError(str(error)) from error
    found.problems += problems + _repeated(source, paths, lines)
    found.num_images_listed = len(paths)
    assert found.categories is not None
    count = len(found.categories)
    if names is not None and list(names) == [str(number) for number in range(count)]:
        found.categories = dict(zip(found.categories, names, strict=True))
    wanted = nc if names is None else len(names)
    foreign = set() if names is None else set(found.categories.values()) ^ set(names)
    if foreign or (wanted is not None and wanted != count):
        shown = ", ".join(sorted(foreign)[:5]) or f"{count}, not {wanted}"
        raise ForeignTruthError(f"{path}: has other classes than the data set ({shown})")
    if found.consulted is not None:
        found.consulted.append(source)
    return found


def _repeated(source: str, paths: Sequence[str], lines: Sequence[int]) -> list[Problem]:
    """Returns a problem for each line that lists an image again."""
    first: dict[str, int] = {}
    problems = []
    for path, line in zip(paths, lines, strict=True):
        if path in first:
            detail = f"{path} is listed already, in line {first[path]}"
            problems.append(Problem(source, line or None, "duplicate-image", "drop-image", detail, path))
        first.setdefault(path, line)
    return problems


def category_ids_of(names: Sequence[str]) -> Int64Array:
    """Returns the ids that files for the user carry where no source has its own: COCO's for its names."""
    if list(names) == coco_names():
        return np.array(_COCO_IDS, np.int64)
    return np.arange(1, len(names) + 1)


def has_coco_ids(category_ids: Int64Array) -> bool:
    """Returns whether a data set's classes carry the ids of COCO's 80 categories."""
    ids: list[int] = category_ids.tolist()
    return ids == _COCO_IDS


def image_ids_of(paths: Sequence[str], names: Sequence[str]) -> Int64Array | None:
    """Returns the ids that COCO's file names are, for a set of COCO's classes; None for any other."""
    if list(names) != coco_names():
        return None
    stems = [PurePath(path).stem for path in paths]
    if not all(stem.isdecimal() and len(stem) < 19 for stem in stems):
        return None
    ids = np.array([int(stem) for stem in stems], np.int64)
    return ids if len(np.unique(ids)) == len(ids) else None
