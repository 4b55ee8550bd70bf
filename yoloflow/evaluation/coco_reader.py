"""Reads COCO ground truth and results, and names exactly what is wrong with them. Imports no torch.

hotcoco reads large files several times faster and in far less memory than Python, but it forgives much
(a missing score, an unknown image) and names no entry. So files of results go through it, and whatever is
suspicious is read again here, entry by entry, to find and name the fault. Ground truth likewise: columns
are checked as arrays, and its entries one by one only where an array shows a fault.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import hotcoco
import numpy as np
from numpy.typing import NDArray

from yoloflow.structures import Int64Array, YoloflowError

Float64Array = NDArray[np.float64]

# Results as one array, the layout that pycocotools and hotcoco take too.
RESULT_COLUMNS = ("image_id", "x", "y", "w", "h", "score", "category_id")
ANNOTATION_COLUMNS = ("image_id", "category_id", "x", "y", "w", "h", "area", "iscrowd")

_MAX_ID = 2**53  # ids travel as float64
_READ_BYTES = 1 << 20


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
    """

    coco: hotcoco.COCO
    image_ids: frozenset[int]
    images: Sequence[Mapping[str, Any]]
    category_names: dict[int, str]
    annotations: Float64Array
    source: str


def read_ground_truth(source: GroundTruth | Mapping[str, Any] | str | Path) -> GroundTruth:
    """Reads ground truth in COCO's layout, and checks every entry.

    A missing `area` becomes width times height and a missing `iscrowd` 0; segmentations are not read. An
    object may have id 0 (pycocotools counts such an object as missed, because 0 means "no match" there).

    Args:
        source: the json file or its content; what is read already stays as it is.

    Raises:
        YoloflowError: the file cannot be read or an entry is wrong; the message names both.
    """
    if isinstance(source, GroundTruth):
        return source
    name = "ground truth" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_coco_json(source, _without_segmentation)
    if not isinstance(content, Mapping):
        raise YoloflowError(f"{name}: expected a COCO json object, found {_kind(content)}")
    images, categories, annotations = (
        _section(content, key, name) for key in ("images", "categories", "annotations")
    )
    image_ids = _unique_ids(images, "images", name)
    category_ids = _unique_ids(categories, "categories", name)
    annotation_ids = _unique_ids(annotations, "annotations", name)
    known_images, known_categories = frozenset(image_ids), frozenset(category_ids)
    rows = _annotation_table(annotations, known_images, known_categories)
    if rows is None:
        rows = np.empty((len(annotations), 8))
        for i, entry in enumerate(annotations):
            rows[i] = _annotation_row(entry, known_images, known_categories, f"{name}: annotations[{i}]")
    names = {int(entry["id"]): str(entry.get("name", entry["id"])) for entry in categories}
    return ground_truth_from_rows(rows, images, names, name, np.array(annotation_ids, np.int64))


def ground_truth_from_rows(
    rows: Float64Array,
    images: Sequence[Mapping[str, Any]],
    category_names: Mapping[int, str],
    source: str,
    annotation_ids: Int64Array | None = None,
) -> GroundTruth:
    """Returns ground truth of objects known to be valid.

    Args:
        rows: (M, 8) image id, category id, x, y, w, h, area, crowd flag (0 or 1).
        images: all images, with their `id`.
        category_names: name of each category id.
        source: words for it in error messages.
        annotation_ids: (M,), of the objects; None numbers them from 1.
    """
    image_ids = [int(image["id"]) for image in images]
    if annotation_ids is None:
        annotation_ids = np.arange(1, len(rows) + 1)
    coco = hotcoco.COCO.from_arrays(
        [{"id": image_id} for image_id in image_ids],
        [{"id": category_id, "name": str(category_id)} for category_id in category_names],
        rows[:, 0].astype(np.int64),
        rows[:, 1].astype(np.int64),
        np.ascontiguousarray(rows[:, 2:6]),
        ids=annotation_ids,
        area=np.ascontiguousarray(rows[:, 6]),
        iscrowd=rows[:, 7] > 0,
    )
    return GroundTruth(
        coco=coco,
        image_ids=frozenset(image_ids),
        images=images,
        category_names=dict(sorted(category_names.items())),
        annotations=rows,
        source=source,
    )


def read_detections(
    source: Sequence[Mapping[str, Any]] | Float64Array | str | Path, truth: GroundTruth
) -> hotcoco.COCO:
    """Reads detections in COCO's results layout.

    Args:
        source: the json file, its rows, or an (N, 7) array with the columns `RESULT_COLUMNS`.
        truth: what they are compared with.

    Raises:
        YoloflowError: the file cannot be read, an entry is wrong or names an image or a category that the
            ground truth lacks; the message names file and entry.
    """
    if isinstance(source, str | Path):
        found = _read_detections_fast(Path(source), truth)
        if found is not None:
            return found
    return truth.coco.load_res(read_detection_rows(source, truth))


