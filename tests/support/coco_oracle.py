"""pycocotools as an oracle, and random cases made to hit the edges of COCO's protocol."""

import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yoloflow.data.formats.outlines import pixels_of_mask
from yoloflow.evaluation.coco import CocoResult
from yoloflow.structures import RunLengthMask

EDGES = (31.0, 32.0, 33.0, 95.0, 96.0, 97.0)


def run_pycocotools(
    truth: dict[str, Any],
    found: list[dict[str, Any]],
    image_ids: list[int] | None = None,
    iou_type: str = "bbox",
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        if found:
            results = data.loadRes(copy.deepcopy(found))
        else:  # loadRes itself fails on an empty list
            results = COCO()
            results.dataset = {
                "images": truth["images"],
                "categories": truth["categories"],
                "annotations": [],
            }
            results.createIndex()
        evaluation = COCOeval(data, results, iou_type)
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def pycocotools_stats(
    truth: dict[str, Any], found: list[dict[str, Any]], image_ids: list[int] | None = None
) -> list[float]:
    stats: list[float] = run_pycocotools(truth, found, image_ids).stats.tolist()
    return stats


def pycocotools_classes(evaluation: COCOeval) -> list[tuple[float | None, ...]]:
    """AP, AP50, AP75, AP by size and AR100 of each class by rising id, from pycocotools' arrays."""
    precision, recall = (evaluation.eval[key][..., -1] for key in ("precision", "recall"))
    rows = []
    for k in range(precision.shape[2]):
        parts = [precision[:, :, k, 0], *precision[[0, 5], :, k, 0]]
        parts += [precision[:, :, k, area] for area in (1, 2, 3)] + [recall[:, k, 0]]
        counted = [part[part > -1] for part in parts]
        rows.append(tuple(float(part.mean()) if part.size else None for part in counted))
    return rows


def class_figures(result: CocoResult) -> list[tuple[float | None, ...]]:
    return [
        (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large, row.ar100)
        for row in result.per_class
    ]


def random_box(rng: np.random.Generator, whole: bool) -> list[float]:
    """A box of up to 150 pixels; often with sides on an edge of the area ranges."""
    size = rng.choice(EDGES, 2) if rng.random() < 0.3 else rng.uniform(1, 150, 2)
    box = np.concatenate((rng.uniform(0, 100, 2), size))
    result: list[float] = (np.maximum(box.round(), 1) if whole else box).tolist()
    return result


def near_box(rng: np.random.Generator, box: list[float], whole: bool) -> list[float]:
    """A box that overlaps `box` by anything from little to all."""
    x, y, w, h = box
    moved = np.array([x, y, w, h]) + rng.normal(0, rng.choice([0, 0.03, 0.15]), 4) * [w, h, w, h]
    moved[2:] = np.maximum(moved[2:], 0)
    result: list[float] = (moved.round() if whole else moved).tolist()
    return result


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and detections: crowd, equal scores, whole pixels, empty images, > 100 detections."""
    rng = np.random.default_rng(seed)
    image_ids = (rng.choice(1000, rng.integers(1, 6), replace=False) + 1).tolist()
    category_ids = sorted((rng.choice(90, rng.integers(1, 4), replace=False) + 1).tolist())
    whole, crowd_share = rng.random() < 0.4, rng.choice([0, 0.2, 0.6])
    score_levels, is_big = rng.choice([3, 20, 10**9]), rng.random() < 0.1
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id in image_ids:
        boxes = []
        for _ in range(rng.choice([0, 0, 1, 3, 8])):
            box = random_box(rng, whole)
            area = [box[2] * box[3], 32.0**2, 96.0**2, float(rng.uniform(1, 20000))][
                rng.choice(4, p=[0.6, 0.1, 0.1, 0.2])
            ]
            category_id = int(rng.choice(category_ids))
            boxes.append((box, category_id))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(rng.random() < crowd_share),
                    "ignore": len(annotations) % 3 % 2,  # pycocotools overwrites it with iscrowd
                }
            )
        for _ in range(int(rng.integers(90, 260)) if is_big else int(rng.choice([0, 1, 5, 15]))):
            box, category_id = random_box(rng, whole), int(rng.choice(category_ids))
            if boxes and rng.random() < 0.7:
                box, category_id = boxes[rng.integers(len(boxes))]
                box = near_box(rng, box, whole)
            score = float(rng.integers(score_levels)) / float(score_levels)
            found.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
    images = [{"id": image_id, "width": 250, "height": 250, "file_name": ""} for image_id in image_ids]
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, found


def random_mask_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`random_case` with masks: polygons of several parts, run lengths as text and as numbers, empty masks.

    In every fourth case detections have no boxes.
    """
    truth, found = random_case(seed)
    rng = np.random.default_rng(seed)
    for row in truth["annotations"]:
        parts = [random_polygon(rng, row["bbox"]) for _ in range(rng.integers(1, 4))]
        kind = "text" if row["iscrowd"] else rng.choice(["polygons", "text", "numbers"])
        row["segmentation"] = parts if kind == "polygons" else _rle(parts)
        if kind == "numbers" or (row["iscrowd"] and rng.random() < 0.5):
            row["segmentation"]["counts"] = _run_lengths(row["segmentation"])
    for row in found:
        row["segmentation"] = _rle([random_polygon(rng, row["bbox"])])
        if rng.random() < 0.1:
            row["segmentation"] = _rle([[300.0, 300, 301, 300, 301, 301]])
        if seed % 4 == 3:
            del row["bbox"]
    return truth, found


def random_polygon(rng: np.random.Generator, box: list[float]) -> list[float]:
    """A star inside a box, with coordinates of two decimals, as COCO's are."""
    x, y, w, h = box
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
    radii = rng.uniform(0.7, 1, len(angles)) / 2
    points = np.stack((x + w / 2 + w * radii * np.cos(angles), y + h / 2 + h * radii * np.sin(angles)), 1)
    result: list[float] = points.round(2).ravel().tolist()
    return result


def _rle(parts: list[list[float]], side: int = 250) -> dict[str, Any]:
    mask = run_lengths.merge(run_lengths.frPyObjects(parts, side, side))
    return {"size": [side, side], "counts": mask["counts"].decode()}


def _run_lengths(mask: dict[str, Any]) -> list[int]:
    pixels = pixels_of_mask(RunLengthMask(size=mask["size"], counts=mask["counts"])).T.ravel()
    borders = np.flatnonzero(np.diff(pixels, prepend=0))
    counts: list[int] = np.diff(np.concatenate(([0], borders, [len(pixels)]))).tolist()
    return counts
