"""Bootstrap intervals and comparisons: against pycocotools on drawn images, one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.cases import few_and_many
from tests.support.coco_oracle import pycocotools_stats, random_case
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_reader import read_detection_rows
from yoloflow.evaluation.coco_truth import read_ground_truth
from yoloflow.evaluation.diagnostics import Comparison, compare, diagnose
from yoloflow.evaluation.diagnostics.intervals import (
    LEVEL,
    Rankings,
    draw_images,
    interval,
    rank_classes,
    resampled_ap,
)
from yoloflow.evaluation.diagnostics.matching import find_pairs, make_tables
from yoloflow.structures import YoloflowError

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def case_without_ties(seed: int) -> Case:
    truth, found = random_case(seed)
    scores = np.random.default_rng(seed).permutation(len(found)) / max(len(found), 1)
    return truth, [row | {"score": float(score)} for row, score in zip(found, scores, strict=True)]


def rankings_of(truth: dict[str, Any], found: list[dict[str, Any]]) -> Rankings:
    read = read_ground_truth(truth)
    tables = make_tables(read, read_detection_rows(found, read), sorted(read.image_ids))
    return rank_classes(tables, find_pairs(tables))


def drawn_case(truth: dict[str, Any], found: list[dict[str, Any]], weights: list[int]) -> Case:
    """The case with each image as many times as it was drawn, under new ids."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image_id, times in zip(sorted(row["id"] for row in truth["images"]), weights, strict=True):
        for _ in range(times):
            images.append({"id": len(images) + 1})
            for rows, copies in ((truth["annotations"], annotations), (found, detections)):
                copies += [
                    row | {"id": len(copies) + i, "image_id": len(images)}
                    for i, row in enumerate(rows, start=1)
                    if row["image_id"] == image_id
                ]
    for i, row in enumerate(annotations, start=1):
        row["id"] = i
    return truth | {"images": images, "annotations": annotations}, detections


@few_and_many(6, 60)
def test_each_sample_is_pycocotools_on_the_drawn_images(seeds: range) -> None:
    num_known = 0
    for seed in seeds:
        truth, found = case_without_ties(seed)
        weights = draw_images(len(truth["images"]), 4, seed)
        samples = resampled_ap(rankings_of(truth, found), weights)
        for i, drawn in enumerate(weights.tolist()):
            expected = pycocotools_stats(*drawn_case(truth, found, drawn))[:2]
            ours = [-1 if np.isnan(values[i]) else values[i] for values in samples]
            assert ours == pytest.approx(expected, abs=1e-12)
            num_known += expected[0] > 0
    assert num_known > (60 if len(seeds) > 50 else 5)


@few_and_many(6, 200)
def test_every_image_once_is_ap_itself(seeds: range) -> None:
    for seed in seeds:
        truth, found = random_case(seed)
        once = np.ones((1, len(truth["images"])), np.int32)
        ours = [
            -1 if np.isnan(values[0]) else values[0]
            for values in resampled_ap(rankings_of(truth, found), once)
        ]
        assert ours == pytest.approx(evaluate_coco(truth, found).stats[:2], abs=1e-12)


def test_samples_have_as_many_images_as_there_are_and_depend_on_the_seed_alone() -> None:
    weights = draw_images(50, 2000, seed=3)
    assert (weights.sum(1) == 50).all()
    np.testing.assert_array_equal(weights, draw_images(50, 2000, seed=3))
    assert (weights != draw_images(50, 2000, seed=4)).any()
    # The number of times that an image is drawn is binomial: 50 draws with chance 1/50.
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(49 / 50, rel=0.02)


def test_samples_computed_a_part_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from yoloflow.evaluation.diagnostics import intervals

    truth, found = random_case(6)
    rankings, weights = rankings_of(truth, found), draw_images(len(truth["images"]), 30, 0)
    whole = resampled_ap(rankings, weights)
    monkeypatch.setattr(intervals, "_VALUES_AT_ONCE", 100)
    np.testing.assert_array_equal(resampled_ap(rankings, weights), whole)


