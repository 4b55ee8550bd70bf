"""The diagnostics of an evaluated network."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from yoloflow.engine.evaluation_result import EvaluationResult
from yoloflow.engine.run_folder import find_weights
from yoloflow.evaluation.diagnostics import Diagnostics, diagnose
from yoloflow.evaluation.records import ground_truth_of, result_array
from yoloflow.structures import DatasetIndex
from yoloflow.weights.files import sha256_of, write_atomically

logger = logging.getLogger("yoloflow")


def write_diagnostics(folder: Path, result: EvaluationResult) -> dict[str, Any]:
    """Write `diagnostics.json` of a run's weights to use, and which weights these were.

    Args:
        folder: the run folder.
        result: the evaluation of `find_weights(folder)`.

    Returns:
        what was written.

    Raises:
        YoloflowError: no weights, or result and data set do not fit together.
    """
    weights = find_weights(folder)
    content = diagnose_result(result, result.index, weights.name).to_json()
    content["weights_sha256"] = sha256_of(weights)
    try:
        write_atomically(folder / "diagnostics.json", json.dumps(content).encode())
    except OSError as error:
        logger.warning("%s: diagnostics.json cannot be written (%s)", folder, error.strerror)
    return content


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
