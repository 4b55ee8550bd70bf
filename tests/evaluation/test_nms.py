"""Non-maximum suppression: the reference's figures, a slow numpy version, and what holds for any input."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.cases import few_and_many
from yoloflow.boxes import cxcywh_to_xyxy
from yoloflow.evaluation.nms import _best_first, _candidates, best_of_batch, non_max_suppression
from yoloflow.structures import YoloflowError

FIGURES = Path(__file__).parents[1] / "support" / "figures" / "evaluation_nms.npz"

SETTINGS: dict[str, dict[str, Any]] = {
    "conf_best": {"conf_free": False, "multi_label": False, "iou_thres": 0.45, "conf_thres": 0.25},
    "conf_multi": {"conf_free": False, "iou_thres": 0.65, "conf_thres": 0.001},
    "free_best": {"conf_free": True, "multi_label": False, "iou_thres": 0.45, "conf_thres": 0.25},
    "free_multi": {"conf_free": True, "iou_thres": 0.7, "conf_thres": 0.001},
    "free_multi_nc1": {"conf_free": True, "iou_thres": 0.65, "conf_thres": 0.001},
    "conf_nc1": {"conf_free": False, "iou_thres": 0.65, "conf_thres": 0.001},
    "end2end": {"need_nms": False, "conf_thres": 0.25},
    "agnostic": {
        "conf_free": False,
        "multi_label": False,
        "iou_thres": 0.45,
        "conf_thres": 0.25,
        "class_offset": 0,
    },
}


def assert_equals_reference(figures: Any, case: str, class_offset: float | None) -> None:
    settings = {"class_offset": class_offset} | SETTINGS[case]
    prediction = torch.from_numpy(figures[f"{case}/pred"])
    for i, kept in enumerate(non_max_suppression(prediction, **settings)):
        np.testing.assert_array_equal(kept.numpy(), figures[f"{case}/out{i}"])


@pytest.mark.parametrize("class_offset", [4096, None])
@pytest.mark.parametrize("case", ["conf_best", "free_multi", "conf_nc1"])
def test_kept_rows_equal_the_reference_exactly(case: str, class_offset: float | None) -> None:
    with np.load(FIGURES) as figures:
        assert_equals_reference(figures, case, class_offset)


@pytest.mark.parametrize("class_offset", [4096, None])
@pytest.mark.parametrize("case", SETTINGS)
def test_all_cases_of_the_reference_are_equal_exactly(
    shared: Path, case: str, class_offset: float | None
) -> None:
    with np.load(shared / "fixtures" / "common" / "nms.npz") as figures:
        assert_equals_reference(figures, case, class_offset)


def random_prediction(seed: int, num_boxes: int = 60, num_classes: int = 3, images: int = 1) -> torch.Tensor:
    """(images, num_boxes, 4 + num_classes) with many overlaps and many equal scores."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-20, 120, (images, num_boxes, 2))
    size = rng.uniform(5, 80, (images, num_boxes, 2))
    scores = rng.integers(0, 40, (images, num_boxes, num_classes)) / 40
    return torch.from_numpy(np.concatenate((centre, size, scores), 2).astype(np.float32))


def slow_nms(
    rows: NDArray[np.float32], conf_thres: float, iou_thres: float, max_nms: int, max_det: int
) -> NDArray[np.float64]:
    """Greedy suppression by the book: one class at a time, one box at a time, float64."""
    candidates = [
        (float(score), -(b * 1000 + c), row[:4].astype(np.float64), c)
        for b, row in enumerate(rows)
        for c, score in enumerate(row[4:])
        if score > np.float32(conf_thres)
    ]
    kept: list[tuple[float, NDArray[np.float64], int]] = []
    for score, _, (cx, cy, w, h), c in sorted(candidates, key=lambda row: row[:2], reverse=True)[:max_nms]:
        box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        if all(c != other_c or overlap(box, other) <= iou_thres for _, other, other_c in kept):
            kept.append((score, box, c))
    return np.array([[*box, score, c] for score, box, c in kept[:max_det]]).reshape(-1, 6)


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    size = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    inter = float(np.prod(size.clip(0)))
    areas = np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])
    return inter / float(areas - inter)


