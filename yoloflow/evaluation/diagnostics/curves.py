"""Precision, recall and F1 against the score threshold, and the counts that they are made of.

Of a class, at a threshold: P = right / (right + wrong), R = right / objects, F1 = 2 right / (right + wrong +
objects), each undefined where it would divide by 0. Over classes: the mean of those that have objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco_truth import Float64Array
from yoloflow.evaluation.diagnostics.matching import Matches, Tables
from yoloflow.structures import Int64Array

CONFIDENCES = np.arange(101) / 100


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts at T score thresholds.

    Attributes:
        right, wrong, ignored: (K, T) detections with at least that score: true positives, false positives,
            and those in crowd regions, which are neither.
        objects: (K,).
    """

    right: Int64Array
    wrong: Int64Array
    ignored: Int64Array
    objects: Int64Array

    @property
    def missed(self) -> Int64Array:
        """(K, T) objects that are not found."""
        return self.objects[:, None] - self.right

    @property
    def precision(self) -> Float64Array:
        """(K, T), NaN where nothing is detected."""
        return _share(self.right, self.right + self.wrong)

    @property
    def recall(self) -> Float64Array:
        """(K, T), NaN without objects."""
        return _share(self.right, self.objects[:, None])

    @property
    def f1(self) -> Float64Array:
        """(K, T), NaN where nothing is detected and nothing is to be detected."""
        return _share(2 * self.right, self.right + self.wrong + self.objects[:, None])

    def over_classes(self, values: Float64Array) -> Float64Array:
        """Returns (T,) the mean of (K, T) values over the classes with objects, NaN where none has one."""
        values = values[self.objects > 0]
        is_known = ~np.isnan(values)
        return _share(np.where(is_known, values, 0).sum(0), is_known.sum(0))


def _share(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Float64Array:
    over, under = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    share: Float64Array = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return share


def count(tables: Tables, matches: Matches, thresholds: Float64Array) -> Counts:
    """Returns the counts at these score thresholds; a detection with the threshold's very score counts."""
    totals = np.zeros((3, len(tables.category_ids), len(thresholds)), np.int64)
    kinds = np.where(matches.is_ignored, 2, np.where(matches.is_right, 0, 1))
    for kind in range(3):
        rows = np.flatnonzero(kinds == kind)
        for k, mine in enumerate(tables.by_class(rows, tables.classes)):
            totals[kind, k] = len(mine) - np.searchsorted(tables.scores[mine[::-1]], thresholds)
    right, wrong, ignored = totals
    return Counts(right, wrong, ignored, tables.num_objects)


def operating_point(counts: Counts) -> float:
    """Returns the lowest of `CONFIDENCES` with the best mean F1 over classes; 0 if there are no objects.

    Args:
        counts: at `CONFIDENCES`.
    """
    f1 = counts.over_classes(counts.f1)
    return 0.0 if np.isnan(f1).all() else float(CONFIDENCES[np.nanargmax(f1)])


@dataclass(frozen=True, slots=True)
class BestThreshold:
    """The score threshold with the best F1 of a class (the highest of equal ones), and that F1.

    None where the class has no objects or no detections that count.
    """

    conf: float | None = None
    f1: float | None = None


def best_thresholds(tables: Tables, matches: Matches) -> list[BestThreshold]:
    """Returns of each class."""
    found = [BestThreshold() for _ in tables.category_ids]
    num_objects = tables.num_objects
    rows = np.flatnonzero(~matches.is_ignored)
    for k, mine in enumerate(tables.by_class(rows, tables.classes)):
        if not (num_objects[k] and len(mine)):
            continue
        scores, num_right = tables.scores[mine], np.cumsum(matches.is_right[mine])
        # A threshold takes all detections of a score or none.
        last = np.flatnonzero(np.diff(scores, append=-np.inf) != 0)
        f1 = 2 * num_right[last] / (last + 1 + num_objects[k])
        best = int(f1.argmax())
        found[k] = BestThreshold(float(scores[last[best]]), float(f1[best]))
    return found
