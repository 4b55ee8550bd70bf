"""All figures against pycocotools: bit-equal on random cases made to hit the edges of the protocol.

Each case compares the twelve figures (areas, 1, 10 and 100 detections) and every class's own by size.
"""

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yoloflow.evaluation.coco import CocoResult, evaluate_coco

EDGES = (31.0, 32.0, 33.0, 95.0, 96.0, 97.0)


def run_pycocotools(
    truth: dict[str, Any], found: list[dict[str, Any]], image_ids: list[int] | None = None
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
        evaluation = COCOeval(data, results, "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def pycocotools_stats(
    truth: dict[str, Any], found: list[dict[str, Any]], image_ids: list[int] | None = None
) -> list[float]:
    return run_pycocotools(truth, found, image_ids).stats.tolist()


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
    return (np.maximum(box.round(), 1) if whole else box).tolist()


def near_box(rng: np.random.Generator, box: list[float], whole: bool) -> list[float]:
    """A box that overlaps `box` by anything from little to all."""
    x, y, w, h = box
    moved = np.array([x, y, w, h]) + rng.normal(0, rng.choice([0, 0.03, 0.15]), 4) * [w, h, w, h]
    moved[2:] = np.maximum(moved[2:], 0)
    return (moved.round() if whole else moved).tolist()


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


def different_cases(seeds: range) -> list[int]:
    wrong = []
    for seed in seeds:
        truth, found = random_case(seed)
        result, evaluation = evaluate_coco(truth, found), run_pycocotools(truth, found)
        is_equal = list(result.stats) == evaluation.stats.tolist()
        if not is_equal or class_figures(result) != pycocotools_classes(evaluation):
            wrong.append(seed)
    return wrong


def test_a_thousand_random_cases_are_bit_equal_to_pycocotools() -> None:
    assert different_cases(range(1000)) == []


@pytest.mark.full
def test_ten_thousand_random_cases_are_bit_equal_to_pycocotools() -> None:
    assert different_cases(range(1000, 11000)) == []


def test_the_random_cases_hit_the_edges_they_are_made_for() -> None:
    cases = [random_case(seed) for seed in range(200)]
    annotations = [row for truth, _ in cases for row in truth["annotations"]]
    assert {32.0**2, 96.0**2} <= {row["area"] for row in annotations}
    assert any(row["iscrowd"] for row in annotations)
    assert any(row["ignore"] and not row["iscrowd"] for row in annotations)
    assert any(not truth["annotations"] for truth, _ in cases)
    assert any(not found for _, found in cases)
    per_image = [
        sum(row["image_id"] == image["id"] for row in found)
        for truth, found in cases
        for image in truth["images"]
    ]
    assert max(per_image) > 200
    assert min(per_image) == 0
    assert any(len({row["score"] for row in found}) < len(found) for _, found in cases)


def test_each_class_equals_pycocotools_on_that_class_alone() -> None:
    for seed in range(40):
        truth, found = random_case(seed)
        for row in evaluate_coco(truth, found).per_class:
            annotations = [entry for entry in truth["annotations"] if entry["category_id"] == row.category_id]
            alone = truth | {
                "annotations": annotations,
                "categories": [{"id": row.category_id, "name": row.name}],
            }
            rows = [entry for entry in found if entry["category_id"] == row.category_id]
            expected = [None if value == -1 else value for value in pycocotools_stats(alone, rows)]
            figures = [row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large]
            assert (*figures, row.ar100) == (*expected[:6], expected[8])
            assert row.num_objects == sum(not entry["iscrowd"] for entry in annotations)


def test_some_images_of_a_data_set_equal_pycocotools_on_these_images() -> None:
    for seed in range(40):
        truth, found = random_case(seed)
        image_ids = [image["id"] for image in truth["images"]][::2]
        result = evaluate_coco(truth, found, image_ids=image_ids)
        assert list(result.stats) == pycocotools_stats(truth, found, image_ids)
        assert result.num_images == len(image_ids)


def test_noisy_detections_on_real_boxes_equal_pycocotools(shared: Path) -> None:
    path = shared / "data" / "bccd" / "coco" / "val.json"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path)).dataset
    rng = np.random.default_rng(0)
    found = []
    for row in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            box = [round(value, 3) for value in near_box(rng, row["bbox"], whole=False)]
            category = int(rng.choice([row["category_id"], truth["categories"][0]["id"]], p=[0.8, 0.2]))
            score = round(float(rng.random()), 5)
            found.append({"image_id": row["image_id"], "category_id": category, "bbox": box, "score": score})
    expected = pycocotools_stats(truth, found)
    assert list(evaluate_coco(path, found).stats) == expected
    assert 0.1 < expected[0] < 0.9
