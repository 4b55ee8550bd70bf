"""Labels that a detection contradicts: where to look for mistakes in the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from yoloflow.evaluation.diagnostics.errors import BACKGROUND, LOCALISATION, Errors
from yoloflow.evaluation.diagnostics.images import ImageFacts, category_of_object, corners
from yoloflow.evaluation.diagnostics.matching import OperatingPoint, overlaps
from yoloflow.structures import Int64Array

NUM_SUSPECTS = 300


def suspected_labels(
    point: OperatingPoint, errors: Errors, mixed_up: Int64Array, facts: Mapping[int, ImageFacts]
) -> list[dict[str, Any]]:
    """Returns the contradicted labels, by falling score of the detection, `NUM_SUSPECTS` at most.

    `wrong_label`: an object that is not found is taken for another class; `missing_label`: nothing is
    labelled where the detection is; `wrong_box`: an object of the class is there, but its box fits badly.

    Args:
        point: the detections that count.
        errors: their kinds.
        mixed_up: what `confusion.mix_ups` gives.
        facts: of each image id.
    """
    tables = point.tables
    is_mixed_up = point.is_wrong & (mixed_up >= 0)
    is_missed = np.append(point.is_missed, False)[errors.objects]  # -1, none, is the last
    is_loose = point.is_wrong & ~is_mixed_up & (errors.kinds == LOCALISATION) & is_missed
    is_alone = point.is_wrong & (errors.kinds == BACKGROUND)
    kinds = np.select([is_mixed_up, is_alone, is_loose], ["wrong_label", "missing_label", "wrong_box"], "")
    objects = np.where(is_mixed_up, mixed_up, errors.objects)
    rows = np.flatnonzero(kinds != "")
    rows = rows[np.argsort(-tables.scores[rows], kind="stable")][:NUM_SUSPECTS]
    suspects = []
    for row in rows.tolist():
        image_id, place = int(tables.image_ids[tables.images[row]]), int(objects[row])
        iou = overlaps(tables, np.array([row]), np.array([place]))[0] if place >= 0 else None
        suspects.append(
            {
                "image_id": image_id,
                "file": facts[image_id].file,
                "kind": str(kinds[row]),
                "score": float(tables.scores[row]),
                "category_id": int(tables.category_ids[tables.classes[row]]),
                "true_category_id": category_of_object(tables, place),
                "box_xyxy": corners(tables.boxes_xywh[row]),
                "iou": None if iou is None else float(iou),
            }
        )
    return suspects
