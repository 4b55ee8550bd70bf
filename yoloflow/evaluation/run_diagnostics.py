"""The diagnostics of an evaluated network, and to which weights of a run they belong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.outlines import pixels_of_mask, pixels_of_segmentation, segmentation_of
from yoloflow.evaluation.coco_arrays import ground_truth_of, result_array
from yoloflow.evaluation.diagnostics import Diagnostics, diagnose
from yoloflow.evaluation.diagnostics.diagnosis import pr_curves
from yoloflow.evaluation.result import EvaluationResult
from yoloflow.files import sha256_of
from yoloflow.run.folder import find_weights
from yoloflow.structures import DatasetIndex, Int64Array, Uint8Array, YoloflowError


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
        content["mask_pr_curves"] = pr_curves(result.masks)
        _add_outlines(content["images"], result)
    return content | {"weights_sha256": sha256}


def _add_outlines(images: Sequence[dict[str, Any]], result: EvaluationResult) -> None:
    """Gives the boxes on the worst images the `outline` of their masks: rings x, y, x, y, ... in pixels.

    A detection has that of its own mask, a missed object that of the truth; one whose label is a bare box has
    none.
    """
    positions = {path: position for position, path in enumerate(result.index.image_paths.tolist())}
    for image in images:
        position = positions[image["file"]]
        missed = [box for box in image["boxes"] if box.get("score") is None]
        found = [box for box in image["boxes"] if box.get("score") is not None]
        for boxes, pixels_of in (
            (found, _pixels_of_detections(found, result, position)),
            (missed, _pixels_of_objects(missed, result.index, position)),
        ):
            for box, pixels in zip(boxes, pixels_of, strict=True):
                if pixels is not None:
                    box["outline"] = _rings(pixels)


def _pixels_of_detections(
    boxes: Sequence[Mapping[str, Any]], result: EvaluationResult, position: int
) -> list[Uint8Array | None]:
    """Returns the mask of each of these detections of an image."""
    found = result.detections[position]
    if found.masks is None:
        return [None] * len(boxes)
    # Boxes that are almost equal are told apart by class and score.
    columns = (found.boxes_xyxy, result.index.category_ids[found.classes], found.scores)
    return [pixels_of_mask(found.masks[row]) for row in _rows_of(boxes, *columns)]


def _pixels_of_objects(
    boxes: Sequence[Mapping[str, Any]], index: DatasetIndex, position: int
) -> list[Uint8Array | None]:
    """Returns the mask of each of these objects of an image, None where the labels have none."""
    first, end = index.box_offsets[position : position + 2].tolist()
    size_hw = tuple(index.sizes_hw[position].tolist())
    classes = index.category_ids[index.classes[first:end]]
    pixels: list[Uint8Array | None] = []
    for row in _rows_of(boxes, index.boxes_xyxy[first:end], classes, np.zeros(end - first)):
        start, stop = index.polygon_offsets[first + row : first + row + 2].tolist()
        points, parts = index.polygon_points[start:stop], index.polygon_parts.get(first + row, ())
        segmentation = segmentation_of(index.masks.get(first + row), points, parts)
        pixels.append(pixels_of_segmentation(segmentation, size_hw) if segmentation else None)
    return pixels


def _rows_of(
    boxes: Sequence[Mapping[str, Any]],
    boxes_xyxy: NDArray[np.floating],
    category_ids: Int64Array,
    scores: NDArray[np.floating],
) -> list[int]:
    """Returns the row of each box in a table of boxes of its image, each row at most once."""
    rows: list[int] = []
    for box in boxes:
        apart = (
            abs(boxes_xyxy - box["box_xyxy"]).sum(1)
            + abs(scores - (box["score"] or 0))
            + 1e6 * (category_ids != box["category_id"])
        )
        apart[rows] = math.inf
        rows.append(int(apart.argmin()))
    return rows


def _rings(pixels: Uint8Array) -> list[list[float]]:
    """Returns the edges of a mask (H, W), parts and holes, as rings x, y, x, y, ... in pixels."""
    contours, _ = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [cv2.approxPolyDP(contour, 0.7, closed=True) for contour in contours]
    return [(ring.ravel() + 0.5).tolist() for ring in rings]


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
