"""Data sets and detections in COCO's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.data_sets import annotation, write_coco
from yoloflow.data.index import read_index
from yoloflow.data.problems import problems_report
from yoloflow.data.writers.coco_json import ground_truth_dict
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_arrays import ground_truth_of, result_array, result_rows
from yoloflow.evaluation.coco_truth import read_ground_truth
from yoloflow.structures import DatasetIndex, Detections


def index_of(
    boxes_xywh: list[list[tuple[float, float, float, float]]], size_hw: tuple[int, int] = (100, 120)
) -> DatasetIndex:
    """A data set with these boxes an image; classes alternate, every fifth box is a crowd region."""
    flat = np.array([box for boxes in boxes_xywh for box in boxes], float).reshape(-1, 4)
    count = len(boxes_xywh)
    return DatasetIndex(
        image_paths=np.array([f"/data/{i}.jpg" for i in range(count)]),
        image_ids=np.arange(count) * 10 + 7,
        sizes_hw=np.tile(size_hw, (count, 1)),
        box_offsets=np.cumsum([0, *map(len, boxes_xywh)]),
        boxes_xyxy=np.concatenate((flat[:, :2], flat[:, :2] + flat[:, 2:]), 1),
        classes=np.arange(len(flat)) % 2,
        is_crowd=np.arange(len(flat)) % 5 == 4,
        areas=flat[:, 2] * flat[:, 3] / 2,
        polygon_offsets=np.zeros(len(flat) + 1, np.int64),
        polygon_points=np.zeros((0, 2), np.float32),
        names=["cat", "dog"],
        category_ids=np.array([3, 9]),
    )


def test_ground_truth_keeps_ids_crowd_flags_and_areas() -> None:
    truth = ground_truth_dict(index_of([[(1, 2, 30, 40)], [], [(5, 5, 10, 10)] * 5]))
    assert truth["images"][2] == {"id": 27, "file_name": "/data/2.jpg", "height": 100, "width": 120}
    assert truth["categories"] == [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    first, *_, last = truth["annotations"]
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 3,
        "bbox": [1, 2, 30, 40],
        "area": 600,
        "iscrowd": 0,
    }
    assert (last["id"], last["image_id"], last["category_id"], last["iscrowd"]) == (6, 27, 9, 0)
    assert [row["iscrowd"] for row in truth["annotations"]] == [0, 0, 0, 0, 1, 0]
    assert json.loads(json.dumps(truth)) == truth


def test_boxes_come_back_as_the_file_had_them() -> None:
    rng = np.random.default_rng(0)
    boxes = [tuple(row) for row in rng.uniform(0, 5000, (2000, 4)).round(2).tolist()]
    truth = ground_truth_dict(index_of([boxes]))
    assert [tuple(row["bbox"]) for row in truth["annotations"]] == boxes


def detections_of(rng: np.random.Generator, count: int) -> Detections:
    low = rng.uniform(0, 60, (count, 2))
    return Detections(
        boxes_xyxy=np.concatenate((low, low + rng.uniform(1, 40, (count, 2))), 1).astype(np.float32),
        scores=-np.sort(-rng.random(count)).astype(np.float32),
        classes=rng.integers(0, 2, count),
    )


def test_results_are_rounded_and_ordered_by_image() -> None:
    index = index_of([[], []])
    found = Detections(
        np.array([[1.00049, 2, 4, 6.5]], np.float32), np.array([0.123456], np.float32), np.array([1])
    )
    rows = result_rows(result_array({1: found, 0: found}, index), index)
    assert [row["image_id"] for row in rows] == [7, 17]
    assert rows[0] == {"image_id": 7, "category_id": 9, "bbox": [1.0, 2.0, 3.0, 4.5], "score": 0.12346}
    assert result_array({}, index).shape == (0, 7)
    assert result_rows(result_array({}, index), index) == []


def test_written_results_have_the_figures_of_the_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    boxes = [
        [
            tuple(row)
            for row in np.concatenate((rng.uniform(0, 60, (6, 2)), rng.uniform(5, 40, (6, 2))), 1).tolist()
        ]
        for _ in range(8)
    ]
    index = index_of(boxes)
    results = result_array({i: detections_of(rng, 50) for i in range(8)}, index)
    truth_path, results_path = tmp_path / "truth.json", tmp_path / "results.json"
    truth_path.write_text(json.dumps(ground_truth_dict(index)))
    results_path.write_text(json.dumps(result_rows(results, index)))
    result = evaluate_coco(ground_truth_dict(index), results)
    assert 0 < result.map < 1
    assert evaluate_coco(truth_path, results_path) == result
    assert max(len(str(value)) for row in result_rows(results, index) for value in row["bbox"]) <= 7


def test_a_coco_file_read_by_the_index_is_the_same_ground_truth_again(shared: Path) -> None:
    path = shared / "data" / "bccd" / "coco" / "val.json"
    rows, original = ground_truth_dict(read_index(str(path))), json.loads(path.read_text())
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    for key in keys:
        assert [row[key] for row in rows["annotations"]] == [row[key] for row in original["annotations"]]


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([[10, 10, 20, 20]] * 3, "duplicate-box"),
        ([[10, 10, 20, 20], [10, 10, 0, 20]], "box-zero-area"),
        ([[10, 10, 20, 20], [60, 10, -20, 20]], "box-negative"),
        ([[10, 10, 20, 20], [-5, 10, 20, 20]], "box-negative"),
        ([[10, 10, 20, 20], [90, 10, 20, 20]], "box-over-one"),
        ([[10, 10, 20, 20], [190, 10, 20, 20]], "box-over-one"),
        ([[10, 10, 20, 20], [float("nan"), 10, 20, 20]], "box-nan"),
    ],
)
@pytest.mark.parametrize("with_areas", [True, False])
def test_a_file_of_ground_truth_is_repaired_and_accounted_for_as_a_data_set_is(
    tmp_path: Path, boxes: list[list[float]], kind: str, with_areas: bool
) -> None:
    area = {"area": 77} if with_areas else {}
    rows = [{"id": 5 + i, "image_id": 10, "category_id": 3, "bbox": b} | area for i, b in enumerate(boxes)]
    path = write_coco(tmp_path, rows)
    index = read_index(str(path))
    of_file, of_set = read_ground_truth(path), ground_truth_of(index)
    assert of_file.annotations.tolist() == of_set.annotations.tolist()
    accounts = [of_file.account(), problems_report(index)]
    assert [account["boxes"] for account in accounts] == [accounts[0]["boxes"]] * 2
    assert kind in {**accounts[0]["boxes"]["dropped"], **accounts[0]["boxes"]["clipped"]}
    assert [p["detail"] for p in accounts[0]["problems"]] == [p["detail"] for p in accounts[1]["problems"]]
    found = [{"image_id": 10, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.9}]
    assert evaluate_coco(of_file, found).stats == evaluate_coco(of_set, found).stats


def test_boxes_of_an_image_without_a_stated_size_are_not_clipped(tmp_path: Path) -> None:
    content = json.loads(write_coco(tmp_path, []).read_text())
    box = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [90, 10, 2000, 20]}
    content |= {"images": [{"id": 10, "file_name": "a.jpg"}], "annotations": [box, box | {"id": 2}]}
    truth = read_ground_truth(content)
    assert truth.annotations[:, 2:6].tolist() == [[90, 10, 2000, 20]]
    assert [problem.kind for problem in truth.problems] == ["duplicate-box"]


@pytest.mark.parametrize("ids", [["b", "a"], ["7", "008"], [7.0, 8], [10**25, 3], ["x", 4]])
def test_files_of_predictions_have_the_ids_of_the_json_as_they_stand(tmp_path: Path, ids: list[Any]) -> None:
    rows = [annotation(one, 3, [10, 10, 20, 20]) for one in ids]
    path = write_coco(tmp_path, rows)
    content = json.loads(path.read_text())
    content["images"] = [image | {"id": one} for image, one in zip(content["images"], ids, strict=True)]
    path.write_text(json.dumps(content))
    index = read_index(str(path))
    found = Detections(np.array([[10, 10, 30, 30]], np.float32), np.ones(1, np.float32), np.zeros(1, int))
    written = result_rows(result_array({0: found, 1: found}, index), index)
    assert [row["image_id"] for row in written] == ids
    assert list(map(type, (row["image_id"] for row in written))) == list(map(type, ids))
    (tmp_path / "found.json").write_text(json.dumps(written))
    result = evaluate_coco(path, tmp_path / "found.json")
    assert result.num_images == 2
    assert result.map == pytest.approx(1)
    (tmp_path / "converted.json").write_text(json.dumps(ground_truth_dict(index)))
    assert evaluate_coco(tmp_path / "converted.json", tmp_path / "found.json") == result


def test_joined_sets_keep_the_text_ids_that_no_other_image_has(tmp_path: Path) -> None:
    paths = []
    for name, one in (("a", "first"), ("b", "second")):
        path = write_coco(tmp_path / name, [annotation(one)], num_images=1)
        content = json.loads(path.read_text())
        content["images"][0]["id"] = one
        path.write_text(json.dumps(content))
        paths.append(str(path))
    assert read_index(paths).ids_for_files() == ["first", "second"]
    content["images"][0]["id"] = "first"
    path.write_text(json.dumps(content))
    assert read_index(paths).ids_for_files() == [1, 2]
