"""COCO ground truth, from files and from data sets. Imports no torch.

Columns are checked as arrays, and only where an array shows a fault the entries one by one, as training reads
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import hotcoco
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.annotations import Annotations
from yoloflow.data.formats.coco_entries import (
    ImageEntries,
    Key,
    checked,
    load,
    read_categories,
    read_image_entries,
    read_objects,
    whole,
)
from yoloflow.data.formats.coco_json import flatten
from yoloflow.data.formats.image_search import parts_of
from yoloflow.data.formats.outlines import as_written, segmentation_of
from yoloflow.data.problems import Policy, account
from yoloflow.data.repairs import EDGE_TOLERANCE_PX, BoxRepair
from yoloflow.data.statistics import why_no_object
from yoloflow.evaluation.coco_outlines import box_outlines, read_outlines, with_sizes
from yoloflow.structures import Int64Array, Problem, YoloflowError, fault_of_class_name

Float64Array = NDArray[np.float64]

ANNOTATION_COLUMNS = ("image_id", "category_id", "x", "y", "w", "h", "area", "iscrowd")
MAX_ID = 2**53
"""Ids are less than that: they travel as float64."""
TRUTH_DECIMALS = 9

_LARGEST_AREA = 1e18


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Checked ground truth.

    Attributes:
        coco: hotcoco's data set.
        image_ids: ids of all images.
        images: the entries of the images as they are given, for file names and sizes.
        category_names: name of each category id, by rising id.
        annotations: (M, 8) float64 `ANNOTATION_COLUMNS`, in the given order, crowd regions among them.
        source: the file, or words for it, as error messages name it.
        id_of_key: id of each image by the file's own id; None where they are the same.
        problems: entries that are not used, or not as they stand.
        num_filled: objects that fill their box in `coco`, for they have neither outline nor mask; None where
            `coco` has boxes alone.
    """

    coco: hotcoco.COCO
    image_ids: frozenset[int]
    images: Sequence[Mapping[str, Any]]
    category_names: dict[int, str]
    annotations: Float64Array
    source: str
    id_of_key: Mapping[Key, int] | None = None
    problems: Sequence[Problem] = ()
    num_filled: int | None = None

    def account(self) -> dict[str, Any]:
        """Returns what was used and what was left out, as `problems_report` has it of a data set."""
        actions = Counter(problem.action for problem in self.problems)
        images, boxes = len(self.image_ids), len(self.annotations)
        return account(
            self.problems,
            (images + actions["drop-image"], images),
            (boxes + actions["drop-box"], boxes),
            images - len(np.unique(self.annotations[:, 0])),
            int(self.annotations[:, 7].sum()),
        )


def read_ground_truth(
    source: GroundTruth | Mapping[str, Any] | str | Path, *, with_masks: bool = False
) -> GroundTruth:
    """Reads ground truth in COCO's layout as training does, but with boxes as they stand.

    Ids may be texts, entries of one `file_name` are joined, and an annotation that cannot be used, or whose
    image or category is not listed, is left out and named in `problems`. An object that is listed twice, has
    no area or passes the edge of its image is named there too and counts as it is, as for pycocotools. A
    missing `area` becomes width times height and a missing `iscrowd` 0. An object may have id 0 (pycocotools
    counts such an object as missed, because 0 means "no match" there).

    Args:
        source: the json file or its content; what is read already stays as it is.
        with_masks: read segmentations too; an object without one, or with a malformed one, fills its box.

    Raises:
        YoloflowError: the file cannot be read, one id is given to two images or categories (the message
            names both), or an image whose masks are read has no size.
    """
    if isinstance(source, GroundTruth):
        if with_masks and source.num_filled is None:
            raise YoloflowError(f"{source.source}: was read without masks")
        return source
    if isinstance(source, Mapping):
        name, content = "ground truth", checked(source, "ground truth")
    else:
        name, content = str(source), load(source, with_outlines=with_masks)
    truth = _read(name, content, with_masks)
    if truth.annotations[:, 7].all():
        detail = why_no_object(len(truth.image_ids), len(truth.annotations))
        nothing = Problem(name, None, "nothing-to-find", "keep", detail)
        return replace(truth, problems=(*truth.problems, nothing))
    return truth


