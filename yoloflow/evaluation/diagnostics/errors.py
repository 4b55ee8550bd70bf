"""The kind of error of each false positive, and the AP that each kind costs.

TIDE: Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors", section 2.2. Where
several kinds apply the first does:

- localisation: overlaps an object of its class, but by less than the IoU threshold;
- classification: overlaps an object of another class by the IoU threshold;
- duplicate: overlaps an object of its class by the threshold, but a better detection has it;
- background: overlaps nothing by 0.1;
- both: overlaps an object of another class only, by less than the threshold;
- missed: an object not found that no localisation or classification error overlaps the most.

The cost of a kind is the AP gained if it alone were repaired: a localisation or classification error becomes
right if its object is not found otherwise (the best error of that kind; its others vanish), errors of the
other kinds vanish, missed objects are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yoloflow.evaluation.coco_truth import Float64Array
from yoloflow.evaluation.diagnostics.average_precision import interpolated_ap
from yoloflow.evaluation.diagnostics.matching import BoolArray, Matches, OperatingPoint, Pairs, Tables
from yoloflow.structures import Int64Array

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
NO_ERROR = -1


@dataclass(frozen=True, slots=True)
class Errors:
    """The kind of each error.

    Attributes:
        kinds: (N,) of each detection, by position in `KINDS`; -1 if it is right or ignored.
        objects: (N,) the object that explains the error (of a true positive: its object), -1 for none.
        ious: (N,) the overlap with it, 0 for none.
    """

    kinds: Int64Array
    objects: Int64Array
    ious: Float64Array


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """The errors as a whole.

    Attributes:
        base_ap: AP at the IoU of a true positive.
        counts: errors of each of `KINDS` at the operating point.
        ap_costs: AP gained if all errors of a kind were repaired, at any score.
    """

    base_ap: float
    counts: list[int]
    ap_costs: list[float]


def summarise(errors: Errors, point: OperatingPoint, all_scores: OperatingPoint) -> ErrorSummary:
    """Summarises errors; at `all_scores` every detection counts, as AP has no threshold."""
    base_ap, costs = ap_costs(all_scores, errors)
    counts = np.bincount(errors.kinds[point.is_wrong], minlength=MISSED).tolist()
    missed = int(unexplained(errors, point).sum())
    return ErrorSummary(base_ap, [*counts, missed], costs)


def find_errors(tables: Tables, pairs: Pairs, matches: Matches, iou_thres: float) -> Errors:
    """Finds the kinds of all detections: better ones decide a kind, so it is the same at any threshold."""
    is_object = ~tables.is_crowd[pairs.objects]
    own, own_iou = _closest(tables, pairs, is_object & pairs.is_same_class)
    other, other_iou = _closest(tables, pairs, is_object & ~pairs.is_same_class)
    conditions = [
        ~matches.is_wrong,
        (own >= 0) & (own_iou < iou_thres),
        other_iou >= iou_thres,
        own >= 0,
        other < 0,
    ]
    kinds = np.select(conditions, [NO_ERROR, LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
    with_other = np.isin(kinds, (CLASSIFICATION, BOTH))
    objects = np.select([matches.is_right, matches.is_ignored, with_other], [matches.objects, -1, other], own)
    ious = np.where(with_other, other_iou, np.where(objects >= 0, own_iou, 0.0))
    is_found = matches.is_right[pairs.detections] & (matches.objects[pairs.detections] == pairs.objects)
    ious[pairs.detections[is_found]] = pairs.ious[is_found]
    return Errors(kinds, objects, ious)


def _closest(tables: Tables, pairs: Pairs, is_counted: BoolArray) -> tuple[Int64Array, Float64Array]:
    """Returns (N,) the object that each detection overlaps most (first of equals; -1: none), and the IoU."""
    rows = np.flatnonzero(is_counted)
    rows = rows[np.lexsort((pairs.objects[rows], -pairs.ious[rows], pairs.detections[rows]))]
    rows = rows[np.diff(pairs.detections[rows], prepend=-1) != 0]
    objects, ious = np.full(len(tables.images), -1, np.int64), np.zeros(len(tables.images))
    objects[pairs.detections[rows]], ious[pairs.detections[rows]] = pairs.objects[rows], pairs.ious[rows]
    return objects, ious


def explains_an_object(errors: Errors) -> BoolArray:
    """Returns (N,) localisation and classification errors: they explain why their object is not found."""
    return np.isin(errors.kinds, (LOCALISATION, CLASSIFICATION))


def unexplained(errors: Errors, point: OperatingPoint) -> BoolArray:
    """Returns (M,) the objects not found at an operating point that no error there explains."""
    is_left = point.is_missed.copy()
    is_left[errors.objects[explains_an_object(errors) & point.is_wrong]] = False
    return is_left


def ap_costs(point: OperatingPoint, errors: Errors) -> tuple[float, list[float]]:
    """Returns AP at the matches' IoU, and what it would gain if all errors of each of `KINDS` were repaired.

    The mean is always taken over the classes that have objects; a class all of whose objects are left out as
    missed has AP 0. Without any objects AP is -1, as COCO has it, and nothing costs anything.

    Args:
        point: the one at which every detection counts.
        errors: their kinds.
    """
    tables, num_objects = point.tables, point.tables.num_objects
    if not num_objects.any():
        return -1.0, [0.0] * len(KINDS)
    is_kept = point.is_right | point.is_wrong
    base = _mean_ap(point, tables.classes, point.is_right, is_kept, num_objects)
    object_classes = np.append(tables.object_classes, -1)  # -1, none, is the last
    repaired = []
    for kind in range(MISSED):
        is_repaired = np.zeros(len(errors.kinds), bool)
        if kind in (CLASSIFICATION, LOCALISATION):
            is_repaired[_best_of_each_object(point, errors, kind)] = True
        classes = np.where(is_repaired, object_classes[errors.objects], tables.classes)
        stays = is_kept & ((errors.kinds != kind) | is_repaired)
        repaired.append(_mean_ap(point, classes, point.is_right | is_repaired, stays, num_objects))
    is_left_out = unexplained(errors, point)
    fewer = num_objects - np.bincount(tables.object_classes[is_left_out], minlength=len(num_objects))
    repaired.append(_mean_ap(point, tables.classes, point.is_right, is_kept, fewer))
    return base, [value - base for value in repaired]


def _mean_ap(
    point: OperatingPoint, classes: Int64Array, is_right: BoolArray, is_kept: BoolArray, objects: Int64Array
) -> float:
    """Returns AP over the classes with objects, of other classes, true positives, rows and (K,) objects."""
    rows = point.tables.by_class(np.flatnonzero(is_kept), classes)
    total, counted = 0.0, np.flatnonzero(point.tables.num_objects > 0).tolist()
    for k in counted:
        places = np.flatnonzero(is_right[rows[k]])
        right = np.arange(1, len(places) + 1)
        total += float(np.nan_to_num(interpolated_ap(right[None], places[None] + 1, objects[k : k + 1])[0]))
    return total / len(counted)


def _best_of_each_object(point: OperatingPoint, errors: Errors, kind: int) -> Int64Array:
    """Returns the detections that would find the missed objects if errors of this kind were repaired."""
    rows = np.flatnonzero(errors.kinds == kind)
    rows = rows[point.is_missed[errors.objects[rows]]]
    rows = rows[np.lexsort((-point.tables.scores[rows], errors.objects[rows]))]
    return np.asarray(rows[np.diff(errors.objects[rows], prepend=-1) != 0])