@pytest.mark.parametrize(("max_nms", "max_det"), [(30000, 300), (30000, 7), (40, 10), (30000, 1)])
@few_and_many(3, 20)
def test_it_equals_the_slow_version_on_random_boxes(max_nms: int, max_det: int, seeds: range) -> None:
    for seed in seeds:
        prediction = random_prediction(seed)
        (kept,) = non_max_suppression(
            prediction, conf_thres=0.2, iou_thres=0.5, max_nms=max_nms, max_det=max_det
        )
        expected = slow_nms(prediction[0].numpy(), 0.2, 0.5, max_nms, max_det)
        np.testing.assert_allclose(kept.numpy(), expected, rtol=0, atol=1e-4)


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    prediction = random_prediction(3, images=4)
    together = non_max_suppression(prediction)
    for i, kept in enumerate(together):
        (alone,) = non_max_suppression(prediction[i : i + 1])
        assert torch.equal(kept, alone)


def test_with_objectness_the_score_is_the_product() -> None:
    prediction = torch.tensor([[[50.0, 50, 20, 20, 0.5, 0.8, 0.4]]])
    (kept,) = non_max_suppression(prediction, conf_free=False, conf_thres=0.1)
    assert kept[:, 4:].tolist() == pytest.approx(np.array([[0.4, 0], [0.2, 1]]))


def test_with_one_class_and_objectness_the_score_is_the_objectness() -> None:
    prediction = torch.tensor([[[50.0, 50, 20, 20, 0.5, 0.1]]])
    (kept,) = non_max_suppression(prediction, conf_free=False, conf_thres=0.4)
    assert kept[:, 4:].tolist() == [[0.5, 0]]


def test_without_multi_label_a_box_counts_for_its_best_class() -> None:
    prediction = torch.tensor([[[50.0, 50, 20, 20, 0.5, 0.8]]])
    (kept,) = non_max_suppression(prediction, multi_label=False)
    assert kept[:, 5].tolist() == [1]


def test_a_score_at_the_threshold_is_no_detection() -> None:
    prediction = torch.tensor([[[50.0, 50, 20, 20, 0.25]]])
    assert len(non_max_suppression(prediction, conf_thres=0.25)[0]) == 0


def test_equal_scores_keep_the_order_of_the_prediction() -> None:
    boxes = torch.tensor([[10.0 + 20 * i, 10, 10, 10, 0.5] for i in range(50)])
    (kept,) = non_max_suppression(boxes[None])
    assert kept[:, 0].tolist() == sorted(kept[:, 0].tolist())


def test_a_thousand_classes_do_not_blur_the_boxes() -> None:
    # Two boxes of the last class with IoU 0.49: with float32 and a large offset they would be rounded.
    prediction = torch.zeros(1, 2, 4 + 1000)
    prediction[0, :, :4] = torch.tensor([[50.25, 50.0, 0.5, 10.0], [50.42, 50.0, 0.5, 10.0]])
    prediction[0, :, -1] = torch.tensor([0.9, 0.8])
    assert len(non_max_suppression(prediction, iou_thres=0.5)[0]) == 2
    assert len(non_max_suppression(prediction, iou_thres=0.48)[0]) == 1


def test_boxes_left_of_the_image_do_not_reach_another_class() -> None:
    prediction = torch.tensor(
        [[[-100.0, 50, 20, 20, 0.9, 0], [100, 50, 20, 20, 0, 0.8], [-100, 50, 20, 20, 0, 0.7]]]
    )
    assert len(non_max_suppression(prediction)[0]) == 3


def test_one_plane_for_all_classes_suppresses_across_classes() -> None:
    prediction = torch.tensor([[[50.0, 50, 20, 20, 0.9, 0], [50, 50, 20, 20, 0, 0.8]]])
    assert len(non_max_suppression(prediction, class_offset=0)[0]) == 1


def test_nothing_above_the_threshold_gives_no_rows() -> None:
    for need_nms, columns in ((True, 6), (False, 6)):
        kept = non_max_suppression(torch.zeros(2, 5, columns), need_nms=need_nms)
        assert [tuple(rows.shape) for rows in kept] == [(0, 6), (0, 6)]
    assert non_max_suppression(torch.zeros(1, 0, 6))[0].shape == (0, 6)


def test_an_end_to_end_head_is_only_thresholded() -> None:
    prediction = torch.tensor([[[0.0, 0, 9, 9, 0.9, 2], [0, 0, 9, 9, 0.8, 2], [0, 0, 9, 9, 0.1, 1]]])
    (kept,) = non_max_suppression(prediction, need_nms=False, conf_thres=0.25)
    assert torch.equal(kept, prediction[0, :2])