def _read(name: str, content: Mapping[str, Any], with_masks: bool) -> GroundTruth:
    images, categories, annotations = (content[key] for key in ("images", "categories", "annotations"))
    if _are_plain(images) and _are_plain(categories):
        names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in categories}
        rows = _annotation_table(annotations, frozenset(entry["id"] for entry in images), names.keys())
        if rows is not None and not _need_a_word(rows, images):
            ids = _annotation_ids(annotations)
            found, problems = read_outlines(name, images, annotations) if with_masks else (None, [])
            truth = ground_truth_from_rows(rows, images, names, name, ids, found)
            return replace(truth, problems=tuple(problems))
    return _read_leniently(name, images, categories, annotations, with_masks)


def _read_leniently(
    name: str,
    images: Sequence[Any],
    categories: Sequence[Any],
    annotations: Sequence[Any],
    with_masks: bool,
) -> GroundTruth:
    """Reads entries of which some are not as COCO has them."""
    names = read_categories(name, [_with_a_name(entry) for entry in categories])
    if min(names) < 0:
        raise YoloflowError(
            f"{name}: category id {min(names)} is negative; number the categories from 0 or 1"
        )
    entries = read_image_entries(name, images, need_names=False)
    entries.paths = entries.names
    problems = _same_ids(name, entries)
    first_of_name: dict[str, int] = {}
    number_of_key = {
        key: first_of_name.setdefault("/".join(parts_of(file)), number)
        for number, (key, file) in enumerate(zip(entries.keys, entries.names, strict=True))
    }
    for key, file in zip(entries.keys, entries.names, strict=True):
        if entries.keys[number_of_key[key]] != key:
            problems.append(Problem(name, None, "duplicate-image", "drop-image", f"{file} is listed already"))
    entries.number_of_key = number_of_key
    objects = read_objects(name, annotations, entries, with_outlines=with_masks)
    found = flatten(name, entries, objects, names)
    problems += found.problems
    ids = found.image_ids
    if not ((ids >= 0) & (ids < MAX_ID)).all():
        ids = np.arange(1, len(ids) + 1)
    is_listed: NDArray[np.bool_] = np.isin(found.class_ids, list(names))
    for row in np.flatnonzero(~is_listed).tolist():
        what = f"annotation {found.box_numbers[row]}: category_id {found.class_ids[row]} is not listed"
        problems.append(Problem(name, None, "class-out-of-range", "drop-box", what))
    repaired = _repaired(found, ids, is_listed)
    used, numbers = sorted({*number_of_key.values()}), repaired.numbers
    listed = [_listed(entries, number, int(ids[number])) for number in used]
    truth = ground_truth_from_rows(
        *(repaired.rows, listed, names, name, numbers if _are_ids(numbers.tolist()) else None),
        outlines=repaired.outlines if with_masks else None,
    )
    is_plain = all(
        type(entry["id"]) is int for entry in images if isinstance(entry, Mapping) and "id" in entry
    )
    id_of_key = {key: int(ids[number]) for key, number in number_of_key.items()}
    return replace(
        truth,
        id_of_key=None if is_plain and list(id_of_key) == list(id_of_key.values()) else id_of_key,
        problems=(*problems, *repaired.problems),
    )


class _Repaired(NamedTuple):
    """The objects that can be used: (K, 8) `ANNOTATION_COLUMNS`, (K,) numbers, outlines; and the problems."""

    rows: Float64Array
    numbers: Int64Array
    outlines: list[Any]
    problems: list[Problem]


