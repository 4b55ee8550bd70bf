"""Boxes and polygons stay on their pixels; a composed mosaic equals a plain one; rows are checked."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.toy_images import IMAGE_SIZE, ToyImages
from yoloflow.data.transforms import (
    DONE_BY_LOADER,
    TRANSFORMS,
    Sample,
    TransformContext,
    check_transforms,
    create_transforms,
)
from yoloflow.data.transforms.canvas import Canvas, Layer
from yoloflow.data.transforms.geometry import clip_polygon, covered_share, translation
from yoloflow.data.transforms.perspective import RandomPerspective
from yoloflow.data.transforms.rows import Row
from yoloflow.structures import YoloflowError

YOLOV8_MEDIUM: list[Row] = [
    {"func_name": "mosaic", "prob": 1.0},
    {"func_name": "copy_paste", "prob": 0.3},
    {"func_name": "resample_segments"},
    {
        "func_name": "random_perspective",
        "prob": 1.0,
        "degrees": 0.0,
        "translate": 0.1,
        "scale": 0.9,
        "shear": 0.0,
    },
    {
        "func_name": "mixup",
        "alpha": 32.0,
        "beta": 32.0,
        "prob": 0.15,
        "pre_transform": [
            {"func_name": "mosaic", "prob": 1.0},
            {"func_name": "random_perspective", "degrees": 0.0, "translate": 0.1, "scale": 0.9, "shear": 0.0},
        ],
    },
    {"func_name": "albumentations"},
    {"func_name": "hsv_augment", "prob": 1.0, "hgain": 0.015, "sgain": 0.7, "vgain": 0.4},
    {"func_name": "fliplr", "prob": 0.5},
    {"func_name": "label_norm", "xyxy2xywh_": True},
    {"func_name": "label_pad", "padding_size": 160, "padding_value": -1},
    {"func_name": "image_norm", "scale": 255.0},
    {"func_name": "image_transpose", "bgr2rgb": True, "hwc2chw": True},
]


def run(rows: list[Row], source: ToyImages, seed: int, size: int = IMAGE_SIZE) -> Sample:
    rng = np.random.default_rng(seed)
    return create_transforms(rows)(source.load(seed % len(source)), TransformContext(rng, source, size))


def bright_extent(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Extent of the bright pixels in and 3 px around a box."""
    x1, y1 = np.maximum(np.floor(box[:2] - 3), 0).astype(int)
    x2, y2 = np.ceil(box[2:] + 3).astype(int)
    rows, columns = np.nonzero(image[y1:y2, x1:x2].min(2) > 184)
    return np.array(
        [columns.min() + x1, rows.min() + y1, columns.max() + 1 + x1, rows.max() + 1 + y1], np.float64
    )


