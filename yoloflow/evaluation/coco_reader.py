"""Reads COCO results, and names exactly what is wrong with them. Imports no torch.

hotcoco reads large files several times faster and in far less memory than Python, but it forgives much
(a missing score, an unknown image) and names no entry. So files of results go through it, and whatever is
suspicious is read again here, entry by entry, to find and name the fault.
"""

from __future__ import annotations

import math
import mmap
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import hotcoco
import numpy as np
from hotcoco import mask as run_lengths

from yoloflow.data.decoder_messages import collected_standard_error
from yoloflow.data.formats.coco_entries import Key, key_of, read_segmentation
from yoloflow.data.formats.outlines import rle_of
from yoloflow.evaluation.coco_outlines import stated_size
from yoloflow.evaluation.coco_truth import MAX_ID, Float64Array, GroundTruth, table_of
from yoloflow.files import read_json
from yoloflow.structures import YoloflowError

# Results as one array, the layout that pycocotools and hotcoco take too.
RESULT_COLUMNS = ("image_id", "x", "y", "w", "h", "score", "category_id")

Results = Sequence[Mapping[str, Any]] | Float64Array | str | Path
"""Detections: a json file of COCO results, its rows, or an (N, 7) array with the columns `RESULT_COLUMNS`."""

_READ_BYTES = 1 << 20

_MASK = re.compile(rb'"segmentation"\s*:(?!\s*(null|\[\s*\]|\{\s*\}))')
_SCORE = re.compile(rb'"score"\s*:')


def read_detections(source: Results, truth: GroundTruth, *, with_masks: bool = False) -> hotcoco.COCO:
    """Reads detections in COCO's results layout.

    Args:
        source: the detections.
        truth: what they are compared with.
        with_masks: every detection must have a mask. Where none has a box, its mask gives box and area.

    Raises:
        YoloflowError: the file cannot be read, an entry is wrong or names an image or a category that the
            ground truth lacks; the message names file and entry.
    """
    if isinstance(source, str | Path) and not with_masks:
        found = _read_detections_fast(Path(source), truth)
        if found is not None:
            return found
    read = _read(source, truth, with_masks)
    found = truth.coco.load_res(read.rows, segmentation=read.masks)
    if read.areas is not None:
        found.update_anns(ids=found.get_ann_ids(), area=read.areas)
    return found


def read_detection_rows(source: Results, truth: GroundTruth) -> Float64Array:
    """Returns (N, 7) `RESULT_COLUMNS` of what `read_detections` reads, in the given order; same errors."""
    return _read(source, truth, False).rows


def count_masks(path: Path) -> tuple[int, int]:
    """Returns how many detections of a file have a mask, and how many there are.

    That is quick and checks nothing: of a file that `read_detections` refuses any numbers may come.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            masks, scores = (sum(1 for _ in re.finditer(key, content)) for key in (_MASK, _SCORE))
    except (OSError, ValueError):  # a file without content cannot be mapped
        return 0, 0
    return masks, scores


class _Read(NamedTuple):
    """Detections: (N, 7) rows, and where asked for masks, and (N,) areas where boxes are the masks'."""

    rows: Float64Array
    masks: list[Any] | None = None
    areas: Float64Array | None = None


def _read(source: Results, truth: GroundTruth, with_masks: bool) -> _Read:
    if isinstance(source, np.ndarray):
        if with_masks:
            raise YoloflowError("detections: an array has boxes alone; give rows with a segmentation each")
        return _Read(_checked_array(source, truth))
    entries, name = source, "detections"
    if isinstance(source, str | Path):
        entries, name = _load_results(Path(source)), str(source)
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise YoloflowError(
            f"{name}: expected a list of detections with image_id, category_id, bbox [x, y, w, h] and score, "
            f"found {_kind(entries)}"
        )
    if truth.id_of_key is not None:
        entries = _of_own_ids(entries, name, truth, truth.id_of_key)
    masks, areas = None, None
    has_boxes = any(isinstance(entry, Mapping) and "bbox" in entry for entry in entries)
    has_masks = any(isinstance(entry, Mapping) and entry.get("segmentation") for entry in entries)
    if with_masks or (has_masks and not has_boxes):
        masks = _masks(entries, name, truth)
    if masks and not has_boxes:
        areas = run_lengths.area(masks).astype(np.float64)
        boxes = run_lengths.toBbox(masks).tolist()
        entries = [{**entry, "bbox": box} for entry, box in zip(entries, boxes, strict=True)]
    rows = _result_rows(entries, name, truth)
    if truth.id_of_key is not None and len(set(truth.id_of_key.values())) < len(truth.id_of_key):
        # Who detects for each entry of an image that is listed several times gives the same each time.
        kept = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        rows, areas = rows[kept], None if areas is None else areas[kept]
        masks = None if masks is None else [masks[k] for k in kept.tolist()]
    return _Read(rows, masks if with_masks else None, areas)


