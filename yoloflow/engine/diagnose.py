"""The diagnostics of an evaluated network."""

from __future__ import annotations

from dataclasses import replace

from yoloflow.engine.evaluation_result import EvaluationResult
from yoloflow.evaluation.diagnostics import Diagnostics, diagnose
from yoloflow.evaluation.records import ground_truth_of, result_array
from yoloflow.structures import DatasetIndex


def diagnose_result(result: EvaluationResult, index: DatasetIndex, what: str = "") -> Diagnostics:
    """What the detections of an evaluation are worth, and why not more; images are named by their paths.

    Args:
        result: the evaluation.
        index: the data set that was evaluated.
        what: words for the evaluated weights.

    Raises:
        YoloflowError: result and data set do not fit together.
    """
    diagnostics = diagnose(
        ground_truth_of(index),
        result_array(result.detections, index),
        index.image_ids[list(result.detections)].tolist(),
        files=dict(zip(index.image_ids.tolist(), index.image_paths.tolist(), strict=True)),
        what=what,
    )
    return replace(diagnostics, speed=result.to_json()["speed"])