GEOMETRY: dict[str, list[Row]] = {
    "flips": [
        {"func_name": "letterbox"},
        {"func_name": "fliplr", "prob": 0.5},
        {"func_name": "flipud", "prob": 0.5},
    ],
    "mosaic and zoom": [
        {"func_name": "mosaic"},
        {"func_name": "random_perspective", "scale": 0.5, "translate": 0.1},
        {"func_name": "fliplr", "prob": 0.5},
    ],
    "nine tiles": [
        {"func_name": "mosaic", "mosaic9_prob": 1.0},
        {"func_name": "random_perspective", "scale": 0.3, "translate": 0.2},
        {"func_name": "flipud", "prob": 0.5},
    ],
    "flip before the warp": [
        {"func_name": "mosaic"},
        {"func_name": "flipud"},
        {"func_name": "random_perspective", "scale": 0.2},
        {"func_name": "fliplr"},
    ],
    "letterbox and zoom": [
        {"func_name": "letterbox", "scaleup": True},
        {"func_name": "random_perspective", "scale": 0.3, "translate": 0.3},
    ],
    "odd sizes": [{"func_name": "random_perspective", "scale": 0.3, "translate": 0.1}],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_a_box_stays_on_its_pixels_through_any_chain(name: str) -> None:
    source, seen = ToyImages(), 0
    for seed in range(60):
        sample = run(GEOMETRY[name], source, seed)
        assert sample.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        alone = covered_share(sample.boxes_xyxy + (-4, -4, 4, 4), sample.boxes_xyxy)
        for row, box in enumerate(sample.boxes_xyxy):
            if (alone[:, row] > 0).sum() > 1:
                continue
            np.testing.assert_allclose(bright_extent(sample.image, box), box, atol=1.01)
            seen += 1
    assert seen > 50


@st.composite
def upright_chains(draw: st.DrawFn) -> list[Row]:
    """Any order of steps that keep boxes upright, made square before it ends."""
    zoom = st.fixed_dictionaries(
        {
            "func_name": st.just("random_perspective"),
            "scale": st.sampled_from([0.0, 0.2, 0.5]),
            "translate": st.sampled_from([0.0, 0.1, 0.3]),
        }
    )
    letterbox = st.fixed_dictionaries(
        {"func_name": st.just("letterbox"), "scaleup": st.booleans(), "centre": st.booleans()}
    )
    flips = [st.just({"func_name": name, "prob": 0.5}) for name in ("fliplr", "flipud")]
    chain = draw(st.lists(st.one_of(*flips, letterbox, zoom), max_size=3))
    if draw(st.booleans()):
        nine = draw(st.sampled_from([0.0, 0.5]))
        chain = [
            *draw(st.lists(st.one_of(*flips), max_size=1)),
            {"func_name": "mosaic", "mosaic9_prob": nine},
            *chain,
        ]
    return [
        *chain,
        draw(st.one_of(zoom, letterbox) if "mosaic" not in str(chain) else zoom),
        *draw(st.lists(st.one_of(*flips), max_size=2)),
    ]


@pytest.mark.fuzz
@settings(max_examples=150)
@given(upright_chains(), st.integers(0, 2**32 - 1))
def test_a_box_stays_on_its_pixels_through_chains_that_nobody_chose(rows: list[Row], seed: int) -> None:
    sample = run(rows, ToyImages(), seed)
    assert sample.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    near = covered_share(sample.boxes_xyxy + (-4, -4, 4, 4), sample.boxes_xyxy)
    for row, box in enumerate(sample.boxes_xyxy):
        if (near[:, row] > 0).sum() == 1:
            np.testing.assert_allclose(bright_extent(sample.image, box), box, atol=1.01 * (1 + len(rows) / 4))


ROTATIONS = {
    "rotation": {"degrees": 30.0},
    "shear": {"shear": 15.0},
    "perspective": {"perspective": 0.0005},
    "all": {"degrees": 20.0, "shear": 5.0, "perspective": 0.0003, "scale": 0.3},
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_a_polygon_stays_on_its_pixels_and_gives_a_tight_box(name: str) -> None:
    source, seen = ToyImages(polygons=True), 0
    rows: list[Row] = [
        {"func_name": "mosaic"},
        {"func_name": "random_perspective", "translate": 0.1, **ROTATIONS[name]},
    ]
    for seed in range(40):
        sample = run(rows, source, seed)
        near = covered_share(sample.boxes_xyxy + (-5, -5, 5, 5), sample.boxes_xyxy)
        for row, (box, polygon) in enumerate(zip(sample.boxes_xyxy, sample.polygons, strict=True)):
            np.testing.assert_allclose(np.concatenate((polygon.min(0), polygon.max(0))), box)
            if (near[:, row] > 0).sum() > 1 or (box[2:] - box[:2]).min() < 12:
                continue
            mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
            cv2.fillPoly(mask, [np.round(polygon * 16 - 8).astype(np.int32)], 255, shift=4)
            cut = np.s_[int(box[1]) : math.ceil(box[3]), int(box[0]) : math.ceil(box[2])]
            bright = sample.image[cut].min(2) > 184
            differing = (bright ^ (mask[cut] > 0)).sum()
            assert differing < cv2.arcLength(polygon, True)
            seen += 1
    assert seen > 40


def plain_mosaic_warp(composed: Sample, matrix: np.ndarray, size: int) -> np.ndarray:
    """The two steps that the canvas fuses: paste every tile, then warp the whole."""
    canvas = composed.canvas
    image = np.full((*canvas.size_hw, 3), 114, np.uint8)
    for layer in canvas.layers:
        x, y = layer.matrix[:2, 2].astype(int)
        image[y : y + layer.image.shape[0], x : x + layer.image.shape[1]] = layer.image
    pixels = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    return cv2.warpPerspective(image, pixels, (size, size), borderValue=(114, 114, 114))


def seam_mask(composed: Sample, matrix: np.ndarray, size: int) -> np.ndarray:
    """Output pixels within 2 px of the border of a tile."""
    mask = np.zeros((size, size), np.uint8)
    for layer in composed.canvas.layers:
        height, width = layer.image.shape[:2]
        corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float).T
        x, y, w = matrix @ layer.matrix @ corners
        cv2.polylines(mask, [np.round(np.stack((x / w, y / w), 1)).astype(np.int32)], True, 255, 5)
    return mask > 0


@pytest.mark.parametrize("nine", [0.0, 1.0])
@pytest.mark.parametrize("name", ["zoom only", *ROTATIONS])
def test_a_composed_mosaic_equals_pasting_and_warping_but_for_the_seams(name: str, nine: float) -> None:
    source = ToyImages(smooth=True)
    warp = RandomPerspective(**{"degrees": 0.0, "scale": 0.5, "translate": 0.1, **ROTATIONS.get(name, {})})
    for seed in range(12):
        composed = run([{"func_name": "mosaic", "mosaic9_prob": nine}], source, seed)
        assert composed.canvas.drawn is None
        matrix, _ = warp.draw_matrix(
            np.random.default_rng(seed), composed.canvas.size_hw, (IMAGE_SIZE, IMAGE_SIZE)
        )
        direct = composed.canvas.warp(matrix, (IMAGE_SIZE, IMAGE_SIZE)).astype(int)
        plain = plain_mosaic_warp(composed, matrix, IMAGE_SIZE).astype(int)
        inside = ~seam_mask(composed, matrix, IMAGE_SIZE)
        # An upright tile may lie 1/16 of an output pixel off; neighbours differ by 20 at most here.
        assert np.abs(direct - plain)[inside].max() <= (4 if name == "zoom only" else 2)
        assert inside.mean() > 0.6
        assert np.abs(direct - plain).mean() < 1


def test_reading_the_image_of_a_mosaic_draws_the_canvas() -> None:
    composed = run([{"func_name": "mosaic"}], ToyImages(smooth=True), 3)
    plain = plain_mosaic_warp(composed, np.eye(3), 2 * IMAGE_SIZE)
    np.testing.assert_array_equal(composed.image, plain)


def test_nine_tiles_never_overlap() -> None:
    source = ToyImages(smooth=True)
    for seed in range(30):
        cover = np.zeros((2 * IMAGE_SIZE, 2 * IMAGE_SIZE), int)
        for layer in run([{"func_name": "mosaic", "mosaic9_prob": 1.0}], source, seed).canvas.layers:
            x, y = layer.matrix[:2, 2].astype(int)
            cover[y : y + layer.image.shape[0], x : x + layer.image.shape[1]] += 1
        assert cover.max() == 1
        assert cover.mean() > 0.5


def test_transforms_never_write_into_the_image_they_are_given() -> None:
    source = ToyImages(polygons=True)
    for sample in source.samples:
        sample.image.flags.writeable = False
    for seed in range(30):
        run(YOLOV8_MEDIUM, source, seed)
        run([{"func_name": "letterbox"}, *YOLOV8_MEDIUM[5:]], source, seed)


def test_copy_paste_adds_mirrored_objects_on_their_pixels() -> None:
    source, pasted = ToyImages(polygons=True), 0
    for seed in range(40):
        sample = run([{"func_name": "mosaic"}, {"func_name": "copy_paste", "prob": 1.0}], source, seed)
        plain = run([{"func_name": "mosaic"}], source, seed)
        old = len(plain.classes)
        np.testing.assert_array_equal(sample.boxes_xyxy[:old], plain.boxes_xyxy)
        for box, polygon in zip(sample.boxes_xyxy[old:], sample.polygons[old:], strict=True):
            mask = np.zeros(sample.image.shape[:2], np.uint8)
            cv2.fillPoly(mask, [np.round(polygon * 16 - 8).astype(np.int32)], 255, shift=4)
            core = cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=0) > 0
            assert (sample.image[core] > 184).all()
            assert (covered_share(box[None], plain.boxes_xyxy) < 0.3).all()
            pasted += 1
    assert pasted > 20


