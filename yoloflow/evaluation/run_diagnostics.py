"""The diagnostics of an evaluated network, and to which weights of a run they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from yoloflow.data.formats.outlines import pixels_of_mask
from yoloflow.evaluation.coco_arrays import ground_truth_of, result_array
from yoloflow.evaluation.diagnostics import Diagnostics, diagnose
from yoloflow.evaluation.diagnostics.diagnosis import pr_curves
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

    It is about boxes; where the network predicts masks, `mask_stats` and `mask_pr_curves` are about these.

    Args:
        result: the evaluation of these weights.
        weights: their file.
        sha256: of its bytes; where the file may still change, from before it was evaluated.

    Raises:
        YoloflowError: result and data set do not fit together.
    """
    content = diagnose_result(result, result.index, weights.name).to_json()
    if result.masks is not None:
        content["mask_stats"] = list(result.masks.stats)
        content["mask_pr_curves"] = pr_curves(result.masks, result.masks.pr50)
        _add_outlines(content["images"], result)
    return content | {"weights_sha256": sha256}


def _add_outlines(images: Sequence[dict[str, Any]], result: EvaluationResult) -> None:
    """Gives each detection on the worst images the `outline` of its mask: rings x, y, x, y, ... in pixels."""
    positions = {path: position for position, path in enumerate(result.index.image_paths.tolist())}
    for image in images:
        found = result.detections[positions[image["file"]]]
        for box in image["boxes"]:
            if box.get("score") is None or found.masks is None:
                continue
            # Boxes that are almost equal are told apart by class and score.
            number = result.index.category_ids[found.classes] != box["category_id"]
            apart = (
                abs(found.boxes_xyxy - box["box_xyxy"]).sum(1)
                + abs(found.scores - box["score"])
                + 1e6 * number
            )
            pixels = pixels_of_mask(found.masks[int(apart.argmin())])
            contours, _ = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
            rings = [cv2.approxPolyDP(contour, 0.7, closed=True) for contour in contours]
            box["outline"] = [(ring.ravel() + 0.5).tolist() for ring in rings]


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
