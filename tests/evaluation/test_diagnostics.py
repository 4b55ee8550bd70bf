"""Diagnostics: against slow loops, pycocotools and hotcoco, and whether all their counts agree."""

import json
import math
import subprocess
import sys
from collections import Counter
from typing import Any

import hotcoco
import numpy as np
import pytest

from tests.support.cases import few_and_many
from tests.support.coco_oracle import random_case, run_pycocotools
from tests.support.diagnostics_oracle import (
    KINDS,
    look_at,
    overlap,
    slow_calibration,
    slow_confusion,
    slow_counts,
    slow_error_costs,
    slow_error_counts,
    slow_rates,
)
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_reader import read_detection_rows
from yoloflow.evaluation.coco_truth import read_ground_truth
from yoloflow.evaluation.diagnostics import diagnose
from yoloflow.evaluation.diagnostics.matching import Matches, Pairs, Tables, find_pairs, make_tables, match
from yoloflow.structures import YoloflowError

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def case_of(seed: int) -> Case:
    """A random case; every second one has classes mixed up and scores that all differ."""
    truth, found = random_case(seed)
    if seed % 2:
        rng = np.random.default_rng(seed)
        categories = [row["id"] for row in truth["categories"]]
        mixed_up = [image["id"] for image in truth["images"] if rng.random() < 0.5]
        for row, score in zip(found, rng.permutation(len(found)), strict=True):
            row["score"] = float((score + 0.5) / len(found))
            if row["image_id"] in mixed_up and rng.random() < 0.8:
                place = categories.index(row["category_id"]) + 1
                row["category_id"] = categories[place % len(categories)]
    return truth, found


def settings_of(seed: int) -> tuple[float | None, float]:
    """A confidence, often one that detections have exactly, and an IoU."""
    rng = np.random.default_rng(seed)
    confidence = [None, None, 0.0, 1 / 3, 0.5, float(rng.random())][rng.integers(6)]
    return confidence, float(rng.choice([0.5, 0.5, 0.3, 0.75]))


def diagnosed(seed: int) -> tuple[Case, dict[str, Any]]:
    truth, found = case_of(seed)
    conf_thres, iou_thres = settings_of(seed)
    content = diagnose(truth, found, conf_thres=conf_thres, iou_thres=iou_thres, num_bootstrap=0).to_json()
    return (truth, found), content


