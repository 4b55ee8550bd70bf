"""Detections and objects as flat arrays, where they overlap, and which finds which.

Within a class matching is COCO's: detections by falling score (equal scores in the given order) take the
object of their image and class that they overlap most, if by the threshold and not taken; of equal overlaps
the last object. A detection that gets none, but lies in a crowd region of its class, is ignored: neither
right nor wrong. At most 100 detections of an image and class count. A detection's match depends on better
detections only, so what holds above a score threshold is a part of what holds without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco_truth import Float64Array, GroundTruth
from yoloflow.structures import Int64Array

BoolArray = NDArray[np.bool_]

MAX_DETECTIONS = 100
"""Detections of a class in an image that COCO's figures count, the best ones."""
# TIDE's: below it a detection has nothing to do with an object. Smaller overlaps are not kept.
BACKGROUND_IOU = 0.1

_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Tables:
    """Objects and detections of the compared images.

    Attributes:
        image_ids: (I,) rising; category_ids: (K,) rising. Images and classes below are positions in these.
        object_images, object_classes: (M,), by image, in the given order.
        object_boxes_xywh: (M, 4) pixels.
        is_crowd: (M,) which are ignored regions, not objects.
        images, classes, scores: (N,) of the detections, by image and class, best first.
        boxes_xywh: (N, 4) pixels.
    """

    image_ids: Int64Array
    category_ids: Int64Array
    object_images: Int64Array
    object_classes: Int64Array
    object_boxes_xywh: Float64Array
    is_crowd: BoolArray
    images: Int64Array
    classes: Int64Array
    scores: Float64Array
    boxes_xywh: Float64Array

    @property
    def num_objects(self) -> Int64Array:
        """(K,) objects of each class."""
        counted = self.object_classes[~self.is_crowd]
        return np.bincount(counted, minlength=len(self.category_ids)).astype(np.int64)

    def by_class(self, rows: Int64Array, classes: Int64Array) -> list[Int64Array]:
        """Returns rows of the detections for each of K classes, best first; (N,) `classes` says whose."""
        rows = rows[np.lexsort((-self.scores[rows], classes[rows]))]
        bounds = np.searchsorted(classes[rows], np.arange(len(self.category_ids) + 1))
        return [rows[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Detections and objects of one image with an IoU of `BACKGROUND_IOU` or more.

    With a crowd region it is the share of the detection that lies in it.

    Attributes:
        detections, objects: (P,) rows of the tables, by detection, then by object.
        ious: (P,).
        is_same_class: (P,).
    """

    detections: Int64Array
    objects: Int64Array
    ious: Float64Array
    is_same_class: BoolArray


@dataclass(frozen=True, slots=True)
class Matches:
    """The object that each detection finds.

    Attributes:
        objects: (N,) row of the object found, -1 for none.
        is_ignored: (N,) found none and lies in a crowd region of its class.
    """

    objects: Int64Array
    is_ignored: BoolArray

    @property
    def is_right(self) -> BoolArray:
        """(N,) the true positives."""
        return self.objects >= 0

    @property
    def is_wrong(self) -> BoolArray:
        """(N,) the false positives."""
        return ~self.is_right & ~self.is_ignored


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The detections from a score on, and the objects that they miss.

    Attributes:
        tables: all detections, of any score.
        is_right, is_wrong: (N,) true and false positives; other detections are ignored, or none.
        is_missed: (M,) objects that no true positive finds; crowd regions are no objects.
    """

    tables: Tables
    is_right: BoolArray
    is_wrong: BoolArray
    is_missed: BoolArray


def make_tables(truth: GroundTruth, rows: Float64Array, image_ids: Sequence[int]) -> Tables:
    """Returns the tables of checked ground truth and (N, 7) detections, for these images by rising id."""
    images = np.array(image_ids, np.int64)
    categories = np.array(list(truth.category_names), np.int64)
    objects = truth.annotations[np.isin(truth.annotations[:, 0], images)]
    objects = objects[np.argsort(objects[:, 0], kind="stable")]
    rows = rows[np.isin(rows[:, 0], images)]
    rows = rows[np.lexsort((-rows[:, 5], rows[:, 6], rows[:, 0]))]
    rows = rows[_rank_in_group(rows[:, [0, 6]]) < MAX_DETECTIONS]
    return Tables(
        image_ids=images,
        category_ids=categories,
        object_images=np.searchsorted(images, objects[:, 0]),
        object_classes=np.searchsorted(categories, objects[:, 1]),
        object_boxes_xywh=objects[:, 2:6],
        is_crowd=objects[:, 7] > 0,
        images=np.searchsorted(images, rows[:, 0]),
        classes=np.searchsorted(categories, rows[:, 6]),
        scores=rows[:, 5],
        boxes_xywh=rows[:, 1:5],
    )


def _rank_in_group(keys: NDArray[np.generic]) -> Int64Array:
    """Counts the rows before each row with the same key; keys (N, ...) in which equal ones are neighbours."""
    if not len(keys):
        return np.zeros(0, np.int64)
    keys = keys.reshape(len(keys), -1)
    is_first = np.concatenate(([True], (keys[1:] != keys[:-1]).any(1)))
    starts = np.flatnonzero(is_first)
    return np.asarray(np.arange(len(keys)) - starts[np.cumsum(is_first) - 1])


def find_pairs(tables: Tables) -> Pairs:
    """Returns all pairs that overlap, a share of the images at a time."""
    num_images = len(tables.image_ids)
    first_detection = np.searchsorted(tables.images, np.arange(num_images + 1))
    first_object = np.searchsorted(tables.object_images, np.arange(num_images + 1))
    per_image = np.diff(first_detection) * np.diff(first_object)
    part_of_image = np.cumsum(per_image) // _PAIRS_AT_ONCE
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for part in np.unique(part_of_image):
        images = np.flatnonzero((part_of_image == part) & (per_image > 0))
        if not len(images):
            continue
        rows = _ranges(first_detection[images], first_detection[images + 1])
        low, high = first_object[tables.images[rows]], first_object[tables.images[rows] + 1]
        detections, objects = np.repeat(rows, high - low), _ranges(low, high)
        ious = overlaps(tables, detections, objects)
        is_kept = ious >= BACKGROUND_IOU
        parts.append((detections[is_kept], objects[is_kept], ious[is_kept]))
    detections, objects, ious = (np.concatenate(column) for column in zip(*parts, strict=True))
    is_same_class = tables.classes[detections] == tables.object_classes[objects]
    return Pairs(detections, objects, ious, is_same_class)


def _ranges(starts: Int64Array, ends: Int64Array) -> Int64Array:
    """Returns start, start + 1 ... end - 1 of each range, one after the other."""
    lengths = ends - starts
    offsets = np.repeat(starts - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths)
    return np.asarray(np.arange(lengths.sum()) + offsets)


def overlaps(tables: Tables, detections: Int64Array, objects: Int64Array) -> Float64Array:
    """Returns (P,) the IoU of each pair, or share of it in a crowd region, to pycocotools' last bit."""
    x, y, w, h = tables.boxes_xywh[detections].T
    object_x, object_y, object_w, object_h = tables.object_boxes_xywh[objects].T
    width = np.minimum(x + w, object_x + object_w) - np.maximum(x, object_x)
    height = np.minimum(y + h, object_y + object_h) - np.maximum(y, object_y)
    intersection = np.where((width > 0) & (height > 0), width * height, 0.0)
    union = np.where(tables.is_crowd[objects], w * h, w * h + object_w * object_h - intersection)
    share: Float64Array = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return share


def match(tables: Tables, pairs: Pairs, iou_thres: float) -> Matches:
    """Matches detections with objects of their class."""
    is_close = pairs.is_same_class & (pairs.ious >= iou_thres)
    in_crowd = is_close & tables.is_crowd[pairs.objects]
    candidates = np.flatnonzero(is_close & ~in_crowd)
    ranks = _rank_in_group(np.column_stack((tables.images, tables.classes)))
    objects = match_greedily(tables, pairs, candidates, ranks)
    is_ignored = np.zeros(len(tables.images), bool)
    is_ignored[pairs.detections[in_crowd]] = True
    return Matches(objects, is_ignored & (objects < 0))


def operate(tables: Tables, matches: Matches, conf_thres: float) -> OperatingPoint:
    """Returns the operating point at this score."""
    is_counted = tables.scores >= conf_thres
    is_right = matches.is_right & is_counted
    is_missed = ~tables.is_crowd
    is_missed[matches.objects[is_right]] = False
    return OperatingPoint(tables, is_right, matches.is_wrong & is_counted, is_missed)


def match_greedily(tables: Tables, pairs: Pairs, candidates: Int64Array, ranks: Int64Array) -> Int64Array:
    """Returns (N,) the object that each detection takes, -1 for none.

    Detections of one rank must not want the same object: all of a rank choose at once, lower ranks first.

    Args:
        tables: the detections.
        pairs: the overlaps.
        candidates: which of the pairs may match.
        ranks: (N,) the order of choice.
    """
    order = np.lexsort(
        (
            -pairs.objects[candidates],
            -pairs.ious[candidates],
            pairs.detections[candidates],
            ranks[pairs.detections[candidates]],
        )
    )
    detections, objects = pairs.detections[candidates[order]], pairs.objects[candidates[order]]
    found = np.full(len(tables.images), -1, np.int64)
    is_taken = np.zeros(len(tables.object_images), bool)
    pair_ranks = ranks[detections]
    bounds = [*np.flatnonzero(np.diff(pair_ranks, prepend=-1)).tolist(), len(pair_ranks)]
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        free = np.flatnonzero(~is_taken[objects[start:end]]) + start
        choice = free[np.diff(detections[free], prepend=-1) != 0]  # the best pair of each detection
        found[detections[choice]] = objects[choice]
        is_taken[objects[choice]] = True
    return found
