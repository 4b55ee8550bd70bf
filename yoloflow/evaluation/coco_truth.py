"""COCO ground truth, from files and from data sets. Imports no torch.

Columns are checked as arrays, and only where an array shows a fault the entries one by one, as training reads
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.coco_entries import (
    MALFORMED,
    ImageEntries,
    Key,
    checked,
    load,
    read_categories,
    read_image_entries,
    read_objects,
    read_segmentation,
    whole,
)
from yoloflow.data.formats.image_search import parts_of
from yoloflow.data.formats.outlines import as_written, segmentation_of
from yoloflow.data.problems import account
from yoloflow.structures import Int64Array, Problem, YoloflowError

Float64Array = NDArray[np.float64]

ANNOTATION_COLUMNS = ("image_id", "category_id", "x", "y", "w", "h", "area", "iscrowd")
MAX_ID = 2**53
"""Ids are less than that: they travel as float64."""

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
    """Reads ground truth in COCO's layout as training does, but for the repairs of boxes.

    Ids may be texts, entries of one `file_name` are joined, and an annotation that cannot be used, or whose
    image or category is not listed, is left out and named in `problems`. A missing `area` becomes width times
    height and a missing `iscrowd` 0. An object may have id 0 (pycocotools counts
    such an object as missed, because 0 means "no match" there).

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
    images, categories, annotations = (content[key] for key in ("images", "categories", "annotations"))
    if _are_plain(images) and _are_plain(categories):
        names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in categories}
        rows = _annotation_table(annotations, frozenset(entry["id"] for entry in images), names.keys())
        if rows is not None:
            ids = _annotation_ids(annotations)
            found, problems = _segmentations(name, images, annotations) if with_masks else (None, [])
            truth = ground_truth_from_rows(rows, images, names, name, ids, found)
            return replace(truth, problems=tuple(problems))
    return _read_leniently(name, images, categories, annotations, with_masks)


def _segmentations(
    name: str, images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]]
) -> tuple[list[Any], list[Problem]]:
    """Returns the segmentation of each annotation, None where it has none or a malformed one."""
    sizes_hw = {image["id"]: stated_size(image) for image in images}
    found, problems = [], []
    for position, entry in enumerate(annotations):
        value = entry.get("segmentation") or None
        if read_segmentation(value, sizes_hw[entry["image_id"]]) is None:
            detail = f"annotations[{position}]: {MALFORMED}"
            problems.append(Problem(name, None, "polygon-malformed", "keep", detail))
            value = None
        found.append(value)
    return found, problems


def stated_size(image: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the height and width that an entry states, 0 for what it does not state."""
    height, width = whole(image.get("height")), whole(image.get("width"))
    return max(height or 0, 0), max(width or 0, 0)


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
    ids = entries.numbers(name)
    if not all(0 <= number < MAX_ID for number in ids):
        ids = list(range(1, len(ids) + 1))
    boxes = np.array(objects.boxes_xywh, np.float64).reshape(-1, 4)
    areas = np.array(objects.areas, np.float64)
    rows = np.column_stack(
        (
            np.array(ids, np.float64)[np.array(objects.images, np.int64)],
            np.array(objects.categories, np.float64),
            boxes,
            np.where(np.isnan(areas), boxes[:, 2] * boxes[:, 3], areas),
            objects.is_crowd,
        )
    ).reshape(-1, 8)
    is_finite: NDArray[np.bool_] = np.all(np.isfinite(boxes), axis=1)
    is_listed: NDArray[np.bool_] = np.isin(np.array(objects.categories, np.int64), list(names))
    for row in np.flatnonzero(~(is_finite & is_listed)).tolist():
        kind, what = "box-nan", f"bbox is {boxes[row].tolist()}"
        if is_finite[row]:
            kind, what = "class-out-of-range", f"category_id {objects.categories[row]} is not listed"
        problems.append(Problem(name, None, kind, "drop-box", f"annotation {objects.numbers[row]}: {what}"))
    used = sorted({*number_of_key.values()})
    sizes = entries.sizes_hw
    listed = [
        {"file_name": entries.names[k], "id": ids[k], "height": sizes[k][0], "width": sizes[k][1]}
        for k in used
    ]
    is_used = is_finite & is_listed
    outlines = [
        segmentation_of(
            objects.masks.get(row), as_written(objects.polygons[row]), objects.polygon_parts.get(row, ())
        )
        for row in np.flatnonzero(is_used).tolist()
    ]
    truth = ground_truth_from_rows(
        rows[is_used], listed, names, name, outlines=outlines if with_masks else None
    )
    is_plain = all(
        type(entry["id"]) is int for entry in images if isinstance(entry, Mapping) and "id" in entry
    )
    id_of_key = {key: ids[number] for key, number in number_of_key.items()}
    return replace(
        truth,
        id_of_key=None if is_plain and list(id_of_key) == list(id_of_key.values()) else id_of_key,
        problems=(*entries.problems, *problems, *objects.problems),
    )


def _with_a_name(entry: Any) -> Any:
    return {**entry, "name": str(entry.get("name", entry.get("id")))} if isinstance(entry, Mapping) else entry


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
    return (
        all(type(number) is int and 0 <= number < MAX_ID for number in numbers)
        and len(set(numbers)) == len(numbers)
        and len(files) == len(names)
        and len(set(files)) == len(files)
    )


def _annotation_ids(entries: Sequence[Mapping[str, Any]]) -> Int64Array | None:
    """Returns the ids of annotations; None where they are not whole numbers, each once."""
    numbers: list[Any] = [entry.get("id") for entry in entries]
    is_valid = all(type(number) is int and 0 <= number < MAX_ID for number in numbers)
    return np.array(numbers, np.int64) if is_valid and len(set(numbers)) == len(numbers) else None


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
        for position, corners in zip(filled, _corners(rows[filled, 2:6]), strict=True):
            outlines[position] = [corners]
        entries = _with_sizes(images, rows, outlines, source)
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


def _corners(boxes_xywh: Float64Array) -> list[list[float]]:
    """Returns the outline of each box, as pycocotools makes it of a detection without a mask."""
    x, y, w, h = boxes_xywh.T
    corners: list[list[float]] = np.stack((x, y, x, y + h, x + w, y + h, x + w, y), 1).tolist()
    return corners


def _with_sizes(
    images: Sequence[Mapping[str, Any]], rows: Float64Array, outlines: Sequence[Any], source: str
) -> list[dict[str, Any]]:
    """Returns the entries of the images with the sizes that hotcoco fills outlines in."""
    is_drawn = [isinstance(outline, list) for outline in outlines]
    need_size = set(rows[is_drawn, 0].tolist())
    entries = []
    for image in images:
        number, (height, width) = int(image["id"]), stated_size(image)
        if not (height and width) and number in need_size:
            raise YoloflowError(
                f"{source}: image {image.get('file_name', number)} (id {number}) states no height and width, "
                "in which its masks could be drawn; add both to its entry"
            )
        entries.append({"id": number, "height": height, "width": width})
    return entries


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
