"""Average precision of many versions of a ranking at once: resampled images, corrected detections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco_truth import Float64Array

RECALLS = np.linspace(0, 1, 101)
# linspace is a bit above the nearest number to 0.35 and others, so that 35 of 100 objects do not reach it.
_MET_WHEN_EQUAL = np.arange(101) / 100 >= RECALLS


def interpolated_ap(
    num_right: NDArray[np.integer], num_ranked: NDArray[np.integer], num_objects: NDArray[np.integer]
) -> Float64Array:
    """Returns COCO's AP: the mean over 101 recalls of the best precision at that recall or a higher one.

    Args:
        num_right: (S, R) true positives down to and with each of R true positives, by falling score; S
            versions of the ranking.
        num_ranked: (S, R) detections down to there, ignored ones not counted.
        num_objects: (S,) objects.

    Returns:
        (S,) AP, NaN where there are no objects.
    """
    with np.errstate(invalid="ignore"):
        empty = np.where(num_objects > 0, 0.0, np.nan)
    if not num_right.shape[1]:
        return empty
    precision = num_right / np.maximum(num_ranked, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = _recalls_reached(num_right, np.maximum(num_objects, 1)[:, None])
    newly_reached = np.diff(reached, axis=1, prepend=0)
    ap: Float64Array = np.einsum("sr,sr->s", precision, newly_reached) / len(RECALLS) + empty
    return ap


def _recalls_reached(num_right: NDArray[np.integer], num_objects: NDArray[np.integer]) -> NDArray[np.integer]:
    """Counts the `RECALLS` that are at most right / objects, in pycocotools' floating-point numbers."""
    hundredfold = 100 * num_right
    reached = hundredfold // num_objects
    is_met = reached * num_objects != hundredfold  # or met exactly: then rounding decides
    return np.asarray(reached + (is_met | _MET_WHEN_EQUAL[reached]))
