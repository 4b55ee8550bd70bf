"""Diagnostics as the page needs them: smaller, with the number of what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from yoloflow.files import NUMBER, read_json, wrong_places
from yoloflow.structures import YoloflowError

MOST_CONFUSED = 60
"""Classes of the confusion matrix at most."""
MOST_LABEL_ERRORS = 300
"""Suspicious labels that the page lists."""
SCHEMA = 1
"""The form of `diagnostics.json` that the page knows."""
_CURVES = {"precision": list, "recall": list, "f1": list}
_PR_CURVES = {
    "iou": NUMBER,
    "recall": [NUMBER],
    "all": list,
    "per_class": [{"category_id": int, "precision": list}],
}
_BOX = {"box_xyxy": [NUMBER], "category_id": int, "kind": str, "outline?": [[NUMBER]]}
_FORM = {
    "num_images": int,
    "conf_thres": NUMBER,
    "iou_thres": NUMBER,
    "stats": [NUMBER],
    "what": str,
    "weights_sha256?": str,
    "classes": [{"category_id": int, "name": str, "num_objects": int}],
    "confidence_curves?": {
        "confidence": [NUMBER],
        "all": _CURVES,
        "per_class": [{"category_id": int} | _CURVES],
    },
    "pr_curves?": _PR_CURVES,
    "mask_pr_curves?": _PR_CURVES,
    "mask_stats?": [NUMBER],
    "confusion?": {"labels": [str], "matrix": [list], "convention": str},
    "errors?": {"base_ap50": NUMBER, "kinds": [{"kind": str, "count": int}]},
    "calibration?": {"bins": [{"lower": NUMBER, "upper": NUMBER, "count": int}]},
    "intervals?": {"level": NUMBER, "AP": [NUMBER], "AP50": [NUMBER]},
    "label_errors?": [{"file": str, "kind": str, "box_xyxy": [NUMBER]}],
    "images": [{"file": str, "width": NUMBER, "height": NUMBER, "boxes": [_BOX]}],
    "speed?": {"milliseconds_per_image": dict},
}


def read_diagnostics(path: Path) -> dict[str, Any] | None:
    """Reads a `diagnostics.json` and checks its form; None where there is no such file.

    Raises:
        YoloflowError: it is damaged, or of a schema that this version does not know.
    """
    again = "remove it, and `yoloflow report` evaluates the run again"
    head = read_json(path)
    if head is None and not path.exists():
        return None
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        found = f"schema {head['schema']!r}" if isinstance(head, dict) and "schema" in head else "no schema"
        raise YoloflowError(f"{path}: has {found} where {SCHEMA} is expected; {again}")
    for place in wrong_places(head, _FORM):
        raise YoloflowError(f"{path}: {place}; {again}")
    if len(head["stats"]) < 2:
        raise YoloflowError(f"{path}: stats has {len(head['stats'])} figures, not 12; {again}")
    return head


def compact_diagnostics(diagnostics: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Returns `diagnostics.json` without its images.

    Args:
        diagnostics: its content (schema 1).
        num_classes: classes whose curves are kept, the most frequent ones.

    Returns:
        the same keys; curves have `num_left_out`, the confusion matrix is `cells` of [truth, found, count],
        and `num_label_errors` counts the suspicious labels before they were cut.
    """
    labels = diagnostics.get("label_errors") or []
    by_frequency = sorted(diagnostics["classes"], key=lambda row: -row["num_objects"])
    kept = {row["category_id"] for row in by_frequency[:num_classes]}
    return {key: value for key, value in diagnostics.items() if key != "images"} | {
        "pr_curves": _of_classes(diagnostics.get("pr_curves"), kept),
        "mask_pr_curves": _of_classes(diagnostics.get("mask_pr_curves"), kept),
        "confidence_curves": _of_classes(diagnostics.get("confidence_curves"), kept),
        "confusion": _sparse_confusion(diagnostics.get("confusion")),
        "label_errors": labels[:MOST_LABEL_ERRORS],
        "num_label_errors": len(labels),
    }


def compact_images(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the images of the gallery, boxes as rows.

    Args:
        images: of `diagnostics.json`.

    Returns:
        the same, with `boxes` as [x1, y1, x2, y2, category_id, kind, score, iou, other_category_id] and, of
        one with a mask, its rings [x, y, x, y, ...].
    """
    return [{**image, "boxes": [_box_row(box) for box in image["boxes"]]} for image in images]


def _box_row(box: Mapping[str, Any]) -> list[Any]:
    corners = [round(float(value), 1) for value in box["box_xyxy"]]
    rest = [box["category_id"], box["kind"], box.get("score"), box.get("iou"), box.get("other_category_id")]
    return [*corners, *rest, *([box["outline"]] if box.get("outline") else [])]


def _of_classes(curves: Mapping[str, Any] | None, kept: set[int]) -> dict[str, Any] | None:
    if curves is None:
        return None
    rows = [row for row in curves["per_class"] if row["category_id"] in kept]
    return {**curves, "per_class": rows, "num_left_out": len(curves["per_class"]) - len(rows)}


def _sparse_confusion(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the cells that are not empty, of the classes that are confused most."""
    if confusion is None:
        return None
    labels, matrix = confusion["labels"], confusion["matrix"]
    last = len(labels) - 1
    errors = [sum(matrix[k]) + sum(row[k] for row in matrix) - 2 * matrix[k][k] for k in range(len(labels))]
    ranked = sorted(range(last), key=lambda k: -errors[k])[:MOST_CONFUSED]
    places = [*sorted(ranked), last]
    cells = [
        [row, column, matrix[places[row]][places[column]]]
        for row, column in product(range(len(places)), repeat=2)
        if matrix[places[row]][places[column]]
    ]
    return {
        "labels": [labels[place] for place in places],
        "cells": cells,
        "convention": confusion["convention"],
        "num_left_out": len(labels) - len(places),
    }