def test_boxes_that_are_not_finite_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    prediction = torch.tensor(
        [[[50.0, 50, 20, 20, 0.9], [float("nan"), 5, 2, 2, 0.8], [5, 5, float("inf"), 2, 0.7]]]
    )
    with caplog.at_level(logging.WARNING, "yoloflow"):
        (kept,) = non_max_suppression(prediction)
    assert kept[:, 4].tolist() == pytest.approx([0.9])
    assert "2 predicted boxes of 1 images" in caplog.text


def test_scores_that_are_not_finite_are_counted_once_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    prediction = random_prediction(2, images=3)
    expected = non_max_suppression(prediction[:, 2:])
    prediction[:, :2, 4:] = float("nan")
    with caplog.at_level(logging.WARNING, "yoloflow"):
        found = non_max_suppression(prediction)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == "6 predicted boxes of 3 images are not finite and were left out"
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_the_time_limit_warns_and_drops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    prediction = random_prediction(1, images=4)
    with caplog.at_level(logging.WARNING, "yoloflow"):
        limited = non_max_suppression(prediction, time_limit_s=0.0)
    assert caplog.text.count("nms_time_limit") == 1
    for rows, unlimited in zip(limited, non_max_suppression(prediction), strict=True):
        assert torch.equal(rows, unlimited)
        assert len(rows)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [((3, 6), {}), ((1, 9, 4), {}), ((1, 9, 5), {"conf_free": False}), ((1, 9, 7), {"need_nms": False})],
)
def test_a_prediction_of_another_shape_is_refused(shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    with pytest.raises(YoloflowError, match="predictions have shape"):
        non_max_suppression(torch.zeros(shape), **settings)


@pytest.mark.parametrize("conf_free", [True, False])
def test_mask_coefficients_go_where_their_box_goes(conf_free: bool) -> None:
    prediction = random_prediction(3, num_classes=4)
    names = torch.arange(prediction.shape[1]) * 1.5
    with_masks = torch.cat((prediction, (names[:, None] + torch.tensor([0, 0.25]))[None]), 2)
    (expected,) = non_max_suppression(prediction, conf_free=conf_free, conf_thres=0.1)
    (kept,) = non_max_suppression(with_masks, conf_free=conf_free, conf_thres=0.1, num_masks=2)
    assert torch.equal(kept[:, :6], expected)
    assert len(kept)
    for row in kept:
        number = int(row[6] / 1.5)
        assert row[7] == row[6] + 0.25
        assert torch.equal(cxcywh_to_xyxy(prediction[0, number, :4]), row[:4])


def test_rows_of_end_to_end_heads_keep_their_mask_coefficients() -> None:
    prediction = torch.tensor(
        [[[0.0, 0, 9, 9, 0.5, 1, -7], [0, 0, 9, 9, 0.9, 0, 7], [0, 0, 9, 9, 0.1, 0, 3]]]
    )
    (kept,) = non_max_suppression(prediction, need_nms=False, conf_thres=0.25, num_masks=1)
    assert torch.equal(kept, prediction[0, [1, 0]])


def test_a_prediction_without_the_coefficients_is_refused() -> None:
    with pytest.raises(YoloflowError, match=r"\(1, 9, 20\), expected \(B, N, 4 \+ C \+ 32\)"):
        non_max_suppression(torch.zeros(1, 9, 20), num_masks=32)


@pytest.mark.parametrize(
    ("conf_free", "multi_label"), [(True, True), (True, False), (False, True), (False, False)]
)
@pytest.mark.parametrize("limit", [5, 30000])
def test_candidates_chosen_for_a_batch_are_those_of_each_image(
    conf_free: bool, multi_label: bool, limit: int
) -> None:
    # As on accelerators, where each image's own selection would wait for the device.
    generator = torch.Generator().manual_seed(3)
    images = [
        torch.rand((length, 4 + (not conf_free) + 3), generator=generator) for length in (40, 0, 25, 60)
    ]
    for rows in images:
        rows[:, 4:] = (rows[:, 4:] * 8).round() / 8  # many equal scores
    images[3][:, 4:] = 0  # an image without candidates
    select = partial(_candidates, conf_thres=0.3, conf_free=conf_free, multi_label=multi_label)
    together = best_of_batch(images, select, limit)
    assert together is not None
    for rows, found in zip(images, together, strict=True):
        assert torch.equal(found, _best_first(select(rows), limit))
    assert len(together[1]) == len(together[3]) == 0