def tables_of(truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[Tables, Pairs]:
    read = read_ground_truth(truth)
    tables = make_tables(read, read_detection_rows(found, read), sorted(read.image_ids))
    return tables, find_pairs(tables)


@few_and_many(12, 120)
def test_every_match_is_pycocotools_at_all_ten_ious(seeds: range) -> None:
    seen = Counter[str]()
    for seed in seeds:
        truth, found = case_of(seed)
        evaluation = run_pycocotools(truth, found)
        tables, pairs = tables_of(truth, found)
        expected: dict[tuple[int, int], Any] = {
            (entry["image_id"], entry["category_id"]): entry
            for entry in evaluation.evalImgs
            if entry is not None and entry["aRng"] == [0, 1e10]
        }
        for t, threshold in enumerate(evaluation.params.iouThrs.tolist()):
            matches = match(tables, pairs, threshold)
            for (image_id, category_id), entry in expected.items():
                rows = (tables.image_ids[tables.images] == image_id) & (
                    tables.category_ids[tables.classes] == category_id
                )
                is_right = (entry["dtMatches"][t] > 0) & ~entry["dtIgnore"][t].astype(bool)
                np.testing.assert_array_equal(matches.is_right[rows], is_right)
                np.testing.assert_array_equal(matches.is_ignored[rows], entry["dtIgnore"][t].astype(bool))
                seen.update({"right": int(is_right.sum()), "ignored": int(entry["dtIgnore"][t].sum())})
    assert min(seen["right"], seen["ignored"]) > (1000 if len(seeds) > 100 else 10)


@few_and_many(12, 400)
def test_all_counts_agree_with_each_other_whatever_the_case(seeds: range) -> None:
    for seed in seeds:
        (truth, found), content = diagnosed(seed)
        json.dumps(content, allow_nan=False)
        assert_reconciled(truth, found, content)


@pytest.mark.full
def test_all_counts_agree_in_ten_thousand_cases() -> None:
    for seed in range(400, 10400):
        (truth, found), content = diagnosed(seed)
        assert_reconciled(truth, found, content)


def assert_reconciled(truth: dict[str, Any], found: list[dict[str, Any]], content: dict[str, Any]) -> None:
    matrix = np.array(content["confusion"]["matrix"])
    rows = content["classes"]
    assert content["confusion"]["labels"] == [*(row["name"] for row in rows), "background"]
    assert matrix[-1, -1] == 0
    for k, row in enumerate(rows):
        right, wrong, missed = row["true_positives"], row["false_positives"], row["missed"]
        assert right + missed == row["num_objects"] == matrix[k].sum()
        assert right == matrix[k, k]
        assert wrong == matrix[:, k].sum() - right
        assert missed == matrix[k].sum() - right
        of_image = Counter(
            entry["image_id"]
            for entry in found
            if entry["category_id"] == row["category_id"] and entry["score"] >= content["conf_thres"]
        )
        assert right + wrong + row["ignored"] == sum(min(number, 100) for number in of_image.values())
        column, line = matrix[:, k].sum(), matrix[k].sum()
        assert row["precision"] == (matrix[k, k] / column if column else None)
        assert row["recall"] == (matrix[k, k] / line if line else None)
    kinds = {row["kind"]: row["count"] for row in content["errors"]["kinds"]}
    assert sum(row["false_positives"] for row in rows) == sum(kinds.values()) - kinds["missed"]
    assert sum(row["missed"] for row in rows) >= kinds["missed"]
    images = content["images"]
    for key in ("true_positives", "false_positives", "missed"):
        assert sum(image[key] for image in images) == sum(row[key] for row in rows)
    drawn = Counter(box["kind"] for image in images for box in image["boxes"])
    assert drawn["correct"] == sum(row["true_positives"] for row in rows)
    assert drawn["missed"] == sum(row["missed"] for row in rows)
    assert {kind: drawn[kind] for kind in KINDS[:5]} == {kind: kinds[kind] for kind in KINDS[:5]}
    unexplained = [
        box
        for image in images
        for box in image["boxes"]
        if box["kind"] == "missed" and box["other_category_id"] is None
    ]
    assert len(unexplained) == kinds["missed"]
    wrong_labels = sum(row["kind"] == "wrong_label" for row in content["label_errors"])
    if len(content["label_errors"]) < 300:
        assert wrong_labels == matrix[:-1, :-1].sum() - np.trace(matrix)
    assert content["num_objects"] == sum(not row["iscrowd"] for row in truth["annotations"])
    assert content["num_detections"] == len(found)


@pytest.mark.oracle
def test_the_cases_have_every_kind_of_error_and_every_cell_of_the_matrix() -> None:
    kinds, cells, ignored = Counter[str](), Counter[str](), 0
    for seed in range(150):
        _, content = diagnosed(seed)
        kinds.update({row["kind"]: row["count"] for row in content["errors"]["kinds"]})
        matrix = np.array(content["confusion"]["matrix"])
        cells.update(right=int(np.trace(matrix)), mixed=int(matrix[:-1, :-1].sum() - np.trace(matrix)))
        ignored += sum(row["ignored"] for row in content["classes"])
    assert set(kinds) == set(KINDS)
    assert min(*kinds.values(), *cells.values(), ignored) > 10


@few_and_many(12, 200)
def test_counts_rates_and_matrix_equal_slow_loops(seeds: range) -> None:
    for seed in seeds:
        (truth, found), content = diagnosed(seed)
        conf_thres, iou_thres = content["conf_thres"], content["iou_thres"]
        slow = look_at(truth, found, iou_thres)
        assert content["confusion"]["matrix"] == slow_confusion(slow, conf_thres, iou_thres)
        for row in content["classes"]:
            counts = row["true_positives"], row["false_positives"], row["ignored"]
            assert counts == slow_counts(slow, row["category_id"], conf_thres)
            rates = row["precision"], row["recall"], row["f1"]
            assert rates == slow_rates(slow, row["category_id"], conf_thres)


def test_curves_over_confidence_equal_slow_loops_and_the_best_f1_is_the_operating_point() -> None:
    for seed in range(40):
        truth, found = case_of(seed)
        content = diagnose(truth, found, num_bootstrap=0).to_json()
        slow, curves = look_at(truth, found, 0.5), content["confidence_curves"]
        names = ("precision", "recall", "f1")
        with_objects = [row["category_id"] for row in content["classes"] if row["num_objects"]]
        for i in range(0, 101, 5):
            rates = {c: slow_rates(slow, c, curves["confidence"][i]) for c in slow.categories}
            for row in curves["per_class"]:
                assert tuple(row[name][i] for name in names) == rates[row["category_id"]]
            for j, name in enumerate(names):
                known = [value for c in with_objects if (value := rates[c][j]) is not None]
                expected = pytest.approx(np.mean(known), abs=1e-12) if known else None
                assert curves["all"][name][i] == expected
        f1 = [value for value in curves["all"]["f1"] if value is not None]
        place = curves["confidence"].index(content["conf_thres"])
        assert not f1 or curves["all"]["f1"][place] == max(f1)


def test_the_best_threshold_of_a_class_is_the_best_of_all_scores() -> None:
    for seed in range(60):
        truth, found = case_of(seed)
        slow = look_at(truth, found, 0.5)
        for row in diagnose(truth, found, num_bootstrap=0).to_json()["classes"]:
            category = row["category_id"]
            scores = {
                entry["score"]
                for entry in slow.detections()
                if entry["category"] == category and entry["state"] != "ignored"
            }
            if not scores or not row["num_objects"]:
                assert (row["best_conf"], row["best_f1"]) == (None, None)
                continue
            best = max((slow_rates(slow, category, score)[2] or 0.0, score) for score in scores)
            assert (row["best_f1"], row["best_conf"]) == (pytest.approx(best[0], abs=1e-15), best[1])


@few_and_many(12, 200)
def test_precision_recall_curves_average_to_ap50_exactly(seeds: range) -> None:
    for seed in seeds:
        (truth, found), content = diagnosed(seed)
        result = evaluate_coco(truth, found)
        assert content["stats"] == list(result.stats)
        ap50 = {row.category_id: row.ap50 for row in result.per_class if row.ap50 is not None}
        curves = content["pr_curves"]
        assert {row["category_id"]: np.mean(row["precision"]) for row in curves["per_class"]} == ap50
        if ap50:
            assert np.mean(curves["all"]) == pytest.approx(result.map50, abs=1e-12)


@few_and_many(12, 200)
def test_kinds_of_errors_and_what_they_cost_equal_slow_loops(seeds: range) -> None:
    for seed in seeds:
        (truth, found), content = diagnosed(seed)
        slow = look_at(truth, found, content["iou_thres"])
        kinds = content["errors"]["kinds"]
        counts = {row["kind"]: row["count"] for row in kinds}
        assert counts == slow_error_counts(slow, content["conf_thres"])
        base, costs = slow_error_costs(slow)
        assert content["errors"]["base_ap50"] == pytest.approx(base, abs=1e-12)
        assert {row["kind"]: row["ap_cost"] for row in kinds} == pytest.approx(costs, abs=1e-12)
        assert min(row["ap_cost"] for row in kinds) > -1e-12


def hotcoco_of(truth: dict[str, Any], found: list[dict[str, Any]]) -> hotcoco.COCOeval:
    read = read_ground_truth(truth)
    detections = read.coco.load_res(read_detection_rows(found, read))
    evaluation = hotcoco.COCOeval(read.coco, detections, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.oracle
def test_without_crowd_regions_errors_are_hotcocos_and_calibration_is_always() -> None:
    num_compared = 0
    for seed in range(200):
        truth, found = case_of(seed)
        evaluation = hotcoco_of(truth, found)
        content = diagnose(truth, found, conf_thres=-1, num_bootstrap=0).to_json()
        theirs, ours = evaluation.calibration(), content["calibration"]
        assert [row["count"] for row in ours["bins"]] == [row["count"] for row in theirs["bins"]]
        assert (ours["ece"], ours["mce"]) == pytest.approx((theirs["ece"], theirs["mce"]), abs=1e-12)
        if any(row["iscrowd"] for row in truth["annotations"]):
            continue
        errors = evaluation.tide_errors()
        names = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
        kinds = content["errors"]["kinds"]
        assert [row["count"] for row in kinds] == [errors["counts"][name] for name in names]
        rows = look_at(truth, found, 0.5).detections()
        wanted_by = {
            kind: {id(row["of"]) for row in rows if row["kind"] == kind}
            for kind in ("localisation", "classification")
        }
        if wanted_by["localisation"] & wanted_by["classification"]:
            continue  # there the better of the two errors alone is ever repaired; TIDE's paper repairs a kind
        num_compared += 1
        expected = [errors["delta_ap"][name] for name in names]
        assert [row["ap_cost"] for row in kinds] == pytest.approx(expected, abs=1e-12)
    assert num_compared > 50


def test_hotcocos_matrix_counts_detections_in_crowd_regions_as_wrong_and_ours_does_not() -> None:
    crowd = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 90, 90], "area": 8100, "iscrowd": 1}
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [crowd],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.9}]
    assert hotcoco_of(truth, found).confusion_matrix(iou_thr=0.5)["matrix"].tolist() == [[0, 0], [1, 0]]
    content = diagnose(truth, found, conf_thres=0.5).to_json()
    assert content["confusion"]["matrix"] == [[0, 0], [0, 0]]
    assert content["classes"][0]["ignored"] == 1