def test_copy_paste_leaves_samples_without_polygons_alone() -> None:
    source = ToyImages()
    sample = source.load(0)
    pasted = create_transforms([{"func_name": "copy_paste", "prob": 1.0}])(
        sample, TransformContext(np.random.default_rng(0), source, IMAGE_SIZE)
    )
    assert pasted is sample


def test_sorted_copy_paste_takes_the_least_overlapping_first() -> None:
    image = np.full((100, 100, 3), 114, np.uint8)
    boxes = np.array([[40, 10, 60, 30], [5, 60, 25, 80]], np.float32)
    polygons = [np.array([[a, b], [c, b], [c, d], [a, d]], np.float32) for a, b, c, d in boxes]
    sample = Sample(Canvas.of_image(image), boxes, np.array([0, 1]), polygons, 0, (100, 100))
    pipeline = create_transforms([{"func_name": "copy_paste", "prob": 0.5, "sorted": True}])
    for seed in range(5):
        out = pipeline(sample, TransformContext(np.random.default_rng(seed), ToyImages(), 100))
        np.testing.assert_allclose(out.boxes_xyxy[2:], [[75, 60, 95, 80]])
        assert out.classes.tolist() == [0, 1, 1]


def test_pastein_adds_objects_of_other_images_on_their_pixels() -> None:
    source, pasted = ToyImages(polygons=True), 0
    for seed in range(40):
        sample = run([{"func_name": "mosaic"}, {"func_name": "pastein"}], source, seed)
        plain = run([{"func_name": "mosaic"}], source, seed)
        old = len(plain.classes)
        np.testing.assert_array_equal(sample.boxes_xyxy[:old], plain.boxes_xyxy)
        pasted += len(sample.classes) - old
        assert len(sample.boxes_xyxy) == len(sample.classes) == len(sample.polygons)
        for row in range(old, len(sample.classes)):
            box, polygon = sample.boxes_xyxy[row], sample.polygons[row]
            np.testing.assert_allclose(box, [*polygon.min(0), *polygon.max(0)], atol=1e-3)
            assert (box >= -1e-3).all()
            assert (box <= 2 * IMAGE_SIZE + 1e-3).all()
            assert (covered_share(box[None], sample.boxes_xyxy[:row]) < 0.3).all()
            if row < len(sample.classes) - 1:
                continue  # a later object may cover a part of it
            mask = np.zeros(sample.image.shape[:2], np.uint8)
            cv2.fillPoly(mask, [np.round(polygon * 16 - 8).astype(np.int32)], 255, shift=4)
            # An enlarged object has an edge some pixels wide.
            core = cv2.erode(mask, np.ones((21, 21), np.uint8), borderValue=0) > 0
            assert (sample.image[core] > 184).all()
    assert pasted > 100