def read_detection_rows(
    source: Sequence[Mapping[str, Any]] | Float64Array | str | Path, truth: GroundTruth
) -> Float64Array:
    """Returns (N, 7) `RESULT_COLUMNS` of what `read_detections` reads, in the given order; same errors."""
    if isinstance(source, np.ndarray):
        return _checked_array(source, truth)
    if isinstance(source, str | Path):
        return _result_rows(read_coco_json(source), str(source), truth)
    return _result_rows(source, "detections", truth)


def read_coco_json(path: str | Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Reads a json file; YoloflowError names the file and what is wrong with it."""
    try:
        return json.loads(Path(path).read_bytes(), object_hook=object_hook)
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise YoloflowError(f"{path}: is not JSON (not even text: {error})") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise YoloflowError(f"{path}: is not JSON ({error.msg} at {place})") from error
    except (ValueError, RecursionError) as error:  # a number too long, lists too deep
        raise YoloflowError(f"{path}: is not JSON that can be read ({error})") from error


def _read_detections_fast(path: Path, truth: GroundTruth) -> hotcoco.COCO | None:
    """Returns the detections of a file in which nothing is suspicious, or None."""
    try:
        with path.open("rb") as file:
            if not file.read(_READ_BYTES).lstrip().startswith(b"["):
                return None
        num_boxes, num_scores, num_nulls = _count_in_file(path, (b'"bbox"', b'"score"', b"null"))
        found = truth.coco.load_res(str(path))
    except (OSError, ValueError):
        return None
    num_rows = len(found.get_ann_ids())
    is_whole = num_rows > 0 and num_boxes == num_scores == num_rows and num_nulls == 0
    return found if is_whole and not found.load_warnings else None


def _count_in_file(path: Path, tokens: tuple[bytes, ...]) -> list[int]:
    """Counts each token in a file, read in pieces that overlap by less than a token."""
    counts, tails = [0] * len(tokens), [b""] * len(tokens)
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            for i, token in enumerate(tokens):
                counts[i] += piece.count(token) + (tails[i] + piece[: len(token) - 1]).count(token)
                tails[i] = piece[-(len(token) - 1) :]
    return counts


def _result_rows(rows: Any, name: str, truth: GroundTruth) -> Float64Array:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise YoloflowError(
            f"{name}: expected a list of detections with image_id, category_id, bbox [x, y, w, h] and score, "
            f"found {_kind(rows)}"
        )
    known_categories = truth.category_names.keys()
    table = _table(rows, ("image_id", "category_id", "bbox", "score"), truth.image_ids, known_categories)
    if table is not None:
        images, categories, boxes, scores = table
        return np.column_stack((images, boxes, scores, categories)).astype(np.float64)
    array = np.empty((len(rows), 7))
    for i, entry in enumerate(rows):
        where = f"{name}: [{i}]"
        if not isinstance(entry, Mapping):
            raise YoloflowError(f"{where}: expected an object, found {_kind(entry)}")
        image_id = _known_id(entry, "image_id", truth.image_ids, where, truth.source)
        category_id = _known_id(entry, "category_id", known_categories, where, truth.source)
        array[i] = (image_id, *_box(entry, where), _number(entry, "score", where), category_id)
    return array


def _checked_array(rows: Float64Array, truth: GroundTruth) -> Float64Array:
    if rows.ndim != 2 or rows.shape[1] != len(RESULT_COLUMNS):
        raise YoloflowError(
            f"detections have shape {rows.shape}, expected (N, 7): {', '.join(RESULT_COLUMNS)}"
        )
    rows = np.ascontiguousarray(rows, np.float64)
    known = {0: ("image_id", list(truth.image_ids)), 6: ("category_id", list(truth.category_names))}
    for column, (key, ids) in known.items():
        with np.errstate(invalid="ignore"):  # what is not finite changes, and so is unknown
            numbers = rows[:, column].astype(np.int64)  # compared several times as fast as floats
        is_unknown = ~np.isin(numbers, ids) | (numbers != rows[:, column])
        if is_unknown.any():
            i = int(is_unknown.argmax())
            raise YoloflowError(
                f"detections: [{i}].{key} is {rows[i, column]:g}, which {truth.source} does not have"
            )
    is_finite = np.isfinite(rows).all(1)
    if not is_finite.all():
        i = int(is_finite.argmin())
        raise YoloflowError(f"detections: [{i}] is not finite: {rows[i].tolist()}")
    return rows


def _annotation_table(
    entries: Sequence[Mapping[str, Any]], known_images: Set[int], known_categories: Set[int]
) -> Float64Array | None:
    """Returns the rows of `_annotation_row` if nothing is suspicious, else None."""
    has_areas = any("area" in entry for entry in entries)
    keys = ("image_id", "category_id", "bbox", *(["area"] if has_areas else []))
    columns = _table(entries, keys, known_images, known_categories)
    if columns is None:
        return None
    boxes = columns[2]
    areas = columns[3] if has_areas else boxes[:, 2] * boxes[:, 3]
    is_crowd = [entry.get("iscrowd", 0) for entry in entries]
    if any(value not in (0, 1) for value in is_crowd):
        return None
    return np.column_stack((columns[0], columns[1], boxes, areas, is_crowd)).astype(np.float64)


def _table(
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


def _annotation_row(
    entry: Mapping[str, Any], known_images: Container[int], known_categories: Container[int], where: str
) -> tuple[float, ...]:
    """Returns image id, category id, x, y, w, h, area and crowd flag of an entry."""
    image_id = _known_id(entry, "image_id", known_images, where)
    category_id = _known_id(entry, "category_id", known_categories, where)
    x, y, w, h = _box(entry, where)
    area = _number(entry, "area", where) if "area" in entry else w * h
    is_crowd = entry.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise YoloflowError(f"{where}.iscrowd should be 0 or 1, found {is_crowd!r}")
    return image_id, category_id, x, y, w, h, area, float(is_crowd)


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    """Drops polygons as soon as they are parsed: they are most of an annotation file."""
    entry.pop("segmentation", None)
    return entry


def _section(content: Mapping[str, Any], key: str, name: str) -> Sequence[Mapping[str, Any]]:
    if key not in content:
        raise YoloflowError(
            f"{name}: has no {key!r}; COCO ground truth has images, annotations and categories"
        )
    section = content[key]
    if not isinstance(section, Sequence) or isinstance(section, str):
        raise YoloflowError(f"{name}: {key} should be a list, found {_kind(section)}")
    for i, entry in enumerate(section):
        if not isinstance(entry, Mapping):
            raise YoloflowError(f"{name}: {key}[{i}] should be an object, found {_kind(entry)}")
    return section


def _unique_ids(entries: Sequence[Mapping[str, Any]], section: str, name: str) -> list[int]:
    """Returns the ids in order; annotations without any ids are numbered from 1."""
    if section == "annotations" and not any("id" in entry for entry in entries):
        return list(range(1, len(entries) + 1))
    numbers: list[Any] = [entry.get("id") for entry in entries]
    is_valid = all(type(number) is int and 0 <= number < _MAX_ID for number in numbers)
    if is_valid and len(set(numbers)) == len(numbers):
        return numbers
    seen: dict[int, int] = {}
    for i, entry in enumerate(entries):
        number = _id(entry, "id", f"{name}: {section}[{i}]")
        if number in seen:
            raise YoloflowError(
                f"{name}: {section}[{i}].id {number} is also the id of {section}[{seen[number]}]"
            )
        seen[number] = i
    return list(seen)


def _id(entry: Mapping[str, Any], key: str, where: str) -> int:
    value = entry.get(key)
    if not _is_finite_number(value) or value != int(value):
        raise YoloflowError(f"{where}.{key} should be a whole number, found {value!r}")
    if not 0 <= value < _MAX_ID:
        raise YoloflowError(f"{where}.{key} is {value}; ids go from 0 to 2^53")
    return int(value)


def _known_id(
    entry: Mapping[str, Any], key: str, known: Container[int], where: str, owner: str = "the file's own list"
) -> int:
    number = _id(entry, key, where)
    if number not in known:
        raise YoloflowError(
            f"{where}.{key} is {number}, which {owner} does not have; "
            "are detections and ground truth of the same data set?"
        )
    return number


def _box(entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    if not isinstance(box, Sequence | np.ndarray) or isinstance(box, str) or len(box) != 4:
        raise YoloflowError(f"{where}.bbox should be four numbers x, y, w, h, found {box!r}")
    for value in box:
        if not _is_finite_number(value):
            raise YoloflowError(f"{where}.bbox should be four finite numbers, found {box!r}")
    x, y, w, h = box
    return x, y, w, h


def _number(entry: Mapping[str, Any], key: str, where: str) -> float:
    value = entry.get(key)
    if not _is_finite_number(value):
        raise YoloflowError(f"{where}.{key} should be a finite number, found {value!r}")
    return float(value)


def _is_finite_number(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
