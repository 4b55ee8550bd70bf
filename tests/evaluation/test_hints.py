"""Hints say what makes a figure low that is no fault of the detections, and only then."""

from typing import Any

from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_truth import read_ground_truth
from yoloflow.evaluation.hints import find_hints

CATEGORIES = [{"id": 0, "name": "all"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def truth_and_found(
    categories: list[dict[str, Any]], first: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Six images with an object each, all found; categories come in turn from the one numbered `first` on."""
    ids = [category["id"] for category in categories[first:]]
    rows = [
        {"image_id": n, "category_id": ids[n % len(ids)], "bbox": [10, 10, 20 + n, 20]} for n in range(1, 7)
    ]
    images = [{"id": n} for n in range(8)]
    return {"images": images, "categories": categories, "annotations": rows}, [
        row | {"score": 0.5} for row in rows
    ]


def hints(truth: dict[str, Any], found: list[dict[str, Any]]) -> list[str]:
    read = read_ground_truth(truth)
    return find_hints(read, found, evaluate_coco(read, found))


def test_ids_that_are_off_by_one_are_hinted_at() -> None:
    truth, found = truth_and_found(CATEGORIES, 1)
    assert hints(truth, found) == []
    for key, step, words in (
        ("category_id", -1, "with every category_id one higher"),
        ("image_id", -1, "with every image_id one higher"),
        ("image_id", 1, "with every image_id one lower"),
    ):
        (hint,) = hints(truth, [row | {key: row[key] + step} for row in found])
        assert hint.startswith("AP is 0.0000, but would be 1.0000 " + words)


def test_ids_that_are_positions_are_hinted_at() -> None:
    categories = [{"id": number, "name": str(number)} for number in (1, 2, 3, 5)]
    truth, found = truth_and_found(categories, 1)
    (hint,) = hints(truth, [row | {"category_id": {2: 1, 3: 2, 5: 3}[row["category_id"]]} for row in found])
    assert "would be 1.0000 if category_id is the position among the categories, counted from 0" in hint


def test_bad_detections_get_no_hint() -> None:
    truth, found = truth_and_found(CATEGORIES, 1)
    assert hints(truth, [row | {"bbox": [60, 60, 5, 5]} for row in found]) == []
    assert hints(truth, []) == []


def test_more_objects_than_coco_counts_are_hinted_at() -> None:
    rows = [{"image_id": 1, "category_id": 1, "bbox": [n % 50 * 10, n // 50 * 10, 8, 8]} for n in range(250)]
    truth = {"images": [{"id": 1}], "categories": CATEGORIES, "annotations": rows}
    (hint,) = hints(truth, [row | {"score": 0.9} for row in rows])
    assert hint.startswith("1 images have over 100 objects of a class (at most 250)")
    assert "no more than 40.0% of all objects" in hint
    assert hints(truth | {"annotations": rows[:100]}, [row | {"score": 0.9} for row in rows[:100]]) == []