def test_pastein_leaves_samples_alone_where_nothing_can_be_cut_out() -> None:
    source = ToyImages()
    context = TransformContext(np.random.default_rng(0), source, IMAGE_SIZE)
    sample = source.load(0)
    assert create_transforms([{"func_name": "pastein"}])(sample, context) is sample


def test_objects_that_all_but_vanish_are_filtered_as_the_reference_does() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[10, 10, 50, 50], [0, 0, 5, 40], [90, 90, 92, 92], [96, 40, 99, 99]], np.float32)
    sample = Sample(
        Canvas.of_image(image), boxes, np.arange(4), [np.zeros((0, 2), np.float32)] * 4, 0, (100, 100)
    )
    warp = create_transforms([{"func_name": "random_perspective", "scale": 0.0, "translate": 0.0}])
    out = warp(sample, TransformContext(np.random.default_rng(0), ToyImages(), 100))
    assert out.classes.tolist() == [0, 1, 3]
    sliver = Sample(
        Canvas.of_image(image),
        np.array([[0, 0, 2.5, 60]], np.float32),
        np.arange(1),
        sample.polygons[:1],
        0,
        (100, 100),
    )
    assert len(warp(sliver, TransformContext(np.random.default_rng(0), ToyImages(), 100)).classes) == 0


def test_a_polygon_is_clipped_to_the_region_that_is_left() -> None:
    square = np.array([[-10, -10], [30, -10], [30, 30], [-10, 30]], np.float32)
    clipped = clip_polygon(square, (20, 25))
    assert cv2.contourArea(clipped) == 20 * 25
    assert len(clip_polygon(square + 100, (20, 25))) == 0
    rng = np.random.default_rng(1)
    for _ in range(50):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        polygon = (np.stack((np.cos(angles), np.sin(angles)), 1) * rng.uniform(10, 30) + 15).astype(
            np.float32
        )
        clipped = clip_polygon(polygon, (40, 30))
        big = np.zeros((200, 200), np.uint8)
        cv2.fillPoly(big, [np.round((polygon + 80) * 16 - 8).astype(np.int32)], 1, shift=4)
        area = cv2.contourArea(clipped) if len(clipped) else 0.0
        # OpenCV fills half a pixel more all around.
        assert abs(area - big[80:120, 80:110].sum()) <= 0.6 * cv2.arcLength(polygon, True) + 2