def _masks(entries: Sequence[Any], name: str, truth: GroundTruth) -> list[dict[str, Any]]:
    """Returns the run lengths of each detection's segmentation."""
    sizes_hw = {int(image["id"]): stated_size(image) for image in truth.images}
    masks = []
    for i, entry in enumerate(entries):
        where = f"{name}: [{i}]"
        if not isinstance(entry, Mapping):
            raise YoloflowError(f"{where}: expected an object, found {_kind(entry)}")
        value = entry.get("segmentation")
        if not value:
            raise YoloflowError(f"{where} has no segmentation; masks need one in each detection")
        size_hw = sizes_hw[_known_id(entries, i, "image_id", truth.image_ids, name, truth.source)]
        _, fault = read_segmentation(value, size_hw)
        if isinstance(value, list) and not all(size_hw):
            fault = fault or "is a list of polygons, but the size of the image is not stated"
        if fault:
            size = f" ({size_hw[0]} x {size_hw[1]})" if all(size_hw) else ""
            raise YoloflowError(f"{where}: its segmentation {fault}{size}")
        masks.append(rle_of(value, size_hw))
    return masks


def _load_results(path: Path) -> Any:
    content = read_json(path, advice="")
    if content is None and not path.exists():
        raise YoloflowError(f"{path}: cannot be read (there is no such file)")
    return content


def _read_detections_fast(path: Path, truth: GroundTruth) -> hotcoco.COCO | None:
    """Returns the detections of a file in which nothing is suspicious, or None."""
    if truth.id_of_key is not None:
        return None
    try:
        with path.open("rb") as file:
            if not file.read(_READ_BYTES).lstrip().startswith(b"["):
                return None
        num_boxes, num_scores, num_nulls = _count_in_file(path, (b'"bbox"', b'"score"', b"null"))
        # It says that something is suspicious, which is named below.
        with collected_standard_error() as printed:
            found = truth.coco.load_res(str(path))
    except (OSError, ValueError):
        return None
    sys.stderr.writelines(f"{line}\n" for line in printed if not line.startswith("hotcoco:"))
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


def _result_rows(rows: Sequence[Any], name: str, truth: GroundTruth) -> Float64Array:
    known_categories = truth.category_names.keys()
    table = table_of(rows, ("image_id", "category_id", "bbox", "score"), truth.image_ids, known_categories)
    if table is not None:
        images, categories, boxes, scores = table
        return np.column_stack((images, boxes, scores, categories)).astype(np.float64)
    array = np.empty((len(rows), 7))
    for i, entry in enumerate(rows):
        where = f"{name}: [{i}]"
        if not isinstance(entry, Mapping):
            raise YoloflowError(f"{where}: expected an object, found {_kind(entry)}")
        image_id = _known_id(rows, i, "image_id", truth.image_ids, name, truth.source)
        category_id = _known_id(rows, i, "category_id", known_categories, name, truth.source)
        score = entry.get("score")
        if not _is_finite_number(score):
            raise YoloflowError(f"{where}.score should be a finite number, found {score!r}")
        array[i] = (image_id, *_box(entry, where), score, category_id)
    return array


def _of_own_ids(
    rows: Sequence[Any], name: str, truth: GroundTruth, id_of_key: Mapping[Key, int]
) -> list[Any]:
    """Returns the entries of detections that name images by the ground truth's own ids, with ours."""
    translated = []
    for i, entry in enumerate(rows):
        if isinstance(entry, Mapping):
            key = key_of(entry.get("image_id"))
            if key not in id_of_key:
                found = f"{name}: [{i}].image_id is {entry.get('image_id')!r}"
                advice = _advice(rows, "image_id", id_of_key.keys())
                raise YoloflowError(f"{found}, which {truth.source} does not have; {advice}")
            entry = {**entry, "image_id": id_of_key[key]}
        translated.append(entry)
    return translated


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


def _known_id(rows: Sequence[Any], i: int, key: str, known: Collection[int], name: str, owner: str) -> int:
    where, value = f"{name}: [{i}]", rows[i].get(key)
    if not _is_finite_number(value) or value != int(value):
        raise YoloflowError(f"{where}.{key} should be a whole number, found {value!r}")
    if not 0 <= value < MAX_ID:
        raise YoloflowError(f"{where}.{key} is {value}; ids go from 0 to 2^53")
    if int(value) not in known:
        advice = _advice(rows, key, known)
        raise YoloflowError(f"{where}.{key} is {int(value)}, which {owner} does not have; {advice}")
    return int(value)


def _advice(rows: Sequence[Any], key: str, known: Collection[Key]) -> str:
    """Returns a question about ids of which some are unknown."""
    ids = {entry.get(key) for entry in rows if isinstance(entry, Mapping)}
    numbers = {number for number in ids if isinstance(number, int)}
    for step, words, first in ((1, "higher", 0), (-1, "lower", 1)):
        if numbers == ids and all(number + step in known for number in numbers):
            return f"all {key}s would be known if they were one {words}: are they counted from {first}?"
    if key == "category_id" and numbers == ids and all(0 <= number < len(known) for number in numbers):
        return "they may be positions among the categories, whose ids have gaps"
    return "are detections and ground truth of the same data set?"


def _box(entry: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    if not isinstance(box, Sequence | np.ndarray) or isinstance(box, str) or len(box) != 4:
        raise YoloflowError(f"{where}.bbox should be four numbers x, y, w, h, found {box!r}")
    for value in box:
        if not _is_finite_number(value):
            raise YoloflowError(f"{where}.bbox should be four finite numbers, found {box!r}")
    x, y, w, h = box
    return x, y, w, h


def _is_finite_number(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
