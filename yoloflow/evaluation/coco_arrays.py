"""Detections in COCO's layout, as they are evaluated and as they are written. Imports no torch.

Detections are rounded here and nowhere else, before they are evaluated: evaluation during training and a
results file give the same figures because they hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from yoloflow.data.writers.coco_json import segmentations
from yoloflow.evaluation.coco_truth import TRUTH_DECIMALS, Float64Array, GroundTruth, ground_truth_from_rows
from yoloflow.structures import DatasetIndex, Detections, Int64Array

BOX_DECIMALS = 3
SCORE_DECIMALS = 5


def ground_truth_of(index: DatasetIndex, *, with_masks: bool = False) -> GroundTruth:
    """Converts a data set to ground truth of `evaluate_coco`, equal to its COCO file read back.

    Boxes are rounded as `data.writers.coco_json` writes them.

    Args:
        index: the data set.
        with_masks: with outlines and masks; an object that has neither fills its box.
    """
    rows = np.empty((len(index.boxes_xyxy), 8))
    rows[:, 0] = np.repeat(index.image_ids, np.diff(index.box_offsets))
    rows[:, 1] = index.category_ids[index.classes]
    rows[:, 2:6] = _xywh(index.boxes_xyxy.astype(np.float64)).round(TRUTH_DECIMALS)
    rows[:, 6] = index.areas
    rows[:, 7] = index.is_crowd
    names = dict(zip(index.category_ids.tolist(), index.names, strict=True))
    columns = (index.image_ids.tolist(), index.image_paths.tolist(), index.sizes_hw.tolist())
    images = [
        {"id": image_id, "file_name": path, "height": height, "width": width}
        for image_id, path, (height, width) in zip(*columns, strict=True)
    ]
    outlines = segmentations(index) if with_masks else None
    return ground_truth_from_rows(rows, images, names, "the data set", outlines=outlines)


def result_array(detections: Mapping[int, Detections], index: DatasetIndex) -> Float64Array:
    """Converts detections to rows of `evaluate_coco`, rounded as they are written.

    Args:
        detections: by position of the image in `index`.
        index: where image ids and category ids come from.

    Returns:
        (N, 7) image_id x y w h score category_id; boxes in pixels to 3 decimals, scores to 5; images in
        the order of `index`, their detections in the given order.
    """
    blocks = [np.empty((0, 7))]
    for i in sorted(detections):
        found = detections[i]
        block = np.empty((len(found), 7))
        block[:, 0] = index.image_ids[i]
        block[:, 1:5] = _xywh(found.boxes_xyxy.astype(np.float64)).round(BOX_DECIMALS)
        block[:, 5] = found.scores.astype(np.float64).round(SCORE_DECIMALS)
        block[:, 6] = index.category_ids[found.classes]
        blocks.append(block)
    return np.concatenate(blocks)


def result_masks(detections: Mapping[int, Detections]) -> list[dict[str, Any]] | None:
    """Returns the masks of the rows of `result_array`; None where the network predicts none."""
    found = [detections[i].masks for i in sorted(detections)]
    return None if None in found else [cast(dict[str, Any], mask) for masks in found for mask in masks or ()]


def result_rows(
    results: Float64Array, index: DatasetIndex, masks: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Returns the rows of `result_array`, and their masks, as a COCO results file has them.

    The ids are those of the data set's json.
    """
    ids: Int64Array = results[:, [0, 6]].astype(np.int64)
    given = {int(index.image_ids[position]): own for position, own in index.given_ids.items()}
    rows: list[dict[str, Any]] = [
        {"image_id": given.get(image_id, image_id), "category_id": category_id, "bbox": box, "score": score}
        for (image_id, category_id), box, score in zip(
            ids.tolist(), results[:, 1:5].tolist(), results[:, 5].tolist(), strict=True
        )
    ]
    for row, mask in zip(rows, masks or (), strict=bool(masks)):
        row["segmentation"] = mask
    return rows


def _xywh(boxes_xyxy: Float64Array) -> Float64Array:
    return np.concatenate((boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), 1)