def test_mixup_keeps_the_objects_of_both_and_blends() -> None:
    source = ToyImages()
    rows: list[Row] = [
        {"func_name": "letterbox"},
        {"func_name": "mixup", "alpha": 1.0, "beta": 1.0, "pre_transform": [{"func_name": "letterbox"}]},
    ]
    sample = run(rows, source, 1)
    assert len(sample.classes) == 2
    with pytest.raises(YoloflowError, match="pre_transform"):
        run([{"func_name": "letterbox"}, {"func_name": "mixup"}], source, 0)


def test_hsv_changes_colours_by_the_gains_through_a_table() -> None:
    source = ToyImages(smooth=True)
    sample = source.load(0)
    rng = np.random.default_rng(3)
    gains = 1 + np.random.default_rng(3).uniform(-1, 1, 3) * (0.015, 0.7, 0.4)
    changed = create_transforms([{"func_name": "hsv_augment", "hgain": 0.015, "sgain": 0.7, "vgain": 0.4}])(
        sample, TransformContext(rng, source, IMAGE_SIZE)
    )
    hsv = cv2.cvtColor(sample.image, cv2.COLOR_BGR2HSV).astype(float)
    hsv[..., 0] = hsv[..., 0] * gains[0] % 180
    hsv[..., 1:] = np.minimum(hsv[..., 1:] * gains[1:], 255)
    np.testing.assert_array_equal(changed.image, cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR))


def test_the_mild_ops_change_a_few_images_of_a_hundred() -> None:
    source = ToyImages(smooth=True)
    pipeline = create_transforms([{"func_name": "albumentations"}])
    sample = source.load(0)
    changed = [
        pipeline(sample, TransformContext(np.random.default_rng(s), source, IMAGE_SIZE)) for s in range(600)
    ]
    share = np.mean([not np.array_equal(one.image, sample.image) for one in changed])
    assert 0.015 < share < 0.08
    assert all(one.image.shape == sample.image.shape for one in changed)


def test_prob_gates_every_step_alike() -> None:
    source = ToyImages()
    rows: list[Row] = [{"func_name": "letterbox"}, {"func_name": "fliplr", "prob": 0.25}]
    reference = run(rows[:1], source, 0)
    pipeline = create_transforms(rows)
    flipped = [
        not np.array_equal(
            pipeline(source.load(0), TransformContext(np.random.default_rng(s), source, IMAGE_SIZE)).image,
            reference.image,
        )
        for s in range(400)
    ]
    assert 0.18 < np.mean(flipped) < 0.32


def test_steps_that_do_nothing_are_left_out() -> None:
    rows: list[Row] = [
        {"func_name": "mosaic", "prob": 0.0},
        {"func_name": "copy_paste", "prob": 0.0},
        {"func_name": "hsv_augment", "hgain": 0, "sgain": 0, "vgain": 0},
        *({"func_name": name} for name in DONE_BY_LOADER),
        {"func_name": "fliplr"},
    ]
    assert [step.transform.func_name for step in create_transforms(rows).steps] == ["fliplr"]


def test_the_rows_of_the_reference_recipes_are_accepted() -> None:
    check_transforms(YOLOV8_MEDIUM)
    check_transforms([{"func_name": "letterbox", "scaleup": False, "only_image": True}])
    check_transforms([{"func_name": "albumentations", "random_resized_crop": False}])
    nested: Row = {
        "func_name": "mosaic",
        "prob": 0.5,
        "post_transform": [{"func_name": "random_perspective"}],
    }
    assert len(create_transforms([nested, {"func_name": "letterbox"}])) == 2
    assert set(TRANSFORMS) >= {"mosaic", "random_perspective", "mixup", "copy_paste", "hsv_augment", "fliplr"}


