"""Masks are the pixels of their objects: holes, parts, any chain of transforms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as pycoco_mask

from tests.support.painted_objects import PaintedObjects, objectness, red_of
from yoloflow.data.formats.outlines import (
    facing_alike,
    join_parts,
    mask_of_pixels,
    outline_of_mask,
    signed_area,
)
from yoloflow.data.transforms import Sample, TransformContext, create_transforms
from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.fill import fill_outlines
from yoloflow.data.transforms.geometry import move_boxes, move_polygons, translation
from yoloflow.data.transforms.masks import PolygonsToMasks
from yoloflow.data.transforms.rows import Row

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)


def filled(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels = np.zeros((height, width), np.uint8)
    one = fill_outlines([outline.astype(np.float32)])[0]
    pixels[one.window] = one.pixels
    return pixels


def covered(outline: np.ndarray, height: int, width: int, fine: int = 16) -> np.ndarray:
    """The share of each pixel that an outline covers, nearly."""
    pixels = np.zeros((height * fine, width * fine), np.uint8)
    cv2.fillPoly(pixels, [np.rint(outline * fine - 0.5).astype(np.int32)], 1)
    return np.asarray(pixels.reshape(height, fine, width, fine).mean((1, 3)))


# Outlines to pixels


def test_a_pixel_that_is_covered_by_half_counts() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        outline = np.stack((np.cos(angles), np.sin(angles)), 1) * rng.uniform(3, 19, (len(angles), 1))
        outline += (25, 20)
        share = covered(outline, 40, 50)
        doubtful = np.abs(share - 0.5) < 0.15  # OpenCV draws the border too, and at whole fine pixels
        np.testing.assert_array_equal(filled(outline, 40, 50)[~doubtful], (share >= 0.5)[~doubtful])
    assert filled(SQUARE * (4, 0.5) + (1, 2), 4, 6).sum() == 4
    assert filled(SQUARE * (4, 0.49) + (1, 2), 4, 6).sum() == 0


def test_many_outlines_at_once_are_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(4)
    outlines = [(rng.random((int(n), 2)) * 30).astype(np.float32) for n in rng.integers(0, 9, 40)]
    outlines.append(SQUARE * 600)  # more than a group holds
    for one, outline in zip(fill_outlines(outlines), outlines, strict=True):
        alone = fill_outlines([outline])[0]
        assert (one.top, one.left) == (alone.top, alone.left)
        np.testing.assert_array_equal(one.pixels, alone.pixels)


def test_seams_leave_no_trace_and_holes_stay_holes() -> None:
    parts = [SQUARE * 3, SQUARE * 3 + (9, 5)]
    assert filled(join_parts(parts), 10, 14).sum() == 18
    ring = join_parts([SQUARE * 8, SQUARE[::-1] * 3 + 2])
    assert filled(ring, 8, 8).sum() == 64 - 9
    assert filled(ring, 8, 8)[2:5, 2:5].sum() == 0


@pytest.mark.parametrize("turn", [1, -1])
def test_parts_that_overlap_or_lie_in_one_another_are_joined_as_cocos_tools_join_them(turn: int) -> None:
    for second in (SQUARE * 6 + 4, SQUARE * 3 + 2):
        parts = [SQUARE * 8, second[::turn]]
        outline = facing_alike(join_parts(parts), [4, 4])
        flat = [part.ravel().astype(float).tolist() for part in parts]
        expected = pycoco_mask.decode(pycoco_mask.merge(pycoco_mask.frPyObjects(flat, 12, 12)))
        np.testing.assert_array_equal(filled(outline, 12, 12), expected)


def test_the_outline_of_a_mask_fills_exactly_its_pixels() -> None:
    rng = np.random.default_rng(5)
    for _ in range(80):
        height, width = rng.integers(1, 20, 2)
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        outline = outline_of_mask(mask_of_pixels(pixels))
        np.testing.assert_array_equal(filled(outline, height, width), pixels)
        assert signed_area(outline) == pytest.approx(-int(pixels.sum())) or not len(outline)
        if len(outline):
            flat = [outline.ravel().astype(float).tolist()]
            drawn = pycoco_mask.decode(pycoco_mask.frPyObjects(flat, int(height), int(width)))[..., 0]
            np.testing.assert_array_equal(drawn, pixels)


# Chains


WARP: Row = {"func_name": "random_perspective", "scale": 0.4, "translate": 0.2}
TURN: Row = {**WARP, "degrees": 40.0, "shear": 12.0}
TILT: Row = {**TURN, "perspective": 0.001}
FLIPS: list[Row] = [{"func_name": "fliplr", "prob": 0.5}, {"func_name": "flipud", "prob": 0.5}]
CHAINS: dict[str, list[Row]] = {
    "letterbox": [{"func_name": "letterbox", "scaleup": True}, *FLIPS],
    "mosaic": [{"func_name": "mosaic"}, WARP, *FLIPS],
    "nine": [{"func_name": "mosaic", "mosaic9_prob": 1.0}, TURN, *FLIPS],
    "tilted": [{"func_name": "letterbox", "scaleup": True}, TILT],
    "tilted mosaic": [{"func_name": "mosaic"}, TILT, *FLIPS],
    "copies": [{"func_name": "mosaic"}, {"func_name": "copy_paste", "prob": 0.5}, TURN, *FLIPS],
    "copies alone": [{"func_name": "letterbox"}, {"func_name": "copy_paste", "prob": 1.0}, *FLIPS],
    "pasted": [{"func_name": "letterbox"}, {"func_name": "pastein"}, *FLIPS],
    "pasted mosaic": [{"func_name": "mosaic"}, WARP, {"func_name": "pastein"}, *FLIPS],
    "blend": [
        {"func_name": "mosaic"},
        TILT,
        {"func_name": "mixup", "pre_transform": [{"func_name": "mosaic"}, TURN]},
    ],
}


def run(rows: list[Row], seed: int, size: int = 160) -> Sample:
    source = PAINTED
    context = TransformContext(np.random.default_rng(seed), source, size)
    return create_transforms(rows)(source.load(seed % len(source)), context)


PAINTED = PaintedObjects()


@pytest.mark.parametrize("name", CHAINS)
def test_masks_stay_on_their_pixels_through_any_chain(name: str) -> None:
    drawn: Row = {"func_name": "segment_poly2mask", "mask_overlap": False, "mask_ratio": 1}
    kernel = np.ones((3, 3), np.uint8)
    lost = total = 0
    for seed in range(15):
        sample = run([*CHAINS[name], drawn], seed)
        assert sample.masks is not None
        masks = sample.masks
        pixels = (objectness(sample.image) > (64 if name == "blend" else 127)).astype(np.uint8)
        union = np.asarray(masks.any(0), np.uint8)
        assert ((union > 0) & (cv2.dilate(pixels, kernel) == 0)).sum() <= (2 if name == "blend" else 0)
        beyond = (pixels > 0) & (cv2.dilate(union, kernel) == 0)
        lost, total = lost + int(beyond.sum()), total + int(pixels.sum())
        for row, (mask, box, polygon) in enumerate(
            zip(masks, sample.boxes_xyxy, sample.polygons, strict=True)
        ):
            np.testing.assert_allclose(box, [*polygon.min(0), *polygon.max(0)], atol=1e-3)
            inner = (cv2.erode(mask, kernel, iterations=2) > 0) & (masks[row + 1 :].sum(0) == 0)
            if name != "blend":
                is_own = np.abs(sample.image[..., 2].astype(int) - red_of(int(sample.classes[row]))) < 10
                assert is_own[inner].sum() >= 0.9 * inner.sum()
    # What is left of an object at the edge may be too little to be one.
    assert lost <= 0.005 * total
    assert total > 10_000


@pytest.mark.parametrize("name", CHAINS)
def test_an_overlap_map_shows_the_smallest_and_numbers_the_label_rows(name: str) -> None:
    for seed in range(3):
        single = run([*CHAINS[name], {"func_name": "segment_poly2mask", "mask_overlap": False}], seed)
        joined = run([*CHAINS[name], {"func_name": "segment_poly2mask"}], seed)
        assert single.masks is not None
        assert joined.masks is not None
        areas = single.masks.sum((1, 2), dtype=int)
        order = np.argsort(-areas, kind="stable")
        np.testing.assert_array_equal(joined.boxes_xyxy, single.boxes_xyxy[order])
        np.testing.assert_array_equal(joined.classes, single.classes[order])
        expected = np.zeros_like(joined.masks)
        for number, row in enumerate(order, 1):
            expected[single.masks[row] > 0] = number
        np.testing.assert_array_equal(joined.masks, expected)


def test_an_outline_that_a_mosaic_cuts_off_takes_its_box_along() -> None:
    """Of an angle, whose box reaches further than its outline does."""
    for seed in range(40):
        sample = run([{"func_name": "mosaic"}], seed)
        for box, polygon in zip(sample.boxes_xyxy, sample.polygons, strict=True):
            np.testing.assert_allclose(box, [*polygon.min(0), *polygon.max(0)], atol=1e-3)


def test_what_lies_behind_the_camera_of_a_perspective_is_cut_off() -> None:
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]]) @ translation(0, 0)
    boxes = np.array([[10, 10, 20, 20], [50, 10, 150, 20], [120, 10, 150, 20]], np.float32)
    outlines = [box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2) for box in boxes]
    moved = move_polygons(outlines, matrix, (200, 200))
    assert [len(one) for one in moved] == [4, 4, 0]
    np.testing.assert_allclose(moved[1].min(0), [100, 20], rtol=1e-5)
    assert moved[1].max() == 200
    extents = move_boxes(boxes, matrix)
    assert extents[1, 0] == 100
    assert extents[1, 2] > 4000
    assert extents[2].tolist() == [0, 0, 0, 0]


# Masks of a sample


def sample_of(outlines: list[np.ndarray], boxes: np.ndarray, side: int = 64) -> Sample:
    image = np.zeros((side, side, 3), np.uint8)
    polygons = [one.astype(np.float32) for one in outlines]
    return Sample(
        Canvas.of_image(image), boxes.astype(np.float32), np.arange(len(boxes)), polygons, 0, (side, side)
    )


def masks_of(sample: Sample, **parameters: object) -> Sample:
    context = TransformContext(np.random.default_rng(0), PAINTED, 64)
    return PolygonsToMasks(**parameters)(sample, context)  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [True, False])
def test_an_image_without_objects_has_an_empty_mask(overlap: bool) -> None:
    done = masks_of(sample_of([], np.zeros((0, 4))), mask_overlap=overlap)
    assert done.masks is not None
    assert done.masks.shape == ((16, 16) if overlap else (0, 16, 16))
    assert not done.masks.any()


def test_an_object_without_outline_fills_its_box() -> None:
    boxes = np.array([[8, 8, 16, 16], [0, 0, 40, 40]])
    done = masks_of(sample_of([np.zeros((0, 2)), SQUARE * 40], boxes), mask_ratio=1)
    assert done.classes.tolist() == [1, 0]
    assert done.masks is not None
    assert (done.masks[8:16, 8:16] == 2).all()
    assert (done.masks == 2).sum() == 64


def test_more_objects_than_a_byte_counts_have_masks_of_their_own() -> None:
    x, y = np.meshgrid(np.arange(20), np.arange(15))
    corners = np.stack((x.ravel(), y.ravel()), 1) * 4
    boxes = np.concatenate((corners, corners + 4), 1)
    done = masks_of(sample_of([np.zeros((0, 2))] * 300, boxes, side=80))
    assert done.masks is not None
    assert done.masks.dtype == np.uint16
    assert sorted(set(done.masks.ravel().tolist())) == list(range(301))
    masks = masks_of(sample_of([np.zeros((0, 2))] * 300, boxes, side=80), mask_overlap=False).masks
    assert masks is not None
    assert masks.shape == (300, 20, 20)
    assert (masks.sum((1, 2)) == 1).all()


def test_an_outline_beyond_the_image_is_drawn_up_to_its_edge() -> None:
    done = masks_of(sample_of([SQUARE * 500 - 100], np.array([[0, 0, 64, 64]])), mask_ratio=1)
    assert done.masks is not None
    assert done.masks.all()


def test_a_side_that_is_no_multiple_of_the_ratio_is_covered_whole() -> None:
    done = masks_of(sample_of([SQUARE * 66], np.array([[0, 0, 66, 66]]), side=66))
    assert done.masks is not None
    assert done.masks.shape == (16, 16)
    assert done.masks.all()
