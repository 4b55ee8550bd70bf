"""Metrics beside COCO's: each is a function and a line in `METRICS`.

A metric's figure is in the result of `test` (`metrics`), in its json, in `metrics.jsonl`, in `summary.json`
and in the output of `yoloflow test`.
"""

from __future__ import annotations

from collections.abc import Callable

from yoloflow.evaluation.coco import CocoResult
from yoloflow.evaluation.coco_truth import Float64Array, GroundTruth
from yoloflow.structures import YoloflowError

Metric = Callable[[CocoResult, GroundTruth, Float64Array], float]
"""A function of COCO's result, the ground truth and the (N, 7) detections `RESULT_COLUMNS`."""

METRICS: dict[str, Metric] = {}
"""Metrics by the name of their figure."""

_TAKEN = {
    *("map", "map50", "stats", "stat_names", "per_class", "is_best"),
    *("mask_map", "mask_map50", "mask_stats", "mask_per_class"),
    *("num_images", "settings", "speed", "kind", "epoch"),
}
"""Names that have another meaning in the files where metrics are written."""


def compute_metrics(coco: CocoResult, truth: GroundTruth, detections: Float64Array) -> dict[str, float]:
    """Returns the figures of all metrics of the table.

    Raises:
        YoloflowError: a metric has the name of another figure.
    """
    if taken := _TAKEN & METRICS.keys():
        raise YoloflowError(
            f"METRICS: {', '.join(sorted(taken))}: the name of another figure; choose another"
        )
    return {name: float(metric(coco, truth, detections)) for name, metric in METRICS.items()}
