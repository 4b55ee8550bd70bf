"""Data sets and detections in COCO's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.coco_oracle import run_pycocotools
from tests.support.data_sets import annotation, write_coco
from yoloflow.data.index import read_index
from yoloflow.data.writers.coco_json import ground_truth_dict
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_arrays import result_array, result_rows
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
def test_boxes_of_a_file_of_ground_truth_count_as_they_stand_and_are_named_as_of_a_data_set(
    tmp_path: Path, boxes: list[list[float]], kind: str, with_areas: bool
) -> None:
    area = {"area": 77} if with_areas else {}
    rows = [{"id": 5 + i, "image_id": 10, "category_id": 3, "bbox": b} | area for i, b in enumerate(boxes)]
    path = write_coco(tmp_path, rows)
    truth, problems = read_ground_truth(path), read_index(str(path)).problems
    found = [problem.detail for problem in problems if problem.kind == kind]
    assert [(problem.kind, problem.detail) for problem in truth.problems] == [(kind, one) for one in found]
    is_box = (np.array(boxes)[:, 2:] >= 0).all(1) & np.isfinite(boxes).all(1)
    assert truth.annotations[:, 2:6].tolist() == np.array(boxes)[is_box].tolist()
    report = truth.account()["boxes"]
    assert report["listed"] == report["used"] + sum(report["dropped"].values()) == len(boxes)


@pytest.mark.parametrize(
    "boxes", [[[80, 10, 40, 40]], [[10, 10, 20, 20]] * 2, [[5, 5, 0, 9]], [[190, 10, 9, 9]]]
)
def test_figures_of_boxes_that_training_would_repair_are_those_of_pycocotools(
    tmp_path: Path, boxes: list[list[float]]
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 5 + i, "image_id": 10, "category_id": 3, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, b in enumerate([*boxes, [30.0, 30, 20, 20]])
    ]
    truth = json.loads(write_coco(tmp_path, rows).read_text())
    found = [{"image_id": 10, "category_id": 3, "bbox": row["bbox"], "score": 0.9} for row in rows]
    assert list(evaluate_coco(truth, found).stats) == run_pycocotools(truth, found).stats.tolist()


@pytest.mark.parametrize("rows", [[], [annotation(iscrowd=1)]])
def test_ground_truth_without_an_object_is_named(tmp_path: Path, rows: list[Any]) -> None:
    truth = read_ground_truth(write_coco(tmp_path, rows))
    (problem,) = truth.problems
    assert (problem.kind, problem.action) == ("nothing-to-find", "keep")
    assert ("regions to ignore" if rows else "no boxes at all: all 2 images") in problem.detail
    assert truth.account()["kept"] == {"nothing-to-find": 1}


def test_boxes_of_an_image_without_a_stated_size_have_no_edge_to_pass(tmp_path: Path) -> None:
    content = json.loads(write_coco(tmp_path, []).read_text())
    box = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [90, 10, 2000, 20]}
    content |= {"images": [{"id": 10, "file_name": "a.jpg"}], "annotations": [box, box | {"id": 2}]}
    truth = read_ground_truth(content)
    assert truth.annotations[:, 2:6].tolist() == [[90, 10, 2000, 20]] * 2
    assert [problem.kind for problem in truth.problems] == ["duplicate-box"]


@pytest.mark.parametrize("ids", [["b", "a"], ["7", "008"], [7.0, 8], [10**25, 3], ["x", 4]])
def test_files_of_predictions_have_the_ids_of_the_json_as_they_stand(tmp_path: Path, ids: list[Any]) -> None:
    rows: list[dict[str, Any]] = [annotation(one, 3, [10, 10, 20, 20]) for one in ids]
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
