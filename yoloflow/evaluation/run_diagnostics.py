"""The diagnostics of an evaluated network, and to which weights of a run they belong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yoloflow.evaluation.coco_arrays import ground_truth_of, result_array
from yoloflow.evaluation.diagnostics import Diagnostics, diagnose
from yoloflow.evaluation.result import EvaluationResult
from yoloflow.files import sha256_of
from yoloflow.run.folder import find_weights
from yoloflow.structures import DatasetIndex, YoloflowError


def diagnose_result(result: EvaluationResult, index: DatasetIndex, what: str = "") -> Diagnostics:
    """Diagnoses the detections of an evaluation; images are named by their paths.

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


def diagnostics_of_run(result: EvaluationResult, weights: Path, sha256: str) -> dict[str, Any]:
    """Returns the content of a run's `diagnostics.json`, which says of which weights it is.

    Args:
        result: the evaluation of these weights.
        weights: their file.
        sha256: of its bytes; where the file may still change, from before it was evaluated.

    Raises:
        YoloflowError: result and data set do not fit together.
    """
    content = diagnose_result(result, result.index, weights.name).to_json()
    return content | {"weights_sha256": sha256}


def stale_reason(diagnostics: Mapping[str, Any], folder: Path) -> str | None:
    """Returns why a run's diagnostics may be of other weights than its best ones now; None if they are not.

    Args:
        diagnostics: content of its `diagnostics.json`.
        folder: the run folder.

    Raises:
        YoloflowError: the weights cannot be read.
    """
    sha256 = diagnostics.get("weights_sha256")
    if sha256 is None:
        return "diagnostics.json does not say of which weights it is"
    try:
        weights = find_weights(folder)
    except YoloflowError:
        return f"diagnostics.json is of {diagnostics['what']}, and the run has no weights to compare with"
    if sha256 == read_sha256(weights):
        return None
    if diagnostics["what"] != weights.name:
        return f"diagnostics.json is of {diagnostics['what']}, and the weights to use are now {weights.name}"
    return f"diagnostics.json is of other weights than {weights.name} has now"


def read_sha256(weights: Path) -> str:
    """Returns the SHA-256 of a weights file.

    Raises:
        YoloflowError: the file cannot be read.
    """
    try:
        return sha256_of(weights)
    except OSError as error:
        raise YoloflowError(f"{weights}: cannot be read ({error.strerror})") from error
