"""The diagnostics of an evaluated network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from yoloflow.data.writers.coco_json import ground_truth_dict
from yoloflow.engine.evaluate import EvaluationResult
from yoloflow.evaluation.diagnostics import Diagnostics, diagnose
from yoloflow.evaluation.records import result_array
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
        ground_truth_dict(index),
        result_array(result.detections, index),
        index.image_ids[list(result.detections)].tolist(),
        files=dict(zip(index.image_ids.tolist(), index.image_paths.tolist(), strict=True)),
        what=what,
    )
    return replace(diagnostics, speed=_speed(result))


def _speed(result: EvaluationResult) -> dict[str, Any]:
    """Images in a second of the whole evaluation, and where the time of an image goes."""
    per_image = 1000 / max(result.num_images, 1)
    return {
        "images_per_second": result.images_per_second,
        "milliseconds_per_image": {
            "loading": result.seconds.loading * per_image,
            "network": result.seconds.network * per_image,
            "nms": result.seconds.nms * per_image,
        },
        "peak_memory_mb": getattr(result, "peak_memory_mb", None),
    }
