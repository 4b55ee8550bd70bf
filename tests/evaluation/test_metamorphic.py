"""What must not change the figures: the order of images and detections, shards, names of ids."""

import copy
from typing import Any

import numpy as np

from tests.support.coco_oracle import random_case
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_arrays import result_array
from yoloflow.structures import DatasetIndex, Detections

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def case_without_ties(seed: int) -> Case:
    """A random case whose scores all differ: between equal scores the order does count, by the protocol."""
    truth, found = random_case(seed)
    scores = np.random.default_rng(seed).permutation(len(found)) / max(len(found), 1)
    return truth, [row | {"score": float(score)} for row, score in zip(found, scores, strict=True)]


def shuffled(rows: list[Any], seed: int) -> list[Any]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def test_the_order_of_images_categories_and_detections_changes_nothing() -> None:
    for seed in range(60):
        truth, found = case_without_ties(seed)
        other = truth | {key: shuffled(truth[key], seed) for key in ("images", "categories")}
        assert evaluate_coco(other, shuffled(found, seed)) == evaluate_coco(truth, found)


def test_new_names_for_images_change_nothing() -> None:
    # Rising new ids: between equal scores of two images the lower image id comes first.
    for seed in range(60):
        truth, found = copy.deepcopy(random_case(seed))
        expected = evaluate_coco(truth, found)
        for row in (*truth["annotations"], *found):
            row["image_id"] = row["image_id"] * 7 + 10**9
        for row in truth["images"]:
            row["id"] = row["id"] * 7 + 10**9
        assert evaluate_coco(truth, found) == expected


def test_other_scores_of_the_same_ranking_change_nothing() -> None:
    for seed in range(60):
        truth, found = random_case(seed)
        other = [row | {"score": row["score"] ** 3 * 50 - 7} for row in found]
        assert evaluate_coco(truth, other) == evaluate_coco(truth, found)


def test_moving_and_doubling_everything_changes_no_figure_over_all_sizes() -> None:
    for seed in range(60):
        truth, found = copy.deepcopy(random_case(seed))
        expected = evaluate_coco(truth, found).stats
        for row in (*truth["annotations"], *found):
            row["bbox"] = [2 * value for value in row["bbox"]]  # powers of two are exact
        for image in truth["images"]:
            image |= {side: 2 * image[side] for side in ("height", "width") if side in image}
        doubled = evaluate_coco(truth, found).stats
        assert [doubled[i] for i in (0, 1, 2, 6, 7, 8)] == [expected[i] for i in (0, 1, 2, 6, 7, 8)]


def test_images_without_objects_and_detections_change_nothing() -> None:
    for seed in range(60):
        truth, found = random_case(seed)
        more = truth | {"images": [*truth["images"], {"id": 5000}, {"id": 5001}]}
        assert evaluate_coco(more, found).stats == evaluate_coco(truth, found).stats


def test_worse_detections_beyond_a_hundred_change_nothing() -> None:
    for seed in range(60):
        truth, found = case_without_ties(seed)
        image_id, category_id = truth["images"][0]["id"], truth["categories"][0]["id"]
        mine = [
            row["score"] for row in found if (row["image_id"], row["category_id"]) == (image_id, category_id)
        ]
        if len(mine) < 100:
            filler = {"image_id": image_id, "category_id": category_id, "bbox": [900, 900, 9, 9]}
            found = [*found, *(filler | {"score": 2 + i} for i in range(100 - len(mine)))]
        late = {"image_id": image_id, "category_id": category_id, "bbox": [1, 1, 50, 50], "score": -1}
        assert evaluate_coco(truth, [*found, late]) == evaluate_coco(truth, found)


def test_detections_of_shards_of_the_images_in_any_order_give_the_figures_of_the_whole() -> None:
    for seed in range(60):
        truth, found = random_case(seed)  # with equal scores: only images change places
        image_ids = shuffled([image["id"] for image in truth["images"]], seed)
        together = [
            row
            for shard in (0, 1, 2)
            for image_id in image_ids[shard::3]
            for row in found
            if row["image_id"] == image_id
        ]
        assert len(together) == len(found)
        assert evaluate_coco(truth, together) == evaluate_coco(truth, found)


def test_the_order_of_annotations_changes_nothing() -> None:
    for seed in range(60):
        truth, found = random_case(seed)
        other = truth | {"annotations": shuffled(truth["annotations"], seed)}
        assert evaluate_coco(other, found) == evaluate_coco(truth, found)


def test_shards_of_detections_put_together_in_any_order_are_the_whole() -> None:
    rng = np.random.default_rng(0)
    names = ["cat", "dog"]
    index = DatasetIndex(
        image_paths=np.array([f"{i}.jpg" for i in range(12)]),
        image_ids=np.arange(12) + 1,
        sizes_hw=np.full((12, 2), 100),
        box_offsets=np.zeros(13, np.int64),
        boxes_xyxy=np.zeros((0, 4)),
        classes=np.zeros(0, np.int64),
        is_crowd=np.zeros(0, bool),
        areas=np.zeros(0),
        polygon_offsets=np.zeros(1, np.int64),
        polygon_points=np.zeros((0, 2), np.float32),
        names=names,
        category_ids=np.array([1, 2]),
    )
    found = {
        i: Detections(
            rng.uniform(0, 99, (7, 4)).astype(np.float32),
            rng.random(7).astype(np.float32),
            rng.integers(0, 2, 7),
        )
        for i in range(12)
    }
    whole = result_array(found, index)
    for shards in range(1, 6):
        parts = [{i: found[i] for i in range(rank, 12, shards)} for rank in range(shards)]
        together = {i: rows for part in reversed(parts) for i, rows in part.items()}
        np.testing.assert_array_equal(result_array(together, index), whole)
