"""Comparison of two sets of detections, with the uncertainty that comes from the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yoloflow.evaluation.coco import CocoResult, compared_ids, evaluate_read
from yoloflow.evaluation.coco_reader import Results, read_detection_rows
from yoloflow.evaluation.coco_truth import Float64Array, GroundTruth, read_ground_truth
from yoloflow.evaluation.diagnostics.intervals import LEVEL, draw_images, interval, rank_classes, resampled_ap
from yoloflow.evaluation.diagnostics.matching import find_pairs, make_tables
from yoloflow.structures import YoloflowError


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of both, and by how much the first is better.

    Attributes:
        a, b: the figures.
        difference: a - b.
        interval: in which it lies with probability `LEVEL`; None if not asked for or without objects.
        share_better: share of the samples in which a is better than b, equal ones half; None likewise.
    """

    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    share_better: float | None


@dataclass(frozen=True, slots=True)
class ClassDifference:
    """A class's figures of both; None where it has no objects."""

    category_id: int
    name: str
    num_objects: int
    ap_a: float | None
    ap_b: float | None
    ap_difference: float | None
    ap50_a: float | None
    ap50_b: float | None
    ap50_difference: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sets of detections on the same images.

    Attributes:
        a, b: COCO's figures of each.
        ap, ap50: their differences.
        per_class: by rising category id.
        samples: of the bootstrap.
    """

    a: CocoResult
    b: CocoResult
    ap: Difference
    ap50: Difference
    per_class: tuple[ClassDifference, ...]
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries."""
        return {
            "num_images": self.a.num_images,
            "level": LEVEL,
            "samples": self.samples,
            "AP": asdict(self.ap),
            "AP50": asdict(self.ap50),
            "per_class": [asdict(row) for row in self.per_class],
            "stats_a": list(self.a.stats),
            "stats_b": list(self.b.stats),
        }


def compare(
    ground_truth: GroundTruth | Mapping[str, Any] | str | Path,
    detections_a: Results,
    detections_b: Results,
    image_ids: Sequence[int] | None = None,
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares two sets of detections; differences say by how much the first is better.

    Args:
        ground_truth: COCO json file or its content, or either as `read_ground_truth` gives it.
        detections_a: as `evaluate_coco` takes them.
        detections_b: likewise, what they are compared with.
        image_ids: the images to compare (default: all of the ground truth).
        num_bootstrap: samples of the images, the same for both; 0: no intervals.
        seed: of these samples.

    Raises:
        YoloflowError: something cannot be read or does not fit together.
    """
    if num_bootstrap < 0:
        raise YoloflowError(f"comparison: num_bootstrap is {num_bootstrap}, expected 0 or more")
    truth = read_ground_truth(ground_truth)
    (a, *samples_a), (b, *samples_b) = (
        _resample(truth, detections, image_ids, num_bootstrap, seed)
        for detections in (detections_a, detections_b)
    )
    ap, ap50 = (
        _difference(a.stats[i], b.stats[i], samples_a[i] - samples_b[i]) for i in range(len(samples_a))
    )
    per_class = tuple(
        ClassDifference(
            category_id=first.category_id,
            name=first.name,
            num_objects=first.num_objects,
            ap_a=first.ap,
            ap_b=second.ap,
            ap_difference=_minus(first.ap, second.ap),
            ap50_a=first.ap50,
            ap50_b=second.ap50,
            ap50_difference=_minus(first.ap50, second.ap50),
        )
        for first, second in zip(a.per_class, b.per_class, strict=True)
    )
    return Comparison(a, b, ap, ap50, per_class, num_bootstrap)


def _resample(
    truth: GroundTruth, detections: Results, image_ids: Sequence[int] | None, num_samples: int, seed: int
) -> tuple[CocoResult, Float64Array, Float64Array]:
    """Returns the figures, and AP and AP50 of each sample; the same seed draws the same images."""
    rows = read_detection_rows(detections, truth)
    coco = evaluate_read(truth, truth.coco.load_res(rows), image_ids)
    if not num_samples:
        return coco, np.zeros(0), np.zeros(0)
    tables = make_tables(truth, rows, compared_ids(image_ids, truth))
    weights = draw_images(len(tables.image_ids), num_samples, seed)
    return coco, *resampled_ap(rank_classes(tables, find_pairs(tables)), weights)


def _difference(a: float, b: float, samples: Float64Array) -> Difference:
    known = samples[~np.isnan(samples)]
    share = float((known > 0).mean() + (known == 0).mean() / 2) if len(known) else None
    return Difference(a, b, a - b, interval(a - b, samples, (-1, 1)), share)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
