"""All figures against pycocotools: bit-equal on random cases made to hit the edges of the protocol.

Each case compares the twelve figures (areas, 1, 10 and 100 detections) and every class's own by size.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.support.coco_oracle import (
    class_figures,
    near_box,
    pycocotools_classes,
    pycocotools_stats,
    random_case,
    random_mask_case,
    run_pycocotools,
)
from yoloflow.evaluation.coco import IouType, evaluate_coco


def different_cases(seeds: range, iou_type: IouType = "bbox") -> list[int]:
    wrong = []
    for seed in seeds:
        truth, found = random_case(seed) if iou_type == "bbox" else random_mask_case(seed)
        result = evaluate_coco(truth, found, iou_type=iou_type)
        evaluation = run_pycocotools(truth, found, iou_type=iou_type)
        is_equal = list(result.stats) == evaluation.stats.tolist()
        if not is_equal or class_figures(result) != pycocotools_classes(evaluation):
            wrong.append(seed)
    return wrong


def test_random_cases_are_bit_equal_to_pycocotools() -> None:
    assert different_cases(range(30)) == []


@pytest.mark.oracle
def test_a_thousand_random_cases_are_bit_equal_to_pycocotools() -> None:
    assert different_cases(range(30, 1000)) == []


def test_random_cases_with_masks_are_bit_equal_to_pycocotools() -> None:
    assert different_cases(range(12), "segm") == []


@pytest.mark.oracle
def test_hundreds_of_random_cases_with_masks_are_bit_equal_to_pycocotools() -> None:
    assert different_cases(range(12, 200), "segm") == []


def test_boxes_of_detections_that_have_masks_alone_are_bit_equal_to_pycocotools() -> None:
    for seed in range(3, 40, 4):
        truth, found = random_mask_case(seed)
        assert not any("bbox" in row for row in found)
        assert list(evaluate_coco(truth, found).stats) == pycocotools_stats(truth, found)


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
