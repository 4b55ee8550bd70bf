"""The confusion matrix, by one convention that agrees with precision, recall and the counts."""

from __future__ import annotations

import numpy as np

from yoloflow.evaluation.diagnostics.matching import Matches, OperatingPoint, Pairs, match_greedily
from yoloflow.structures import Int64Array

BACKGROUND = "background"
CONVENTION = (
    "Detections from conf_thres on are matched within their class first, as COCO does (the diagonal); the "
    "false positives, by falling score, then take the missed objects of other classes that they overlap by "
    "iou_thres; what is left stands in the background row (false positives) and the background column "
    "(missed objects); detections in crowd regions of their class are ignored. So a class's row adds up to "
    "its objects, its column to its true and false positives."
)


def mix_ups(point: OperatingPoint, pairs: Pairs, iou_thres: float) -> Int64Array:
    """Returns (N,) the missed object of another class that each false positive takes, -1 for none."""
    tables = point.tables
    candidates = np.flatnonzero(
        ~pairs.is_same_class
        & (pairs.ious >= iou_thres)
        & point.is_wrong[pairs.detections]
        & point.is_missed[pairs.objects]
    )
    by_score = np.lexsort((-tables.scores, tables.images))
    ranks = np.empty(len(by_score), np.int64)
    ranks[by_score] = np.arange(len(by_score)) - np.searchsorted(tables.images, tables.images[by_score])
    return match_greedily(tables, pairs, candidates, ranks)


def confusion_matrix(point: OperatingPoint, matches: Matches, mixed_up: Int64Array) -> Int64Array:
    """Returns (K + 1, K + 1) counts: rows the truth, columns the prediction, the last of each the background.

    Args:
        point: which detections and objects count.
        matches: what the true positives find.
        mixed_up: what `mix_ups` gives at this point.
    """
    tables, background = point.tables, len(point.tables.category_ids)
    is_counted = point.is_right | point.is_wrong
    found = np.where(point.is_right, matches.objects, mixed_up)[is_counted]
    truth = np.append(tables.object_classes, background)[found]  # -1, none, is the last
    matrix = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(matrix, (truth, tables.classes[is_counted]), 1)
    is_unseen = point.is_missed.copy()
    is_unseen[mixed_up[mixed_up >= 0]] = False
    matrix[:background, background] = np.bincount(tables.object_classes[is_unseen], minlength=background)
    return matrix