def test_an_interval_takes_off_at_both_ends_what_the_samples_lie_above_the_figure() -> None:
    samples = np.append(np.linspace(0.4, 0.8, 1001), np.nan)
    low, high = np.quantile(samples[:-1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    assert interval(0.5, samples, (0, 1)) == pytest.approx((1 - high, 1 - low))
    assert interval(0.9, samples, (0, 1)) == (1, 1)
    assert interval(0.5, np.array([np.nan]), (0, 1)) is None


def big_case(seed: int, noise: float, num_images: int = 60) -> Case:
    """Two classes, an object an image each, found with some noise, and false positives."""
    rng, noisy = np.random.default_rng(seed), np.random.default_rng([seed, int(noise * 1000)])
    annotations: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        for category_id in (1, 2):
            box = [float(v) for v in (*rng.uniform(0, 100, 2), *rng.uniform(20, 60, 2))]
            row = {"image_id": image_id, "category_id": category_id, "bbox": box}
            annotations.append(row | {"id": len(annotations) + 1, "area": box[2] * box[3], "iscrowd": 0})
            moved = [v + noisy.normal(0, noise) * box[2] for v in box]
            found.append(row | {"bbox": moved, "score": float(noisy.uniform(0.3, 1))})
            other = [float(v) for v in noisy.uniform(10, 60, 4)]
            found.append(row | {"bbox": other, "score": float(noisy.uniform(0, 0.6))})
    images = [{"id": i} for i in range(1, num_images + 1)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "categories": categories, "annotations": annotations}, found


@pytest.mark.oracle
def test_intervals_hold_the_ap_of_very_many_images_about_as_often_as_they_say() -> None:
    truth, found = big_case(0, 0.08, num_images=1200)
    population = evaluate_coco(truth, found).stats
    hits = [0, 0]
    for start in range(0, 1200, 40):
        ids = list(range(start + 1, start + 41))
        intervals = diagnose(truth, found, ids, num_bootstrap=200).to_json()["intervals"]
        for i, name in enumerate(("AP", "AP50")):
            hits[i] += intervals[name][0] <= population[i] <= intervals[name][1]
    assert min(hits) >= 25  # of 30; 28.5 are promised


def test_the_interval_of_a_difference_is_that_of_the_pairs() -> None:
    truth, better = big_case(0, 0.05)
    worse = big_case(0, 0.1)[1]
    found = compare(truth, better, worse, num_bootstrap=200, seed=5)
    weights = draw_images(60, 200, 5)
    samples = (
        resampled_ap(rankings_of(truth, better), weights)[0]
        - resampled_ap(rankings_of(truth, worse), weights)[0]
    )
    figures = [evaluate_coco(truth, rows).stats[0] for rows in (better, worse)]
    assert (found.ap.a, found.ap.b, found.ap.difference) == (*figures, figures[0] - figures[1])
    assert found.ap.interval == interval(found.ap.difference, samples, (-1, 1))
    assert found.ap.interval is not None
    assert 0 < found.ap.interval[0] < found.ap.difference < found.ap.interval[1]
    assert found.ap.share_better == 1
    # On the same images the difference is surer than AP itself.
    own = diagnose(truth, better, num_bootstrap=200, seed=5).to_json()["intervals"]["AP"]
    assert found.ap.interval[1] - found.ap.interval[0] < 1.5 * (own[1] - own[0])


def swapped(comparison: Comparison) -> list[tuple[float, float, float]]:
    return [(row.b, row.a, -row.difference) for row in (comparison.ap, comparison.ap50)]


def test_the_other_way_round_is_the_opposite_and_the_same_twice_is_nothing() -> None:
    truth, first = big_case(1, 0.05)
    second = big_case(1, 0.07)[1]
    one, other = (compare(truth, *pair, num_bootstrap=100) for pair in ((first, second), (second, first)))
    assert swapped(one) == [(row.a, row.b, row.difference) for row in (other.ap, other.ap50)]
    assert one.ap.interval == pytest.approx([-end for end in reversed(other.ap.interval or ())])
    assert one.ap.share_better == pytest.approx(1 - (other.ap.share_better or 0))
    same = compare(truth, first, first, num_bootstrap=50).ap
    assert (same.difference, same.interval, same.share_better) == (0, (0, 0), 0.5)


def test_differences_of_each_class_are_those_of_its_figures() -> None:
    truth, first = big_case(2, 0.05)
    second = [row for row in first if row["category_id"] == 1]
    truth["categories"].append({"id": 9, "name": "bird"})
    result = compare(truth, first, second, num_bootstrap=0)
    cat, dog, bird = result.per_class
    figures = evaluate_coco(truth, first).per_class
    assert (cat.ap_difference, cat.ap50_difference, cat.num_objects) == (0, 0, 60)
    assert (dog.name, dog.ap_a, dog.ap_b, dog.ap_difference) == ("dog", figures[1].ap, 0, figures[1].ap)
    assert (bird.ap_a, bird.ap50_b, bird.ap_difference, bird.ap50_difference) == (None, None, None, None)
    assert (result.ap.interval, result.ap.share_better) == (None, None)
    assert (
        json.loads(json.dumps(result.to_json(), allow_nan=False))["AP"]["difference"] == result.ap.difference
    )


def test_files_and_some_images_are_compared_likewise(tmp_path: Path) -> None:
    truth, first = big_case(3, 0.05)
    second = big_case(3, 0.06)[1]
    for name, content in (("truth", truth), ("first", first), ("second", second)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    truth_path, path_a, path_b = (tmp_path / f"{name}.json" for name in ("truth", "first", "second"))
    result = compare(truth_path, path_a, path_b, [1, 2, 3], num_bootstrap=20)
    assert result == compare(truth, first, second, [1, 2, 3], num_bootstrap=20)
    assert result.a == evaluate_coco(truth, first, [1, 2, 3])
    with pytest.raises(YoloflowError, match="num_bootstrap is -2"):
        compare(truth, first, second, num_bootstrap=-2)
    with pytest.raises(YoloflowError, match="is 99, which"):
        compare(truth, first, [*second, second[0] | {"image_id": 99}])
