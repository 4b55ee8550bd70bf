"""Masks in files of ground truth and of detections, of all kinds, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.coco_oracle import run_pycocotools
from yoloflow.data.formats.outlines import as_written, mask_of_pixels
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_reader import count_masks
from yoloflow.evaluation.coco_truth import describe_filled, read_ground_truth
from yoloflow.structures import YoloflowError

ONE = pytest.approx(1, abs=1e-12)
SQUARE = [10.0, 10, 30, 10, 30, 30, 10, 30]


def square_mask(height: int = 40, width: int = 50) -> dict[str, Any]:
    pixels = np.zeros((height, width), np.uint8)
    pixels[10:30, 10:30] = 1
    return dict(mask_of_pixels(pixels))


CAT: dict[str, Any] = {
    "id": 1,
    "image_id": 3,
    "category_id": 2,
    "bbox": [10, 10, 20, 20],
    "area": 400,
    "iscrowd": 0,
    "segmentation": [SQUARE],
}
FOUND = {
    "image_id": 3,
    "category_id": 2,
    "bbox": [10, 10, 20, 20],
    "score": 0.9,
    "segmentation": square_mask(),
}


def truth_of(*annotations: dict[str, Any], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 3, "file_name": "3.png", "height": 40, "width": 50} | image],
        "categories": [{"id": 2, "name": "cat"}],
        "annotations": [dict(row) for row in annotations],
    }


def without(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


def mask_ap(truth: Any, found: Any) -> float:
    return evaluate_coco(truth, found, iou_type="segm").map


def test_outlines_and_masks_of_all_kinds_are_the_same_object() -> None:
    counts = [10 * 40 + 10, *([20, 20] * 19), 20, 20 * 40 + 10]
    kinds = [
        [SQUARE],
        [[10, 10, 20, 10, 20, 30, 10, 30], [20, 10, 30, 10, 30, 30, 20, 30]],
        square_mask(),
        {"size": [40, 50], "counts": counts},
    ]
    for kind in kinds:
        assert mask_ap(truth_of(CAT | {"segmentation": kind}), [FOUND]) == ONE
    assert mask_ap(truth_of(CAT), [FOUND | {"segmentation": [SQUARE]}]) == ONE


@pytest.mark.parametrize("value", [None, [], "absent", [[1, 2, 3]], {"size": [50, 40], "counts": "x"}, 7])
def test_an_object_without_a_good_outline_fills_its_box_and_is_counted(value: Any) -> None:
    row = without(CAT, "segmentation") if value == "absent" else CAT | {"segmentation": value}
    truth = read_ground_truth(truth_of(row), with_masks=True)
    assert truth.num_filled == 1
    assert [problem.kind for problem in truth.problems] == (
        [] if not value or value == "absent" else ["polygon-malformed"]
    )
    assert "1 of 1 objects have neither outline nor mask" in describe_filled(truth)
    assert mask_ap(truth, [FOUND]) == ONE


def test_entries_that_are_not_plain_keep_their_outlines() -> None:
    """A text as image id, a box beyond the edge, an object listed twice."""
    beyond = CAT | {"id": 2, "bbox": [40, 30, 20, 20], "segmentation": [[40, 30, 60, 30, 60, 50, 40, 50]]}
    content = truth_of(CAT, beyond, CAT | {"id": 3})
    content["images"][0]["id"] = "a"
    for row in content["annotations"]:
        row["image_id"] = "a"
    truth = read_ground_truth(content, with_masks=True)
    assert len(truth.annotations) == 3
    assert truth.num_filled == 0
    corner = np.zeros((40, 50), np.uint8)
    corner[30:, 40:] = 1
    found = [FOUND | {"image_id": "a"}] * 2
    found.append(found[0] | {"bbox": [40, 30, 10, 10], "segmentation": dict(mask_of_pixels(corner))})
    assert mask_ap(truth, found) == ONE


def test_an_image_without_a_size_is_refused_where_an_outline_must_be_drawn() -> None:
    content = truth_of(CAT, height=None)
    assert evaluate_coco(content, [FOUND]).map == ONE
    with pytest.raises(YoloflowError, match=r"image 3\.png \(id 3\) states no height and width"):
        mask_ap(content, [FOUND])
    assert mask_ap(truth_of(CAT | {"segmentation": square_mask()}, height=None), [FOUND]) == ONE


def test_detections_without_boxes_have_those_of_their_masks() -> None:
    truth, found = truth_of(CAT), [without(FOUND, "bbox")]
    for iou_type in ("bbox", "segm"):
        expected = run_pycocotools(truth, found, iou_type=iou_type).stats.tolist()
        assert list(evaluate_coco(truth, found, iou_type=iou_type).stats) == expected
        assert expected[0] == ONE


def test_a_wrong_mask_of_a_detection_is_named(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    wrong = [square_mask(50, 40), {"size": [40, 50], "counts": [3, 4]}, "abc", [[1, 2, 3]], {"counts": "x"}]
    for value in wrong:
        path.write_text(json.dumps([FOUND, FOUND | {"segmentation": value}]))
        with pytest.raises(YoloflowError, match=r"found\.json: \[1\]: its segmentation .*\(40 x 50\)"):
            mask_ap(truth_of(CAT), path)
    with pytest.raises(YoloflowError, match=r"detections: \[1\] has no segmentation"):
        mask_ap(truth_of(CAT), [FOUND, without(FOUND, "segmentation")])
    with pytest.raises(YoloflowError, match=r"\[0\]\.image_id is 8, which ground truth does not have"):
        mask_ap(truth_of(CAT), [FOUND | {"image_id": 8}])
    with pytest.raises(YoloflowError, match="an array has boxes alone"):
        mask_ap(truth_of(CAT), np.zeros((1, 7)))


def test_no_detections_have_mask_ap_0(tmp_path: Path) -> None:
    assert mask_ap(truth_of(CAT), []) == 0
    assert mask_ap(truth_of(), [FOUND]) == -1
    path = tmp_path / "none.json"
    path.write_text("[]")
    assert mask_ap(truth_of(CAT), path) == 0


def test_masks_of_a_file_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    for text, numbers in [
        (json.dumps([FOUND, without(FOUND, "segmentation"), FOUND | {"segmentation": None}]), (1, 3)),
        (json.dumps([FOUND | {"segmentation": []}, FOUND], indent=1), (1, 2)),
        ('[{"score":1,"segmentation" :  { } }]', (0, 1)),
        ("", (0, 0)),
    ]:
        path.write_text(text)
        assert count_masks(path) == numbers
    assert count_masks(tmp_path / "missing.json") == (0, 0)


def test_points_come_back_as_they_were_written() -> None:
    rng = np.random.default_rng(0)
    written = np.concatenate(
        [rng.uniform(0, 640, 4000).round(decimals) for decimals in (0, 1, 2, 4)]
        + [np.array([0.1, 123.1, 4095.55, 1e-5, 0.00012, -0.5, 1e8])]
    )
    written = np.array([float(f"{value:.7g}") for value in written])
    assert as_written(written.astype(np.float32)).tolist() == written.tolist()
    exact = rng.normal(size=50).astype(np.float32)
    np.testing.assert_array_equal(as_written(exact).astype(np.float32), exact)
