"""Classes by name or id: one class list for all sources of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yoloflow.data.coco_truth import category_ids_of
from yoloflow.data.formats.annotations import Annotations
from yoloflow.structures import Int64Array, Problem, YoloflowError, nearest_names


@dataclass(frozen=True, slots=True)
class ClassList:
    """Names in class order, and the (C,) int64 ids that files written for the user carry."""

    names: list[str]
    category_ids: Int64Array


def resolve_classes(
    parts: Sequence[Annotations], sources: Sequence[str], names: Sequence[str] | None, nc: int | None
) -> tuple[ClassList, list[Problem]]:
    """Settle the class list and turn each part's class ids into classes, in place; -1 where there is none.

    Given names decide. Without them a COCO json's categories do, in the order of their ids; without a json
    the names found in VOC files, sorted; YOLO labels alone need `names` or `nc`.

    Returns:
        the classes, and a problem for each object whose class does not exist.

    Raises:
        YoloflowError: names, nc and sources contradict each other.
    """
    if names is not None:
        _check_given(names, nc)
    stated = [
        (part, source)
        for part, source in zip(parts, sources, strict=True)
        if part.categories and part.has_own_ids
    ]
    for part, source in stated:
        _check_categories(part, source, names, nc)
    classes = _choose(parts, [part for part, _ in stated], names, nc)
    _check_stated_agree(stated, classes, names)
    return classes, [problem for part in parts for problem in _map_ids(part, classes)]


def _check_given(names: Sequence[str], nc: int | None) -> None:
    repeated = [name for number, name in enumerate(names) if name in names[:number]]
    if repeated:
        raise YoloflowError(f"data.names: {repeated[0]} stands there twice")
    if not names:
        raise YoloflowError("data.names: is empty; name the classes or leave it out")
    if nc is not None and nc != len(names):
        raise YoloflowError(
            f"data.nc={nc} but data.names has {len(names)} names; set data.nc={len(names)} or leave it out"
        )


def _check_categories(part: Annotations, source: str, names: Sequence[str] | None, nc: int | None) -> None:
    assert part.categories is not None
    count = len(part.categories)
    expected, key = (nc, "data.nc") if names is None else (len(names), "data.names")
    if expected is not None and expected != count:
        says = f"data.nc={nc}" if names is None else f"data.names has {expected} names"
        raise YoloflowError(
            f"{source}: has {count} categories but {says}; set data.nc={count} and the file's data.names, "
            f"or leave out {key} to take them from the file"
        )
    if names is not None and set(names) != set(part.categories.values()):
        foreign = next(name for name in part.categories.values() if name not in names)
        raise YoloflowError(
            f"{source}: its category {foreign} is not in data.names ({nearest_names(foreign, names)}); "
            "correct data.names or leave it out to take the file's"
        )


def _choose(
    parts: Sequence[Annotations], stated: Sequence[Annotations], names: Sequence[str] | None, nc: int | None
) -> ClassList:
    if stated:
        categories = stated[0].categories
        assert categories is not None
        if names is None:
            return ClassList(list(categories.values()), np.array(list(categories), np.int64))
        id_of_name = {name: number for number, name in categories.items()}
        return ClassList(list(names), np.array([id_of_name[name] for name in names], np.int64))
    if names is None:
        names = _found_names(parts, nc)
    return ClassList(list(names), category_ids_of(names))


def _found_names(parts: Sequence[Annotations], nc: int | None) -> list[str]:
    """Returns class names where neither the user nor a json gives them."""
    found = sorted({name for part in parts for name in (part.categories or {}).values()})
    if not found:
        if nc is None:
            raise YoloflowError(
                "YOLO text labels name no classes; set data.nc=COUNT or data.names=[NAME, ...]"
            )
        if nc < 1:
            raise YoloflowError(f"data.nc={nc}: must be at least 1")
        return [str(number) for number in range(nc)]
    if nc is not None and nc != len(found):
        raise YoloflowError(
            f"data.nc={nc} but the annotations name {len(found)} classes ({', '.join(found[:20])}); "
            "set data.names to the classes in the order you want"
        )
    return found


def _check_stated_agree(
    stated: Sequence[tuple[Annotations, str]], classes: ClassList, names: Sequence[str] | None
) -> None:
    for part, source in stated[1:]:
        assert part.categories is not None
        if names is None and list(part.categories.values()) != classes.names:
            raise YoloflowError(
                f"{source}: its categories ({', '.join(part.categories.values())}) are not those of "
                f"{stated[0][1]} ({', '.join(classes.names)}); set data.names to the order you want"
            )


def _map_ids(part: Annotations, classes: ClassList) -> list[Problem]:
    """Converts class ids to classes, in place; -1 and a problem for a class that the data set lacks."""
    raw_ids = part.class_ids
    if part.categories is None:
        part.class_ids = np.where((raw_ids >= 0) & (raw_ids < len(classes.names)), raw_ids, -1)
    else:
        part.class_ids = _classes_of_categories(part, part.categories, classes)
    unknown = np.flatnonzero(part.class_ids < 0).tolist()
    return [_unknown_class(part, row, int(raw_ids[row]), classes) for row in unknown]


def _classes_of_categories(part: Annotations, categories: dict[int, str], classes: ClassList) -> Int64Array:
    if not categories:
        return np.full_like(part.class_ids, -1)
    if part.has_own_ids and list(categories.values()) == classes.names:
        # By position, so that two categories of one name stay two classes.
        targets = list(range(len(classes.names)))
    else:
        class_of = {name: number for number, name in enumerate(classes.names)}
        targets = [class_of.get(name, -1) for name in categories.values()]
    ids = np.array(list(categories), np.int64)
    order = np.argsort(ids)
    found = order[np.searchsorted(ids, part.class_ids, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[found] == part.class_ids, np.array(targets, np.int64)[found], -1)


def _unknown_class(part: Annotations, row: int, number: int, classes: ClassList) -> Problem:
    file, line, prefix = part.place_of_box(row)
    if part.categories is None:
        count = len(classes.names)
        what = f"class {number} does not exist: {count} classes are numbered 0 to {count - 1}"
    elif number in part.categories:
        name = part.categories[number]
        what = f"class {name} is not in data.names ({nearest_names(name, classes.names)})"
    else:
        known = ", ".join(map(str, part.categories)) if len(part.categories) <= 20 else "others"
        what = f"category_id {number} is not among the file's categories ({known})"
    image = part.image_paths[part.box_images[row]]
    return Problem(file, line, "class-out-of-range", "drop-box", prefix + what, image)
