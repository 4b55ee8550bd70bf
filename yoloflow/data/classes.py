"""Classes by name or id: one class list for all sources of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

import numpy as np

from yoloflow.data.coco_truth import category_ids_of
from yoloflow.data.formats.annotations import Annotations
from yoloflow.structures import Int64Array, Problem, YoloflowError, fault_of_class_name, nearest_names

_NAMED = 20

ClassCount = int | Literal["counted"] | None
"""A number of classes; "counted": as many as the highest class of YOLO labels says."""


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """The classes of a data set as far as they are known before it is read.

    Attributes:
        names: class names in the order of the set's own numbers; None takes the sources' own.
        nc: number of classes; for sources that name none. "counted" says nothing of those that do.
        wanted: class names that the set is to have, to which its own are mapped by name: those of the network
            that it is for; None for a set that decides itself.
        owner: whose names `wanted` are, for messages.
    """

    names: Sequence[str] | None = None
    nc: ClassCount = None
    wanted: Sequence[str] | None = None
    owner: str = "the network's classes"

    def words(self) -> list[object]:
        """Returns the choice as JSON-able data."""
        return [self.names, self.nc, self.wanted, self.owner]

    @property
    def stated_nc(self) -> int | None:
        """Returns the number of classes, None where it is to be counted."""
        return None if self.nc == "counted" else self.nc


class NoClassesError(YoloflowError):
    """The labels name no classes, and nobody else does."""


@dataclass(frozen=True, slots=True)
class ClassList:
    """Names in class order, and the (C,) int64 ids that files written for the user carry.

    Attributes:
        owner: whose names these are, for messages; advice: what can be done about a class that is missing.
        unlisted: classes that are no categories of the json that the ids are of.
    """

    names: list[str]
    category_ids: Int64Array
    owner: str = "data.names"
    advice: str = ""
    unlisted: list[int] = field(default_factory=list)


def resolve_classes(
    parts: Sequence[Annotations], sources: Sequence[str], choice: ClassChoice
) -> tuple[ClassList, list[Problem]]:
    """Settle the class list and turn each part's class ids into classes, in place; -1 where there is none.

    Given names decide. Without them the wanted ones do, where there are any; else the categories of the first
    COCO json, in the order of their ids; without a json the names found in VOC files, sorted; YOLO labels
    alone need names or their number. Named classes are mapped by name, numbers by the names that are given.
    At last all are mapped to the wanted classes by name.

    Returns:
        the classes, and a problem for each object whose class does not exist.

    Raises:
        YoloflowError: names, nc and sources contradict each other.
    """
    rows = list(zip(parts, sources, strict=True))
    own = _own_classes(rows, choice)
    for part, source in rows:
        if choice.names is None and choice.wanted and part.categories and len(part.class_ids):
            _check_shares_a_class(source, list(part.categories.values()), own)
    classes = own if choice.wanted is None else _with_ids(choice.wanted, parts, choice.owner)
    raw_ids = [part.class_ids for part in parts]
    problems = [problem for part, source in rows for problem in _equal(part, source)]
    if choice.names is None and choice.wanted is None:
        problems += _numbers_beside_names(rows, choice, own)
    problems += [problem for part in parts for problem in _map_ids(part, own)]
    if own.names == classes.names:
        return own, problems
    if len(own.names) == len(classes.names) and (_are_numbers(own.names) or _are_numbers(classes.names)):
        classes = replace(classes, category_ids=own.category_ids, unlisted=own.unlisted)
        number_of_own = np.arange(len(classes.names))
        lists = f"({_some(own.names)}) are taken for {classes.owner} ({_some(classes.names)})"
        detail = f"its classes {lists} in this order"
        problems.append(Problem(", ".join(sources), None, "class-order-assumed", "keep", detail))
    else:
        _check_shares_a_class(", ".join(sources), own.names, classes)
        number_of_own = np.array(_numbers_by_name(own.names, classes), np.int64)
    for part, ids in zip(parts, raw_ids, strict=True):
        known = part.class_ids >= 0
        part.class_ids = np.where(known, number_of_own[part.class_ids], -1)
        lost = np.flatnonzero(known & (part.class_ids < 0)).tolist()
        problems += [_unknown_class(part, row, int(ids[row]), own, classes) for row in lost]
    return classes, problems


def _own_classes(rows: Sequence[tuple[Annotations, str]], choice: ClassChoice) -> ClassList:
    """The classes that the numbers and names of the set mean, before they are mapped to the wanted ones."""
    parts = [part for part, _ in rows]
    if choice.names is not None:
        _check_given(choice.names, choice.stated_nc)
        return _with_ids(choice.names, parts, "data.names")
    if choice.wanted is not None:
        nc, known = choice.stated_nc, choice.wanted
        if nc is not None and nc != len(known) and any(part.categories is None for part in parts):
            raise YoloflowError(
                f"{', '.join(source for _, source in rows)}: data.nc={nc} but {choice.owner} are "
                f"{len(known)} ({_some(known)}); set data.names=[...] to what the numbers of the labels mean"
            )
        return _with_ids(known, parts, choice.owner)
    stated = [(part, source) for part, source in rows if part.categories and part.has_own_ids]
    if not stated:
        return _with_ids(_found_names(parts, choice.nc), parts, "data.names")
    part, source = stated[0]
    names = list(dict.fromkeys((part.categories or {}).values()))
    if choice.stated_nc not in (None, len(names)):
        raise YoloflowError(
            f"{source}: has {len(names)} categories but data.nc={choice.nc}; "
            f"set data.nc={len(names)} or leave it out to take them from the file"
        )
    owned = _with_ids(names, parts, f"the categories of {source}")
    return replace(owned, advice="; data.names=[...] can name the classes of all sources")


def _check_given(names: Sequence[str], nc: int | None) -> None:
    repeated = [name for number, name in enumerate(names) if name in names[:number]]
    if repeated:
        raise YoloflowError(f"data.names: {repeated[0]} stands there twice")
    for number, name in enumerate(names):
        if fault := fault_of_class_name(name):
            raise YoloflowError(f"data.names: the name of class {number} {fault}")
    if not names:
        raise YoloflowError("data.names: is empty; name the classes or leave it out")
    if nc is not None and nc != len(names):
        raise YoloflowError(
            f"data.nc={nc} but data.names has {len(names)} names; set data.nc={len(names)} or leave it out"
        )


def _equal(part: Annotations, source: str) -> Iterator[Problem]:
    """Finds categories of one name that have objects each; a root category of an exporter has none."""
    used = set(np.unique(part.class_ids).tolist())
    ids_of: dict[str, list[int]] = {}
    for number, name in (part.categories or {}).items():
        if number in used:
            ids_of.setdefault(name, []).append(number)
    for name, ids in ids_of.items():
        if len(ids) > 1:
            detail = f"the categories {', '.join(map(str, ids))} are all called {name}, which is one class"
            yield Problem(source, None, "equal-class-names", "keep", detail)


def _numbers_beside_names(
    rows: Sequence[tuple[Annotations, str]], choice: ClassChoice, own: ClassList
) -> Iterator[Problem]:
    """Looks for labels with numbers for classes beside sources with names: nobody said which is which.

    Raises:
        YoloflowError: there are such, and the classes are not just counted.
    """
    numbered = [source for part, source in rows if part.categories is None and len(part.class_ids)]
    named = [source for part, source in rows if part.categories]
    if not numbered or not named:
        return
    known = f"the classes of {named[0]} ({_some(own.names)})"
    if choice.nc == "counted":
        detail = f"the numbers of its labels are taken for {known} in this order"
        yield Problem(numbered[0], None, "class-order-assumed", "keep", detail)
        return
    raise YoloflowError(
        f"{numbered[0]}: its labels have numbers for classes, and nothing says which of {known} they are; "
        "name the classes of all sources in the order of these numbers: data.names=[NAME, ...] "
        "(data convert and data split: --name NAME for each)"
    )


def _with_ids(names: Sequence[str], parts: Sequence[Annotations], owner: str) -> ClassList:
    """Class ids for output: the first json's own, free numbers for classes that it lacks; else from 1."""
    stated = next((part for part in parts if part.categories and part.has_own_ids), None)
    if stated is None:
        return ClassList(list(names), category_ids_of(names), owner)
    categories = stated.categories or {}
    if list(categories.values()) == list(names):
        return ClassList(list(names), np.array(list(categories), np.int64), owner)
    used = set(np.unique(stated.class_ids).tolist())
    # Of categories of one name the first that has objects is meant: the last here.
    numbers = sorted(categories, key=lambda one: (one in used, -one))
    found = numbers_by_name(names, [categories[number] for number in numbers])
    free = count(max(categories) + 1)
    ids = [next(free) if place < 0 else numbers[place] for place in found]
    unlisted = [number for number, place in enumerate(found) if place < 0]
    return ClassList(list(names), np.array(ids, np.int64), owner, unlisted=unlisted)


