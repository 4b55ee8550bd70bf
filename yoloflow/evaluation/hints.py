"""Hints at what makes a figure low beside the detections: ids that are off by one, COCO's limit of 100."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco import CocoResult, evaluate_read
from yoloflow.evaluation.coco_reader import Results, read_detection_rows
from yoloflow.evaluation.coco_truth import Float64Array, GroundTruth
from yoloflow.evaluation.diagnostics.matching import MAX_DETECTIONS
from yoloflow.structures import Int64Array

_LOW_AP = 0.3
_GAIN, _FACTOR = 0.1, 2.0
_MOST_IMAGES = 500

_IMAGE, _CATEGORY = 0, 6


def find_hints(truth: GroundTruth, detections: Results, result: CocoResult) -> list[str]:
    """Returns hints as sentences.

    Args:
        truth: the ground truth.
        detections: as `evaluate_coco` takes them.
        result: their figures.
    """
    hints = crowding_hint(truth)
    if len(truth.annotations) and result.map < _LOW_AP:
        hints += _shift_hint(truth, read_detection_rows(detections, truth))
    return hints


def crowding_hint(truth: GroundTruth) -> list[str]:
    """Returns a hint at images with more objects of a class than COCO counts detections."""
    objects = truth.annotations[truth.annotations[:, 7] == 0]
    groups, counts = np.unique(objects[:, :2], axis=0, return_counts=True)
    over = counts > MAX_DETECTIONS
    if not over.any():
        return []
    best = np.minimum(counts, MAX_DETECTIONS).sum() / counts.sum()
    images = len(np.unique(groups[over, 0]))
    return [
        f"{images} images have over {MAX_DETECTIONS} objects of a class (at most {counts.max()}), but COCO "
        f"counts the best {MAX_DETECTIONS} detections of a class in an image: no more than {best:.1%} of all "
        "objects can be found, and AP is limited likewise"
    ]


def _shift_hint(truth: GroundTruth, rows: Float64Array) -> list[str]:
    """Returns a hint at other ids with which AP is far higher, tried on the first images."""
    sample = sorted(truth.image_ids)[:_MOST_IMAGES]
    own = _ap(truth, rows, sample)
    best, words = max(
        ((_ap(truth, changed, sample), words) for words, changed in _other_ids(truth, rows)),
        default=(-1.0, ""),
    )
    if best < max(own + _GAIN, own * _FACTOR):
        return []
    of = "" if len(sample) == len(truth.image_ids) else f" on the first {len(sample)} images"
    return [f"AP{of} is {own:.4f}, but would be {best:.4f} {words}: are the ids of the detections right?"]


def _ap(truth: GroundTruth, rows: Float64Array, image_ids: Sequence[int]) -> float:
    found = np.ascontiguousarray(rows[np.isin(rows[:, _IMAGE], image_ids)])
    return evaluate_read(truth, truth.coco.load_res(found), image_ids).map


def _other_ids(truth: GroundTruth, rows: Float64Array) -> Iterator[tuple[str, Float64Array]]:
    """Yields words for other ids, and the detections with them; those without any are left out."""
    categories = np.array(list(truth.category_names), np.int64)
    tries = [("image_id", _IMAGE, np.array(sorted(truth.image_ids), np.int64))]
    tries += [("category_id", _CATEGORY, categories)] if len(categories) > 1 else []
    for name, column, known in tries:
        ids = rows[:, column].astype(np.int64)
        for step, words in ((1, "higher"), (-1, "lower")):
            is_known = np.isin(ids + step, known)
            # Classes that only changed places are not shifted: one of them would fall out.
            if column != _CATEGORY or is_known.all():
                yield f"with every {name} one {words}", _changed(rows, column, ids + step, is_known)
    places = rows[:, _CATEGORY].astype(np.int64)
    for first in (0, 1):
        inside = (places >= first) & (places < first + len(categories))
        ids = categories[(places - first).clip(0, len(categories) - 1)]
        words = f"if category_id is the position among the categories, counted from {first}"
        yield words, _changed(rows, _CATEGORY, ids, inside)


def _changed(rows: Float64Array, column: int, ids: Int64Array, chosen: NDArray[np.bool_]) -> Float64Array:
    changed = rows.copy()
    changed[:, column] = ids
    return changed[chosen]