@few_and_many(12, 100)
def test_calibration_equals_slow_loops(seeds: range) -> None:
    for seed in seeds:
        (truth, found), content = diagnosed(seed)
        counts, ece, mce = slow_calibration(look_at(truth, found, content["iou_thres"]))
        calibration = content["calibration"]
        assert [row["count"] for row in calibration["bins"]] == counts
        assert (calibration["ece"], calibration["mce"]) == pytest.approx((ece, mce), abs=1e-12)
        for row in calibration["bins"]:
            assert (row["confidence"] is None) == (row["accuracy"] is None) == (not row["count"])


def test_the_order_of_everything_changes_nothing() -> None:
    for seed in range(1, 60, 2):  # scores differ
        truth, found = case_of(seed)
        order = np.random.default_rng(seed).permutation(len(found))
        other = truth | {key: truth[key][::-1] for key in ("images", "categories")}
        shuffled = [found[i] for i in order]
        expected = diagnose(truth, found, num_bootstrap=20).to_json()
        assert diagnose(other, shuffled, num_bootstrap=20).to_json() == expected


@few_and_many(12, 60)
def test_shards_of_the_images_add_up_to_the_whole(seeds: range) -> None:
    for seed in seeds:
        truth, found = case_of(seed)
        image_ids = [image["id"] for image in truth["images"]]
        shards = [image_ids[i::2] for i in range(2) if image_ids[i::2]]
        whole = diagnose(truth, found, conf_thres=0.4, num_bootstrap=0).to_json()
        parts = [diagnose(truth, found, ids, conf_thres=0.4, num_bootstrap=0).to_json() for ids in shards]
        total = np.sum([part["confusion"]["matrix"] for part in parts], axis=0)
        assert total.tolist() == whole["confusion"]["matrix"]
        for key in ("num_images", "num_objects", "num_detections"):
            assert sum(part[key] for part in parts) == whole[key]
        for i, row in enumerate(whole["errors"]["kinds"]):
            assert sum(part["errors"]["kinds"][i]["count"] for part in parts) == row["count"]
        boxes = {image["image_id"]: image["boxes"] for part in parts for image in part["images"]}
        assert boxes == {image["image_id"]: image["boxes"] for image in whole["images"]}