def _found_names(parts: Sequence[Annotations], nc: ClassCount) -> list[str]:
    """Returns class names where neither the user nor a json gives them."""
    found = sorted({name for part in parts for name in (part.categories or {}).values()})
    if nc == "counted":
        nc = None if found else max(int(part.class_ids.max(initial=0)) for part in parts) + 1
    if not found:
        if nc is None:
            raise NoClassesError(
                "YOLO text labels, and PNG without labelmap.txt, name no classes; set data.nc=COUNT or "
                "data.names=[NAME, ...]"
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


def _check_shares_a_class(source: str, names: Sequence[str], classes: ClassList) -> None:
    if {name.strip() for name in names} & {name.strip() for name in classes.names}:
        return
    advice = ""
    if _are_numbers(classes.names):
        advice = f"; data.names=[...] says which class is which of the {len(classes.names)} numbers"
    raise YoloflowError(
        f"{source}: none of its classes ({_some(names)}) is in {classes.owner} "
        f"({_some(classes.names)}){advice}"
    )


def _map_ids(part: Annotations, classes: ClassList) -> list[Problem]:
    """Converts class ids to classes, in place; -1 and a problem for a class that the data set lacks."""
    raw_ids = part.class_ids
    if part.categories is None:
        part.class_ids = np.where((raw_ids >= 0) & (raw_ids < len(classes.names)), raw_ids, -1)
    else:
        part.class_ids = _classes_of_categories(part, part.categories, classes)
    unknown = np.flatnonzero(part.class_ids < 0).tolist()
    hint = _off_by_one(part.categories, raw_ids) if unknown and part.categories else ""
    return [_unknown_class(part, row, int(raw_ids[row]), classes, hint=hint) for row in unknown]


def _classes_of_categories(part: Annotations, categories: dict[int, str], classes: ClassList) -> Int64Array:
    if not categories:
        return np.full_like(part.class_ids, -1)
    if part.has_own_ids and list(categories.values()) == classes.names:
        # By position: the network of an older run may tell two classes of one name apart.
        targets = list(range(len(classes.names)))
    else:
        targets = _numbers_by_name(list(categories.values()), classes)
    ids = np.array(list(categories), np.int64)
    order = np.argsort(ids)
    found = order[np.searchsorted(ids, part.class_ids, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[found] == part.class_ids, np.array(targets, np.int64)[found], -1)


def _numbers_by_name(names: Sequence[str], classes: ClassList) -> list[int]:
    """Returns the class of each name; -1 where there is none."""
    for name in names:
        if classes.names.count(name) > 1:
            raise YoloflowError(
                f"{classes.owner}: {name} stands there twice, so that it says nothing about which is meant"
            )
    return numbers_by_name(names, classes.names)


def numbers_by_name(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Returns where each name is among the known ones, blanks around it aside if need be; -1 for nowhere."""
    exact = {name: number for number, name in enumerate(known)}
    number_of = {name.strip(): number for number, name in enumerate(known)} | exact
    return [number_of.get(name, number_of.get(name.strip(), -1)) for name in names]


def _are_numbers(names: Sequence[str]) -> bool:
    """Returns whether these are the names of classes of which only the number is known."""
    return list(names) == [str(number) for number in range(len(names))]


def _unknown_class(
    part: Annotations,
    row: int,
    number: int,
    own: ClassList,
    wanted: ClassList | None = None,
    hint: str = "",
) -> Problem:
    """The problem of an object whose class the set lacks, or else the wanted classes.

    Args:
        part: the source.
        row: its box.
        number: class id that the source states.
        own: classes of the set.
        wanted: the wanted classes, if the set has the class.
        hint: for the end of the message about an id that the source does not define.
    """
    file, line, prefix = part.place_of_box(row)
    if part.categories is not None and number in part.categories:
        name, lacking = part.categories[number], wanted or own
        near = nearest_names(name, lacking.names)
        what = f"class {name} is not in {lacking.owner} ({near}){lacking.advice}"
    elif part.categories is not None:
        known = ", ".join(map(str, part.categories)) if len(part.categories) <= _NAMED else "others"
        what = f"category_id {number} is not among the file's categories ({known}){hint}"
    elif wanted is not None:
        name = own.names[number]
        what = f"class {number} ({name}) is not in {wanted.owner} ({nearest_names(name, wanted.names)})"
    else:
        count_own = len(own.names)
        what = f"class {number} does not exist: {count_own} classes are numbered 0 to {count_own - 1}"
    image = part.image_paths[part.box_images[row]]
    return Problem(file, line, "class-out-of-range", "drop-box", prefix + what, image)


def _off_by_one(categories: dict[int, str], ids: Int64Array) -> str:
    """Returns a hint where all ids of the objects would be known if they were one less or one more."""
    used = set(np.unique(ids).tolist())
    for shift, words in ((-1, "one less"), (1, "one more")):
        if {number + shift for number in used} <= set(categories):
            return f"; all would be if they were {words}"
    return ""


def _some(names: Sequence[str]) -> str:
    """Returns names for a message, the first ones of many."""
    more = f", ... and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