def _repaired(found: Annotations, image_ids: Int64Array, is_used: NDArray[np.bool_]) -> _Repaired:
    """Returns the objects that can be used, their boxes as they stand."""
    sizes_hw = np.where(found.stated_sizes_hw > 0, found.stated_sizes_hw, np.inf)
    repair = BoxRepair(found, sizes_hw, is_used, Policy.of("repair"), as_they_stand=True)
    with np.errstate(invalid="ignore"):
        repair.run()
    kept = np.flatnonzero(repair.kept)
    corners = repair.boxes_xyxy[kept]
    boxes = np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2])).round(TRUTH_DECIMALS)
    areas = found.areas[kept]
    columns = (
        *(image_ids[found.box_images[kept]], found.class_ids[kept], boxes),
        *(np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas), found.is_crowd[kept]),
    )
    points, ends = as_written(repair.polygon_points), found.polygon_offsets
    sizes = np.where(repair.without_outline, 0, np.diff(ends))
    outlines = [
        segmentation_of(
            found.masks.get(box),
            points[ends[box] : ends[box] + sizes[box]],
            found.polygon_parts.get(box, ()),
        )
        for box in kept.tolist()
    ]
    return _Repaired(
        np.column_stack(columns).astype(np.float64).reshape(-1, 8),
        found.box_numbers[kept],
        outlines,
        repair.problems,
    )


def _listed(entries: ImageEntries, number: int, image_id: int) -> dict[str, Any]:
    """Returns an image as COCO lists it, with its size where that is stated."""
    height, width = entries.sizes_hw[number]
    size = {"height": height, "width": width} if height and width else {}
    return {"file_name": entries.names[number], "id": image_id, **size}


