"""Metrics beside COCO's: each is a function and a line in `METRICS`.

A metric's figure is in the result of `test` (`metrics`), in its json, in `metrics.jsonl`, in `summary.json`
and in the output of `yoloflow test`.
"""

from __future__ import annotations

from collections.abc import Callable

from yoloflow.evaluation.coco import CocoResult
from yoloflow.evaluation.coco_reader import Float64Array, GroundTruth

Metric = Callable[[CocoResult, GroundTruth, Float64Array], float]
"""A function of COCO's result, the ground truth and the (N, 7) detections `RESULT_COLUMNS`."""

METRICS: dict[str, Metric] = {}
"""Metrics by the name of their figure."""