BAD_ROWS = {
    "misspelt name": (
        {"func_name": "mosiac"},
        r"rows\[1\] \(mosiac\): unknown transform; did you mean mosaic",
    ),
    "misspelt parameter": (
        {"func_name": "hsv_augment", "hgian": 1},
        "unknown parameter hgian; did you mean hgain",
    ),
    "no name": ({"prob": 1}, "func_name"),
    "not a mapping": ("fliplr", "expected a mapping"),
    "prob above 1": ({"func_name": "fliplr", "prob": 1.5}, "prob=1.5 is outside 0 to 1"),
    "prob is text": ({"func_name": "fliplr", "prob": "half"}, "expected a number"),
    "out of range": ({"func_name": "random_perspective", "scale": 1.2}, "scale=1.2 is outside"),
    "not a bool": ({"func_name": "letterbox", "scaleup": 1}, "expected true or false"),
    "loader does otherwise": ({"func_name": "image_transpose", "bgr2rgb": False}, "not possible"),
    "unknown to the loader": ({"func_name": "label_pad", "size": 3}, "unknown parameter size"),
    "nested": ({"func_name": "mixup", "pre_transform": [{"func_name": "mosaics"}]}, r"pre_transform\[0\]"),
    "nested no list": ({"func_name": "mixup", "pre_transform": {"func_name": "mosaic"}}, "expected a list"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_with_its_place_and_the_nearest_names(name: str) -> None:
    row, message = BAD_ROWS[name]
    with pytest.raises(YoloflowError, match=message):
        check_transforms([{"func_name": "letterbox"}, row], "rows")  # type: ignore[list-item]


def test_an_upright_layer_covers_exactly_the_pixels_whose_centres_it_holds() -> None:
    white = np.full((10, 10, 3), 255, np.uint8)
    canvas = Canvas((20, 20), (Layer(white, translation(0, 0)), Layer(white, translation(10, 10))))
    zoom = np.diag([1.7, 1.7, 1.0])
    image = canvas.warp(zoom, (34, 34))
    assert set(np.unique(image)) == {114, 255}
    assert (image == 255).all(2).sum() == 2 * 17 * 17


# Masks


def masks_of(**parameters: object) -> tuple[Sample, np.ndarray]:
    rows: list[Row] = [
        {"func_name": "mosaic"},
        {"func_name": "random_perspective", "degrees": 10.0, "scale": 0.2},
        {"func_name": "fliplr"},
        {"func_name": "segment_poly2mask", **parameters},
        {"func_name": "label_norm"},
    ]
    sample = run(rows, ToyImages(polygons=True), 1)
    assert sample.masks is not None
    return sample, sample.masks


def test_masks_lie_on_the_pixels_of_their_objects() -> None:
    sample, masks = masks_of(mask_overlap=False, mask_ratio=1)
    assert masks.shape == (len(sample.classes), IMAGE_SIZE, IMAGE_SIZE)
    for mask, polygon in zip(masks, sample.polygons, strict=True):
        bright = sample.image.min(2) > 184
        assert (mask.astype(bool) & ~bright).sum() <= cv2.arcLength(polygon, True)
        assert mask.sum() == pytest.approx(cv2.contourArea(polygon), rel=0.1, abs=20)
    covered = masks.any(0)
    assert ((sample.image.min(2) > 184) & ~covered).mean() < 0.02


def test_overlapping_masks_are_one_image_with_the_smallest_on_top() -> None:
    single, masks = masks_of(mask_overlap=False)
    joined_sample, joined = masks_of()
    assert joined.shape == (IMAGE_SIZE // 4, IMAGE_SIZE // 4)
    areas = [int(masks[number].sum()) for number in range(len(masks))]
    order = np.argsort(-np.array(areas), kind="stable")
    np.testing.assert_array_equal(joined_sample.boxes_xyxy, single.boxes_xyxy[order])
    np.testing.assert_array_equal(joined_sample.classes, single.classes[order])
    for number, row in enumerate(order, 1):
        on_top = masks[order[number:]].any(0)
        np.testing.assert_array_equal(joined == number, (masks[row] > 0) & ~on_top)


def test_masks_are_drawn_last_and_at_a_whole_ratio() -> None:
    with pytest.raises(YoloflowError, match="must be the last row"):
        create_transforms([{"func_name": "segment_poly2mask"}, {"func_name": "fliplr"}])
    with pytest.raises(YoloflowError, match=r"mask_ratio=2\.5: must be a whole number"):
        create_transforms([{"func_name": "segment_poly2mask", "mask_ratio": 2.5}])
