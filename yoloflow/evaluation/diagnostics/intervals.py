"""Bootstrap intervals of AP, over the choice of images.

Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 5.2 (basic interval): images are
drawn with replacement, as many as there are, and AP is computed anew; of two sets of detections on the same
drawn images, so that what is hard about an image counts for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco_truth import Float64Array
from yoloflow.evaluation.diagnostics.average_precision import interpolated_ap
from yoloflow.evaluation.diagnostics.matching import BoolArray, Pairs, Tables, match
from yoloflow.structures import Int64Array

LEVEL = 0.95
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

_VALUES_AT_ONCE = 2_000_000

Weights = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rankings:
    """All classes' detections by falling score, and what they are at each of `IOU_THRESHOLDS`.

    Attributes:
        images: of each class, (n,) positions of the detections' images.
        is_right, is_ignored: of each class, (10, n).
        object_images: of each class, positions of the objects' images.
    """

    images: list[Int64Array]
    is_right: list[BoolArray]
    is_ignored: list[BoolArray]
    object_images: list[Int64Array]


def rank_classes(tables: Tables, pairs: Pairs) -> Rankings:
    """Returns the rankings behind COCO's AP."""
    matches = [match(tables, pairs, threshold) for threshold in IOU_THRESHOLDS.tolist()]
    is_right = np.array([found.is_right for found in matches])
    is_ignored = np.array([found.is_ignored for found in matches])
    rows = tables.by_class(np.arange(len(tables.scores)), tables.classes)
    object_rows = [
        np.flatnonzero((tables.object_classes == k) & ~tables.is_crowd)
        for k in range(len(tables.category_ids))
    ]
    return Rankings(
        images=[tables.images[mine] for mine in rows],
        is_right=[is_right[:, mine] for mine in rows],
        is_ignored=[is_ignored[:, mine] for mine in rows],
        object_images=[tables.object_images[mine] for mine in object_rows],
    )


def draw_images(num_images: int, num_samples: int, seed: int) -> Weights:
    """Returns (S, I) how many times each sample has each image."""
    rng = np.random.default_rng(seed)
    weights = np.empty((num_samples, num_images), np.int32)
    for i in range(num_samples):
        weights[i] = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
    return weights


def resampled_ap(rankings: Rankings, weights: Weights) -> tuple[Float64Array, Float64Array]:
    """Returns (S,) AP and (S,) AP50 of each sample, over the classes with objects in it; NaN without any."""
    totals, totals50, num_classes = (np.zeros(len(weights)) for _ in range(3))
    for k, images in enumerate(rankings.images):
        chunk = max(_VALUES_AT_ONCE // max(len(images), 1), 1)
        for start in range(0, len(weights), chunk):
            part = slice(start, start + chunk)
            num_objects = weights[part][:, rankings.object_images[k]].sum(1)
            values = _class_ap(rankings, k, weights[part], num_objects)
            has_objects = num_objects > 0
            totals[part] += np.where(has_objects, values.mean(0), 0)
            totals50[part] += np.where(has_objects, values[0], 0)
            num_classes[part] += has_objects
    with np.errstate(invalid="ignore"):
        return totals / num_classes, totals50 / num_classes


def _class_ap(rankings: Rankings, k: int, weights: Weights, num_objects: Int64Array) -> Float64Array:
    """Returns (10, S) AP of a class at each IoU threshold.

    Precision matters at true positives only. So counts are summed up from one place where there is a true
    positive at any threshold to the next, and the lower detections are left out.
    """
    is_right, is_ignored = rankings.is_right[k], rankings.is_ignored[k]
    places = np.flatnonzero(is_right.any(0))
    if not len(places):
        return np.zeros((len(is_right), len(weights)))
    end = int(places[-1]) + 1
    drawn = weights[:, rankings.images[k][:end]]
    ranked = np.cumsum(drawn, axis=1, dtype=np.int32)[:, places]
    values = []
    for right, ignored in zip(is_right, is_ignored, strict=True):
        mine = np.flatnonzero(right[places])
        num_right = np.cumsum(drawn[:, places[mine]], axis=1, dtype=np.int32)
        num_ranked = ranked[:, mine]
        crowd = np.flatnonzero(ignored[:end])
        if len(crowd):
            num_ignored = np.cumsum(drawn[:, crowd], axis=1, dtype=np.int32)
            num_ignored = np.concatenate((np.zeros((len(weights), 1), np.int32), num_ignored), 1)
            num_ranked = num_ranked - num_ignored[:, np.searchsorted(crowd, places[mine])]
        values.append(interpolated_ap(num_right, num_ranked, num_objects))
    return np.array(values)


def interval(figure: float, samples: Float64Array, bounds: tuple[float, float]) -> tuple[float, float] | None:
    """Returns the basic bootstrap interval: distances of samples from `figure` are taken off it at both ends.

    AP of few images is on average too high, because the best precision at a recall or a higher one picks up
    noise, and samples are too high by as much again; so their own middle would be wrong twice.

    Args:
        figure: AP, or a difference, of all images.
        samples: the same of each sample; NaN without objects.
        bounds: between which such a figure lies.

    Returns:
        The ends at `LEVEL`; None if no sample has objects.
    """
    known = samples[~np.isnan(samples)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = np.clip([2 * figure - high, 2 * figure - low], *bounds)
    return float(ends[0]), float(ends[1])