def cats_and_dogs(*annotations: tuple[int, int, list[float]]) -> dict[str, Any]:
    """Two images of 200 x 100 pixels; annotations are image id, category id, x y w h."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 100} for i in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": a, "category_id": b, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (a, b, box) in enumerate(annotations, start=1)
        ],
    }


def detection(image_id: int, category_id: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def test_detections_on_an_image_without_objects_are_background_errors() -> None:
    truth = cats_and_dogs((1, 3, [10, 10, 40, 40]))
    found = [detection(1, 3, [10, 10, 40, 40], 0.9), detection(2, 5, [50, 20, 30, 30], 0.8)]
    content = diagnose(truth, found, num_bootstrap=0).to_json()
    assert content["confusion"]["matrix"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    worst = content["images"][0]
    assert (worst["image_id"], worst["file"], worst["f1"], worst["false_positives"]) == (2, "2.jpg", 0, 1)
    assert (worst["width"], worst["height"]) == (200, 100)
    assert worst["boxes"] == [
        {
            "box_xyxy": [50, 20, 80, 50],
            "category_id": 5,
            "kind": "background",
            "score": 0.8,
            "iou": None,
            "other_category_id": None,
        }
    ]


def test_each_kind_of_error_is_drawn_with_what_it_overlaps() -> None:
    truth = cats_and_dogs((1, 3, [0, 0, 40, 40]), (1, 5, [100, 0, 40, 40]), (1, 5, [100, 50, 40, 40]))
    found = [
        detection(1, 3, [0, 0, 40, 40], 0.9),  # correct
        detection(1, 3, [0, 2, 40, 40], 0.8),  # duplicate
        detection(1, 3, [100, 0, 40, 40], 0.7),  # a dog taken for a cat
        detection(1, 5, [100, 70, 40, 40], 0.6),  # a dog, badly placed: IoU 1/3
        detection(1, 5, [20, 0, 40, 40], 0.5),  # a cat badly placed and taken for a dog
        detection(1, 3, [160, 60, 20, 20], 0.4),  # nothing there
    ]
    content = diagnose(truth, found, conf_thres=0.1, num_bootstrap=0).to_json()
    boxes = content["images"][0]["boxes"]
    assert [(box["kind"], box["other_category_id"]) for box in boxes] == [
        ("correct", 3),
        ("duplicate", 3),
        ("classification", 5),
        ("localisation", 5),
        ("both", 3),
        ("background", None),
        ("missed", 3),  # the first dog, taken for a cat
        ("missed", 5),  # the second, badly placed
    ]
    ious = [1, 38 / 42, 1, 1 / 3, 1 / 3]
    assert [box["iou"] for box in boxes[:5]] == pytest.approx(ious)
    assert boxes[3]["iou"] == overlap(found[3]["bbox"], [100, 50, 40, 40]) == boxes[7]["iou"]
    counts = {row["kind"]: row["count"] for row in content["errors"]["kinds"]}
    assert counts == dict.fromkeys(KINDS[:5], 1) | {"missed": 0}
    assert content["confusion"]["matrix"] == [[1, 0, 0], [1, 0, 1], [2, 2, 0]]


def test_suspected_labels_are_ranked_by_the_score_of_what_contradicts_them() -> None:
    truth = cats_and_dogs((1, 3, [0, 0, 40, 40]), (1, 5, [100, 0, 40, 40]), (2, 5, [0, 0, 40, 40]))
    found = [
        detection(1, 5, [0, 0, 40, 40], 0.6),  # labelled cat
        detection(1, 5, [100, 20, 40, 40], 0.7),  # the box fits badly
        detection(2, 3, [100, 0, 40, 40], 0.9),  # not labelled
        detection(2, 5, [0, 0, 40, 40], 0.95),  # right
        detection(2, 5, [0, 1, 40, 40], 0.94),  # a duplicate says nothing of the label
        detection(1, 3, [160, 60, 20, 20], 0.2),  # not sure enough
    ]
    content = diagnose(truth, found, conf_thres=0.5, num_bootstrap=0, files={1: "/data/a.jpg"}).to_json()
    rows = content["label_errors"]
    assert [(row["kind"], row["category_id"], row["true_category_id"], row["score"]) for row in rows] == [
        ("missing_label", 3, None, 0.9),
        ("wrong_box", 5, 5, 0.7),
        ("wrong_label", 5, 3, 0.6),
    ]
    assert [row["file"] for row in rows] == ["2.jpg", "/data/a.jpg", "/data/a.jpg"]
    assert [row["iou"] for row in rows] == [None, pytest.approx(1 / 3), 1]
    assert rows[1]["box_xyxy"] == [100, 20, 140, 60]


def test_the_worst_images_come_first_and_no_more_than_asked_for() -> None:
    for seed in range(30):
        truth, found = case_of(seed)
        whole = diagnose(truth, found, num_bootstrap=0).to_json()["images"]
        keys = [(image["f1"], -image["false_positives"] - image["missed"]) for image in whole]
        assert keys == sorted(keys)
        assert all(image["true_positives"] + image["false_positives"] + image["missed"] for image in whole)
        assert diagnose(truth, found, num_bootstrap=0, num_worst=2).to_json()["images"] == whole[:2]


def test_nothing_to_find_and_nothing_found_are_no_trouble() -> None:
    empty = cats_and_dogs()
    content = diagnose(empty, [], num_bootstrap=10).to_json()
    assert content["intervals"] is None
    assert content["images"] == content["label_errors"] == []
    assert content["confidence_curves"]["all"]["f1"] == [None] * 101
    assert content["pr_curves"]["per_class"] == []
    content = diagnose(empty, [detection(1, 3, [1, 1, 5, 5], 0.5)], num_bootstrap=10).to_json()
    assert content["confusion"]["matrix"] == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    content = diagnose(cats_and_dogs((1, 3, [1, 1, 5, 5])), [], num_bootstrap=10).to_json()
    assert content["confusion"]["matrix"] == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert content["intervals"] == {"level": 0.95, "samples": 10, "AP": [0, 0], "AP50": [0, 0]}
    nothing: dict[str, Any] = {"images": [], "categories": [], "annotations": []}
    assert diagnose(nothing, []).to_json()["confusion"]["matrix"] == [[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iou_thres": 0.05}, "iou_thres is 0.05, expected a number between 0.1 and 1"),
        ({"iou_thres": 1.0}, "iou_thres is 1.0"),
        ({"conf_thres": math.nan}, "conf_thres is nan"),
        ({"num_bootstrap": -1}, "num_bootstrap is -1, expected 0 or more"),
        ({"image_ids": [77]}, "has no image with id 77"),
    ],
)
def test_arguments_without_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        diagnose(cats_and_dogs(), [], **arguments)


def test_many_pairs_are_searched_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from yoloflow.evaluation.diagnostics import matching

    for seed in range(30):
        truth, found = case_of(seed)
        tables, pairs = tables_of(truth, found)
        with monkeypatch.context() as small:
            small.setattr(matching, "_PAIRS_AT_ONCE", 7)
            in_parts = find_pairs(tables)
        for name in ("detections", "objects", "ious", "is_same_class"):
            np.testing.assert_array_equal(getattr(in_parts, name), getattr(pairs, name))
        assert isinstance(match(tables, in_parts, 0.5), Matches)


def test_no_torch_is_imported() -> None:
    code = "import sys, yoloflow.evaluation.diagnostics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
