"""Samples are pure functions of (seed, epoch, index); batches come in one order whoever loads them."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.data_sets import write_yolo
from tests.support.toy_loader import assert_equal_batches, toy_index
from yoloflow.boxes import boxes_to_original
from yoloflow.data.collate import collate
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import COCODataset, resized_sizes
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.sets import read_sets
from yoloflow.data.settings import DataSettings
from yoloflow.data.transforms import Sample
from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.rows import Row
from yoloflow.structures import DatasetIndex, YoloflowError

SIZE = 96
MOSAIC: list[Row] = [
    {"func_name": "mosaic"},
    {"func_name": "random_perspective", "scale": 0.5, "translate": 0.1},
    {"func_name": "mixup", "prob": 0.3, "pre_transform": [{"func_name": "letterbox"}]},
    {"func_name": "albumentations"},
    {"func_name": "hsv_augment", "hgain": 0.015, "sgain": 0.7, "vgain": 0.4},
    {"func_name": "fliplr", "prob": 0.5},
]
LETTERBOX: list[Row] = [{"func_name": "letterbox", "scaleup": False}]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths, sizes, boxes = [], [], []
    for number in range(22):
        height, width = int(rng.integers(60, 260)), int(rng.integers(60, 260))
        image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 3)
        path = folder / f"{number:02d}.{'png' if number % 4 == 0 else 'jpg'}"
        cv2.imwrite(str(path), image)
        corners = rng.uniform(0, 0.5, (int(rng.integers(0, 4)), 2))
        corners = np.concatenate((corners, corners + rng.uniform(0.1, 0.4, corners.shape)), 1)
        paths.append(str(path))
        sizes.append((height, width))
        boxes.append(corners * (width, height, width, height))
    return toy_index(paths, sizes, boxes)


def train_set(index: DatasetIndex, **options: Any) -> COCODataset:
    return COCODataset(index, SIZE, MOSAIC, is_training=True, augment=True, seed=7, **options)


def test_a_sample_depends_on_seed_epoch_and_index_alone(index: DatasetIndex) -> None:
    dataset, other = train_set(index), train_set(index)
    for number in (3, 1, 2):
        other.get(5, number)
    first, again = dataset.get(2, 4), other.get(2, 4)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.boxes_xyxy, again.boxes_xyxy)
    assert not np.array_equal(first.image, dataset.get(3, 4).image)
    changed = COCODataset(index, SIZE, MOSAIC, is_training=True, augment=True, seed=8)
    assert not np.array_equal(first.image, changed.get(2, 4).image)


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("workers", [2, *(pytest.param(n, marks=pytest.mark.process) for n in (1, 4))])
def test_batches_are_the_same_with_any_number_of_workers(
    index: DatasetIndex, workers: int, cache: str
) -> None:
    plain = list(create_loader(train_set(index), 4, 2, seed=1))
    assert len(plain) == 2 * (22 // 4)
    dataset = train_set(index, cache=cache)
    loaded = list(create_loader(dataset, 4, 2, num_parallel_workers=workers, seed=1))
    for first, second in zip(plain, loaded, strict=True):
        assert_equal_batches(first, second)


def test_workers_fill_one_cache_together(index: DatasetIndex) -> None:
    dataset = train_set(index, cache="ram")
    list(create_loader(dataset, 4, 3, num_parallel_workers=2))
    assert dataset.cache is not None
    stored = [dataset.cache.get(number) for number in range(len(index))]
    assert sum(image is not None for image in stored) > 18
    bare = train_set(index)
    for number, image in enumerate(stored):
        if image is not None:
            np.testing.assert_array_equal(image, bare.load(number).image)
            with pytest.raises(ValueError, match="read-only"):
                image[:] = 0


def test_a_cache_says_how_much_memory_it_will_take(
    index: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "yoloflow"):
        cache = train_set(index, cache="ram").cache
    assert "22 images" in caplog.text
    assert cache is not None
    assert cache.num_bytes == (resized_sizes(index.sizes_hw, SIZE).prod(1) * 3).sum()
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.num_bytes == cache.num_bytes
    assert copy.get(0) is None
    with pytest.raises(YoloflowError, match="cache=none"):
        COCODataset(index, 10**6, [], cache="ram")


def test_the_global_batch_holds_the_same_images_whatever_the_number_of_ranks(index: DatasetIndex) -> None:
    dataset = train_set(index)
    single = create_loader(dataset, 8, 2, seed=3)
    pair = [create_loader(dataset, 4, 2, rank, 2, seed=3) for rank in range(2)]
    accumulating = [create_loader(dataset, 2, 2, rank, 2, seed=3) for rank in range(2)]
    for epoch in range(2):
        whole = single.epoch_indices(epoch).reshape(-1, 8)
        halves = [loader.epoch_indices(epoch).reshape(-1, 4) for loader in pair]
        np.testing.assert_array_equal(whole, np.concatenate(halves, 1))
        quarters = [loader.epoch_indices(epoch).reshape(-1, 2) for loader in accumulating]
        np.testing.assert_array_equal(whole.flatten(), np.concatenate(quarters, 1).flatten()[: whole.size])
    assert not np.array_equal(single.epoch_indices(0), single.epoch_indices(1))
    whole_batches, halves_batches = list(single), [list(loader) for loader in pair]
    for step, batch in enumerate(whole_batches):
        joined = torch.cat([half[step].images for half in halves_batches])
        assert torch.equal(batch.images, joined)


def test_evaluation_sees_every_image_once_over_all_ranks(index: DatasetIndex) -> None:
    dataset = COCODataset(index, SIZE, LETTERBOX)
    for world_size in (1, 2, 3, 5):
        loaders = [
            create_loader(dataset, 4, 1, rank, world_size, shuffle=False, drop_last=False)
            for rank in range(world_size)
        ]
        seen = [batch.indices.tolist() for loader in loaders for batch in loader]
        assert sorted(sum(seen, [])) == list(range(22))
        assert [len(list(loader)) for loader in loaders] == [len(loader) for loader in loaders]


def test_batches_continue_from_any_step_as_if_never_interrupted(index: DatasetIndex) -> None:
    def stages() -> ConcatLoader:
        closing = COCODataset(index, SIZE, [*LETTERBOX, *MOSAIC[4:]], is_training=True, augment=True, seed=7)
        return ConcatLoader([create_loader(train_set(index), 6, 2), create_loader(closing, 6, 0, seed=9),
                             create_loader(closing, 6, 2)])  # fmt: skip

    loader = stages()
    assert (loader.epochs, loader.steps_per_epoch, len(loader)) == (4, 3, 12)
    assert [loader.stage_of(step) for step in range(0, 12, 3)] == [0, 0, 2, 2]
    whole = list(loader)
    assert len(whole) == 12
    for start in (1, 3, 5, 6, 7, 11, 12):
        rest = list(stages().batches(start))
        assert len(rest) == 12 - start
        for first, second in zip(whole[start:], rest, strict=True):
            assert_equal_batches(first, second)
    assert not torch.equal(whole[6].indices, whole[0].indices)
    with pytest.raises(YoloflowError, match="step 12"):
        loader.stage_of(12)


def test_stages_must_agree_on_steps(index: DatasetIndex) -> None:
    dataset = train_set(index)
    with pytest.raises(YoloflowError, match="same number"):
        ConcatLoader([create_loader(dataset, 4, 1), create_loader(dataset, 8, 1)])
    with pytest.raises(YoloflowError, match="no stage"):
        ConcatLoader([])


def test_a_data_set_smaller_than_one_step_is_refused_with_the_remedy(index: DatasetIndex) -> None:
    with pytest.raises(
        YoloflowError, match=r"22 images, one step takes 24 .* set per_batch_size to 11 or less"
    ):
        create_loader(train_set(index), 12, 1, 0, 2)
    assert create_loader(train_set(index), 100, 1, drop_last=False).steps_per_epoch == 1


def test_labels_are_padded_in_steps_of_16_and_never_cut() -> None:
    def sample(count: int) -> Sample:
        boxes = np.tile(np.array([[8, 16, 24, 32]], np.float32), (count, 1))
        return Sample(
            Canvas.of_image(np.zeros((32, 64, 3), np.uint8)), boxes, np.full(count, 2), [], 5, (32, 64)
        )

    batch = collate([sample(0), sample(3)])
    assert batch.labels.shape == (2, 16, 6)
    assert (batch.labels[0, :, 1] == -1).all()
    assert batch.labels[1, 2].tolist() == [1, 2, 0.25, 0.75, 0.25, 0.5]
    assert batch.labels[1, 3].tolist() == [1, -1, 0, 0, 0, 0]
    assert collate([sample(16)]).labels.shape[1] == 16
    assert collate([sample(17)]).labels.shape[1] == 32
    assert collate([sample(3)], max_labels=20).labels.shape[1] == 20
    with pytest.raises(YoloflowError, match=r"number 5 has 21 objects, max_labels is 20"):
        collate([sample(21)], max_labels=20)


def test_an_image_with_more_objects_than_rows_is_named_before_the_training(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2", "b": "0 .5 .5 .2 .2\n0 .2 .2 .1 .1"})
    settings = DataSettings(train_set=str(source), nc=1, max_labels=1)
    with pytest.raises(YoloflowError, match=r"max_labels=1: .*b\.png \(image number 1\) has 2 objects"):
        read_sets(settings, 64, with_val=False)
    assert read_sets(settings.model_copy(update={"max_labels": 2}), 64, with_val=False)


def test_images_are_rgb_planes_of_bytes() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    batch = collate(
        [Sample(Canvas.of_image(image), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), [], 0, (20, 30))]
    )
    assert batch.images.dtype == torch.uint8
    np.testing.assert_array_equal(batch.images[0].numpy(), image[..., ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_stops_loading_with_its_name_and_no_traceback(
    tmp_path: Path, workers: int
) -> None:
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"no image")
    dataset = COCODataset(toy_index([str(bad)], [(20, 30)], [np.zeros((0, 4))]), SIZE, LETTERBOX)
    loader = create_loader(dataset, 1, 1, drop_last=False, num_parallel_workers=workers)
    with pytest.raises(YoloflowError, match=r"broken\.jpg") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


def test_workers_end_with_the_error_of_a_batch_and_wait_for_no_garbage_collection(tmp_path: Path) -> None:
    bad = tmp_path / "broken.jpg"
    bad.write_bytes(b"no image")
    dataset = COCODataset(toy_index([str(bad)], [(20, 30)], [np.zeros((0, 4))]), SIZE, LETTERBOX)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(YoloflowError):
            list(create_loader(dataset, 1, 1, drop_last=False, num_parallel_workers=1))
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_an_image_that_changed_since_indexing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    dataset = COCODataset(toy_index([str(path)], [(20, 31)], [np.zeros((0, 4))]), SIZE, LETTERBOX)
    with pytest.raises(YoloflowError, match=r"one\.png: the image is 30 x 20, but was 31 x 20"):
        dataset.load(0)


def test_transforms_that_end_with_another_size_are_refused(index: DatasetIndex) -> None:
    with pytest.raises(YoloflowError, match="add letterbox"):
        COCODataset(index, SIZE, [{"func_name": "mosaic"}], is_training=True).get(0, 0)


def test_crowd_is_left_out_and_single_cls_makes_one_class(index: DatasetIndex) -> None:
    number = int(np.argmax(np.diff(index.box_offsets)))
    rows = slice(*index.box_offsets[number : number + 2].tolist())
    assert COCODataset(index, SIZE, LETTERBOX).load(number).classes.tolist() == index.classes[rows].tolist()
    single = COCODataset(index, SIZE, LETTERBOX, single_cls=True).load(number)
    assert single.classes.tolist() == [0] * len(single.boxes_xyxy)
    crowded = toy_index(
        index.image_paths.tolist(),
        [tuple(size) for size in index.sizes_hw.tolist()],
        np.split(index.boxes_xyxy, index.box_offsets[1:-1]),
    )
    crowded.is_crowd[rows] = True
    assert len(COCODataset(crowded, SIZE, LETTERBOX).load(number).classes) == 0


@pytest.mark.parametrize("size_hw", [(480, 640), (481, 643), (640, 480), (1200, 1600), (97, 96)])
def test_reduced_decoding_gives_the_same_image_but_for_interpolation(
    tmp_path: Path, size_hw: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8), (0, 0), 12)
    path = tmp_path / "one.jpg"
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    box = np.array([[10.0, 20.0, 60.0, 70.0]])
    index = toy_index([str(path)], [size_hw], [box])
    exact, fast = (COCODataset(index, SIZE, LETTERBOX, augment=augment).load(0) for augment in (False, True))
    assert exact.image.shape == fast.image.shape
    np.testing.assert_array_equal(exact.boxes_xyxy, fast.boxes_xyxy)
    assert np.abs(exact.image.astype(int) - fast.image).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_reduced_decoding_turns_the_image_as_its_exif_asks(tmp_path: Path, orientation: int) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8), (0, 0), 12)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(image).save(path, exif=exif, quality=95)
    size_hw = (320, 240) if orientation >= 5 else (240, 320)
    index = toy_index([str(path)], [size_hw], [np.zeros((0, 4))])
    exact, fast = (COCODataset(index, SIZE, LETTERBOX, augment=augment).load(0) for augment in (False, True))
    assert np.abs(exact.image.astype(int) - fast.image).mean() < 2


def test_a_cut_jpeg_is_never_filled_with_grey_silently(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    path = tmp_path / "cut.jpg"
    path.write_bytes(cv2.imencode(".jpg", image)[1].tobytes()[:20000])
    index = toy_index([str(path)], [(240, 320)], [np.zeros((0, 4))])
    with pytest.raises(YoloflowError, match=r"cut\.jpg"):
        COCODataset(index, SIZE, LETTERBOX, augment=True).load(0)


def check_letterbox_case(folder: Path, case: dict[str, np.ndarray], scaleup: bool) -> None:
    height, width = case["size_hw"].tolist()
    path = folder / "case.png"
    cv2.imwrite(str(path), case["image"])
    x, y, w, h = (case["boxes_xywhn"].astype(np.float64) * (width, height, width, height)).T
    boxes = np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)
    dataset = COCODataset(
        toy_index([str(path)], [(height, width)], [boxes]),
        320,
        [{"func_name": "letterbox", "scaleup": scaleup}],
    )
    sample = dataset.get(0, 0)
    for image, name in ((dataset.load(0).image, "after_first_resize"), (sample.image, "letterboxed")):
        if name in case:
            np.testing.assert_array_equal(image, case[name])
        else:
            assert hashlib.sha256(image.tobytes()).hexdigest() == str(case[f"{name}_sha256"])
    np.testing.assert_allclose(sample.boxes_xyxy, case["boxes_xyxy_px"], atol=1e-4)
    assert (sample.scale_xy[1], sample.scale_xy[0]) == tuple(case["hw_scale"])
    assert (sample.pad_xy[1], sample.pad_xy[0]) == tuple(case["hw_pad"])
    batch = collate([sample])
    np.testing.assert_allclose(batch.labels[0, : len(boxes), 2:], case["boxes_norm"], atol=1e-6)
    np.testing.assert_array_equal(batch.images[0, :, :8, :8].numpy() / np.float32(255), case["tensor_corner"])
    detected = torch.from_numpy(case["boxes_xyxy_px"])
    way_back = (batch.scales_xy[0], batch.pads_xy[0], batch.original_sizes_hw[0])
    reference = boxes_to_original(detected, *way_back, height_scale_only=True)
    np.testing.assert_allclose(reference.numpy(), case["scaled_back"], atol=1e-4)
    np.testing.assert_allclose(boxes_to_original(detected, *way_back).numpy(), boxes, atol=2e-4)


def test_letterbox_and_the_way_back_equal_the_reference(shared: Path, tmp_path: Path) -> None:
    figures = np.load(shared / "fixtures/common/letterbox.npz")
    meta = json.loads((shared / "fixtures/common/letterbox_meta.json").read_text())
    assert len(meta) == 10
    for name, settings in meta.items():
        case = {key.split("/")[1]: figures[key] for key in figures if key.startswith(f"{name}/")}
        case["size_hw"] = np.array((settings["h0"], settings["w0"]))
        check_letterbox_case(tmp_path, case, settings["scaleup"])


def test_letterbox_equals_the_committed_figures(tmp_path: Path) -> None:
    """A small case of the reference's; what it made of the image is kept as hashes."""
    figures = np.load(Path(__file__).parents[1] / "support/figures/letterbox_60x100.npz")
    check_letterbox_case(tmp_path, dict(figures), scaleup=False)


def test_boxes_to_original_undoes_a_letterbox_and_clips() -> None:
    scale, pad, size_hw = torch.tensor([0.5, 0.25]), torch.tensor([10.0, 20.0]), torch.tensor([100.0, 60.0])
    boxes = torch.tensor([[15.0, 22.5, 30.0, 40.0], [0.0, 0.0, 500.0, 500.0]])
    expected = torch.tensor([[10.0, 10.0, 40.0, 80.0], [0.0, 0.0, 60.0, 100.0]])
    assert torch.equal(boxes_to_original(boxes, scale, pad, size_hw), expected)
    only_height = boxes_to_original(boxes, scale, pad, size_hw, height_scale_only=True)
    assert only_height[0].tolist() == [20.0, 10.0, 60.0, 80.0]


def test_a_stage_loader_is_plain_data(index: DatasetIndex) -> None:
    loader = create_loader(train_set(index), 4, 2)
    assert isinstance(loader, StageLoader)
    assert (loader.steps_per_epoch, loader.epochs, len(loader)) == (5, 2, 10)
