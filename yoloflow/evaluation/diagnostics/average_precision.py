"""Average precision of many versions of a ranking at once: resampled images, corrected detections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco_json import Float64Array
from yoloflow.structures import Int64Array

RECALLS = np.linspace(0, 1, 101)


def interpolated_ap(
    num_right: NDArray[np.integer], num_ranked: NDArray[np.integer], num_objects: NDArray[np.integer]
) -> Float64Array:
    """COCO's AP: the mean over 101 recalls of the best precision at that recall or a higher one.

    Args:
        num_right: (S, R) true positives down to and with each of R true positives, by falling score; S
            versions of the ranking.
        num_ranked: (S, R) detections down to there, ignored ones not counted.
        num_objects: (S,) objects.

    Returns:
        (S,) AP, NaN where there are no objects.
    """
    num_versions, num_places = num_right.shape
    with np.errstate(invalid="ignore"):
        empty = np.where(num_objects > 0, 0.0, np.nan)
    if not num_places:
        return empty
    precision = num_right / np.maximum(num_ranked, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # A last column of 0 for the recalls that are never reached.
    precision = np.concatenate((precision, np.zeros((num_versions, 1))), 1)
    # Rows one above the other, so that one search serves all: no count reaches the next row's offset.
    offsets = np.arange(num_versions)[:, None] * (int(num_right.max()) + int(num_objects.max()) + 2)
    places = np.searchsorted((num_right + offsets).ravel(), (_needed(num_objects) + offsets).ravel())
    places = places.reshape(num_versions, -1) - np.arange(num_versions)[:, None] * num_places
    return np.asarray(np.take_along_axis(precision, places.clip(max=num_places), 1).mean(1) + empty)


def _needed(num_objects: NDArray[np.integer]) -> Int64Array:
    """(S, 101) true positives that reach each recall: right / objects >= recall, as pycocotools has it."""
    objects = np.maximum(num_objects, 1)[:, None]
    needed = np.ceil(RECALLS * objects)
    needed -= (needed - 1) / objects >= RECALLS
    needed += needed / objects < RECALLS
    return np.asarray(needed, np.int64)
