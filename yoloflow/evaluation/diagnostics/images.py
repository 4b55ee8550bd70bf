"""The worst images, with all that is right and wrong in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from yoloflow.evaluation.coco_truth import Float64Array
from yoloflow.evaluation.diagnostics.errors import KINDS, MISSED, NO_ERROR, Errors, explains_an_object
from yoloflow.evaluation.diagnostics.matching import OperatingPoint, Tables

_BOX_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image's file and size in pixels, as far as the ground truth or the caller knows them."""

    file: str
    width: int | None
    height: int | None


def image_facts(
    images: Sequence[Mapping[str, Any]], files: Mapping[int, str] | None
) -> dict[int, ImageFacts]:
    """Returns the facts of each image id; `files` goes before the ground truth's own `file_name`."""
    named = files or {}
    return {
        int(entry["id"]): ImageFacts(
            str(named.get(int(entry["id"]), entry.get("file_name", ""))),
            entry.get("width"),
            entry.get("height"),
        )
        for entry in images
    }


def worst_images(
    point: OperatingPoint, errors: Errors, facts: Mapping[int, ImageFacts], limit: int
) -> list[dict[str, Any]]:
    """Returns the images with the lowest F1, of equal ones those with more errors first.

    Images without objects and without detections have no F1 and are left out.
    """
    tables, num_images = point.tables, len(point.tables.image_ids)
    right = np.bincount(tables.images[point.is_right], minlength=num_images)
    wrong = np.bincount(tables.images[point.is_wrong], minlength=num_images)
    missed = np.bincount(tables.object_images[point.is_missed], minlength=num_images)
    f1 = 2 * right / np.maximum(2 * right + wrong + missed, 1)
    order = np.lexsort((-(wrong + missed), f1))
    worst = order[(right + wrong + missed)[order] > 0][:limit]
    return [
        {
            "image_id": (image_id := int(tables.image_ids[i])),
            **asdict(facts[image_id]),
            "f1": float(f1[i]),
            "true_positives": int(right[i]),
            "false_positives": int(wrong[i]),
            "missed": int(missed[i]),
            "boxes": _boxes_of_image(point, errors, i),
        }
        for i in worst.tolist()
    ]


def _boxes_of_image(point: OperatingPoint, errors: Errors, position: int) -> list[dict[str, Any]]:
    """Returns detections by falling score, then missed objects; ignored detections are left out."""
    tables = point.tables
    rows = np.arange(*np.searchsorted(tables.images, [position, position + 1]))
    rows = rows[point.is_right[rows] | point.is_wrong[rows]]
    rows = rows[np.argsort(-tables.scores[rows], kind="stable")]
    boxes = [_detection(tables, errors, row) for row in rows.tolist()]
    explained: dict[int, int] = {}
    for row in rows[explains_an_object(errors)[rows]].tolist():
        explained.setdefault(int(errors.objects[row]), row)  # the best detection comes first
    places = np.flatnonzero(point.is_missed & (tables.object_images == position))
    return boxes + [_missed(tables, errors, place, explained.get(place)) for place in places.tolist()]


def _detection(tables: Tables, errors: Errors, row: int) -> dict[str, Any]:
    kind, place = int(errors.kinds[row]), int(errors.objects[row])
    return {
        "box_xyxy": corners(tables.boxes_xywh[row]),
        "category_id": int(tables.category_ids[tables.classes[row]]),
        "kind": "correct" if kind == NO_ERROR else KINDS[kind],
        "score": float(tables.scores[row]),
        "iou": float(errors.ious[row]) if place >= 0 else None,
        "other_category_id": category_of_object(tables, place),
    }


def _missed(tables: Tables, errors: Errors, place: int, explained_by: int | None) -> dict[str, Any]:
    """Returns an object not found, with the localisation or classification error that explains it."""
    row = explained_by
    return {
        "box_xyxy": corners(tables.object_boxes_xywh[place]),
        "category_id": category_of_object(tables, place),
        "kind": KINDS[MISSED],
        "score": None,
        "iou": None if row is None else float(errors.ious[row]),
        "other_category_id": None if row is None else int(tables.category_ids[tables.classes[row]]),
    }


def category_of_object(tables: Tables, place: int) -> int | None:
    """Returns the category id of the object in this row; None for -1."""
    return int(tables.category_ids[tables.object_classes[place]]) if place >= 0 else None


def corners(box_xywh: Float64Array) -> list[float]:
    """Returns x1 y1 x2 y2 in pixels, rounded as they are written."""
    x, y, w, h = box_xywh.tolist()
    return [round(value, _BOX_DECIMALS) for value in (x, y, x + w, y + h)]