def _need_a_word(rows: Float64Array, images: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether an object has no area, passes the edge of its image or is listed twice."""
    limits = {
        entry["id"]: (whole(entry.get("width")) or np.inf, whole(entry.get("height")) or np.inf)
        for entry in images
    }
    ends = np.array([limits[image] for image in rows[:, 0].astype(np.int64).tolist()]).reshape(-1, 2)
    far = rows[:, 2:4] + rows[:, 4:6] > ends + EDGE_TOLERANCE_PX
    near = rows[:, 2:4] < -EDGE_TOLERANCE_PX
    objects = rows[:, [0, 1, 2, 3, 4, 5, 7]]
    return bool((far | near | (rows[:, 4:6] <= 0)).any()) or len(np.unique(objects, axis=0)) < len(rows)


def _with_a_name(entry: Any) -> Any:
    """Returns a category with a name in one line; nothing is written by it, so its id serves as well."""
    if not isinstance(entry, Mapping):
        return entry
    name, identity = str(entry.get("name", "")), str(entry.get("id"))
    return {**entry, "name": identity if fault_of_class_name(name) else name}


def _same_ids(name: str, entries: ImageEntries) -> list[Problem]:
    """Returns the entries that say again what another one says."""
    problems = []
    for position, file, number in entries.repeated:
        if parts_of(file) != parts_of(entries.names[number]):
            raise YoloflowError(
                f"{name}: images[{position}].id {entries.keys[number]} is the id of "
                f"{entries.names[number]} and of {file}; give each image its own id"
            )
        detail = f"images[{position}]: {file} is listed already, with the same id"
        problems.append(Problem(name, None, "duplicate-image", "drop-image", detail))
    return problems


def _are_plain(entries: Sequence[Any]) -> bool:
    """Returns whether all entries have ids as COCO has them, each once, and no file name occurs twice."""
    if not all(isinstance(entry, Mapping) for entry in entries):
        return False
    numbers: list[Any] = [entry.get("id") for entry in entries]
    names = [entry["file_name"] for entry in entries if entry.get("file_name") not in (None, "")]
    files = ["/".join(parts_of(name)) for name in names if isinstance(name, str)]
    return _are_ids(numbers) and len(files) == len(names) == len(set(files))


def _annotation_ids(entries: Sequence[Mapping[str, Any]]) -> Int64Array | None:
    """Returns the ids of annotations; None where they are not whole numbers, each once."""
    numbers: list[Any] = [entry.get("id") for entry in entries]
    return np.array(numbers, np.int64) if _are_ids(numbers) else None


def _are_ids(numbers: Sequence[Any]) -> bool:
    """Returns whether these are whole numbers that ids may have, each once."""
    is_valid = all(type(number) is int and 0 <= number < MAX_ID for number in numbers)
    return is_valid and len(set(numbers)) == len(numbers)


def ground_truth_from_rows(
    rows: Float64Array,
    images: Sequence[Mapping[str, Any]],
    category_names: Mapping[int, str],
    source: str,
    annotation_ids: Int64Array | None = None,
    outlines: Sequence[Any] | None = None,
) -> GroundTruth:
    """Returns ground truth of objects known to be valid.

    Args:
        rows: (M, 8) image id, category id, x, y, w, h, area, crowd flag (0 or 1).
        images: all images, with their `id`.
        category_names: name of each category id.
        source: words for it in error messages.
        annotation_ids: (M,), of the objects; None numbers them from 1.
        outlines: segmentation of each object as COCO has it, None for one that fills its box; none at all
            for ground truth of boxes alone.

    Raises:
        YoloflowError: an image has outlines, but states no size.
    """
    image_ids = [int(image["id"]) for image in images]
    if annotation_ids is None:
        annotation_ids = np.arange(1, len(rows) + 1)
    entries, filled = [{"id": image_id} for image_id in image_ids], None
    if outlines is not None:
        filled = [position for position, outline in enumerate(outlines) if outline is None]
        outlines = list(outlines)
        for position, corners in zip(filled, box_outlines(rows[filled, 2:6]), strict=True):
            outlines[position] = [corners]
        entries = with_sizes(images, rows, outlines, source)
    coco = hotcoco.COCO.from_arrays(
        entries,
        [{"id": category_id, "name": str(category_id)} for category_id in category_names],
        rows[:, 0].astype(np.int64),
        rows[:, 1].astype(np.int64),
        np.ascontiguousarray(rows[:, 2:6]),
        ids=annotation_ids,
        area=np.ascontiguousarray(rows[:, 6]),
        iscrowd=rows[:, 7] > 0,
        segmentation=outlines,
    )
    return GroundTruth(
        coco=coco,
        image_ids=frozenset(image_ids),
        images=images,
        category_names=dict(sorted(category_names.items())),
        annotations=rows,
        source=source,
        num_filled=None if filled is None else len(filled),
    )


def describe_filled(truth: GroundTruth) -> str:
    """Returns a sentence on the objects that fill their box for want of an outline."""
    return (
        f"masks: {truth.num_filled} of {len(truth.annotations)} objects have neither outline nor mask and "
        "count as filling their box"
    )


def _annotation_table(
    entries: Sequence[Mapping[str, Any]], known_images: Set[int], known_categories: Set[int]
) -> Float64Array | None:
    """Returns (M, 8) `ANNOTATION_COLUMNS` if nothing is suspicious, else None."""
    if not entries:
        return np.empty((0, 8))
    if not all(isinstance(entry, Mapping) for entry in entries):
        return None
    has_areas = any("area" in entry for entry in entries)
    keys = ("image_id", "category_id", "bbox", *(["area"] if has_areas else []))
    columns = table_of(entries, keys, known_images, known_categories)
    if columns is None:
        return None
    boxes = columns[2]
    areas = columns[3] if has_areas else boxes[:, 2] * boxes[:, 3]
    is_crowd = [entry.get("iscrowd", 0) for entry in entries]
    if any(value not in (0, 1) for value in is_crowd) or not ((areas >= 0) & (areas < _LARGEST_AREA)).all():
        return None
    return np.column_stack((columns[0], columns[1], boxes, areas, is_crowd)).astype(np.float64)


def table_of(
    entries: Sequence[Any], keys: tuple[str, ...], known_images: Set[int], known_categories: Set[int]
) -> list[NDArray[Any]] | None:
    """Returns a column of numbers for each key, ids first, or None if an entry is suspicious."""
    try:
        values = [[entry[key] for entry in entries] for key in keys]
        columns = [np.array(column) for column in values]
    except (KeyError, TypeError, ValueError, OverflowError):  # missing, or of several lengths
        return None
    is_valid = all(bool not in set(map(type, column)) for column in values) and all(
        column.dtype.kind in "if"
        and column.shape == ((len(entries), 4) if key == "bbox" else (len(entries),))
        for key, column in zip(keys, columns, strict=True)
    )
    if not is_valid or not all(np.isfinite(column).all() for column in columns):
        return None
    for column, known in zip(columns, (known_images, known_categories), strict=False):
        if not known >= set(np.unique(column).tolist()):
            return None
    return columns
