"""Stages: samplers, shapes and sizes of their batches, and the caches behind them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.toy_loader import toy_index
from yoloflow.data.caches.decoded_images import ImageCache, open_image_cache
from yoloflow.data.dataset import COCODataset, resized_sizes
from yoloflow.data.loader import create_loader
from yoloflow.data.samplers import create_sampler
from yoloflow.data.shapes import Rectangular, multi_scale_sides
from yoloflow.data.stage_loaders import LoaderOptions, create_stage_loaders
from yoloflow.data.stages import Stage, fit_stages
from yoloflow.data.transforms.rows import Row
from yoloflow.structures import DatasetIndex, YoloflowError

LETTERBOX: list[Row] = [{"func_name": "letterbox", "scaleup": True}]
MOSAIC: list[Row] = [{"func_name": "mosaic"}, {"func_name": "random_perspective", "scale": 0.5}]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    """24 images of many proportions; class 2 is on one of them, and every sixth has no object."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths, sizes, counts, classes = [], [], [], []
    for number in range(24):
        height, width = int(rng.integers(40, 200)), int(rng.integers(40, 200))
        path = folder / f"{number:02d}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        own = [] if number % 6 == 0 else [2] if number == 1 else [0] * (number % 3) + [1]
        paths.append(str(path))
        sizes.append((height, width))
        counts.append(len(own))
        classes += own
    boxes = [np.tile(np.array([[5.0, 6.0, 30.0, 35.0]]), (count, 1)) for count in counts]
    return toy_index(paths, sizes, boxes, classes)


OPTIONS = LoaderOptions(batch_size=4, seed=3, cache="none")


def test_every_stage_has_its_own_size_scale_and_shape(index: DatasetIndex) -> None:
    stages = [
        Stage(6, MOSAIC, 64),
        Stage(6, LETTERBOX, 96, multi_scale=(0.5, 1.5)),
        Stage(6, LETTERBOX, 128, rect=True),
    ]
    loader = create_stage_loaders(index, stages, OPTIONS)
    shapes = [tuple(batch.images.shape[2:]) for batch in loader.batches()]
    assert shapes[:6] == [(64, 64)] * 6
    assert all(height == width and height in (64, 96, 128) for height, width in shapes[6:12])
    assert len(set(shapes[6:12])) > 1
    assert all(max(shape) == 128 and side % 32 == 0 for shape in shapes[12:] for side in shape)
    assert any(height != width for height, width in shapes[12:])
    assert [loader.stage_of(step) for step in (0, 5, 6, 12, 17)] == [0, 0, 1, 2, 2]


def test_a_stage_may_begin_within_an_epoch_and_resume_anywhere(index: DatasetIndex) -> None:
    stages = [Stage(4, MOSAIC, 64), Stage(8, LETTERBOX, 96, multi_scale=(0.5, 1.5))]
    whole = list(create_stage_loaders(index, stages, OPTIONS).batches())
    seen = np.concatenate([batch.indices.numpy() for batch in whole[:6]])
    assert sorted(seen.tolist()) == list(range(24))
    for start in (1, 4, 7, 11):
        rest = create_stage_loaders(index, stages, OPTIONS).batches(start)
        for first, second in zip(whole[start:], rest, strict=True):
            assert np.array_equal(first.images.numpy(), second.images.numpy())


def test_ranks_share_the_shapes_and_images_of_the_global_batch(index: DatasetIndex) -> None:
    for stage in (Stage(6, LETTERBOX, 96, rect=True), Stage(6, LETTERBOX, 96, multi_scale=(0.5, 1.5))):
        whole = create_stage_loaders(index, [stage], OPTIONS).loaders[0].epoch_batches(2)
        halves = [
            create_stage_loaders(index, [stage], replace(OPTIONS, batch_size=2, rank=rank, world_size=2))
            .loaders[0]
            .epoch_batches(2)
            for rank in range(2)
        ]
        for both, first, second in zip(whole, *halves, strict=True):
            assert both.shape_hw == first.shape_hw == second.shape_hw
            assert both.indices == first.indices + second.indices


def test_boxes_fit_their_images_in_rectangles(index: DatasetIndex) -> None:
    loader = create_stage_loaders(index, [Stage(6, LETTERBOX, 96, rect=True)], OPTIONS)
    for batch in loader.batches():
        for row, position in enumerate(batch.indices.tolist()):
            labels = batch.labels[row][batch.labels[row, :, 1] >= 0]
            first = index.box_offsets[position]
            for label, box in zip(labels.numpy(), index.boxes_xyxy[first:], strict=False):
                size = np.array(batch.images.shape[:1:-1], np.float64)
                low = (label[2:4] - label[4:6] / 2) * size
                expected = box[:2] * batch.scales_xy[row].numpy() + batch.pads_xy[row].numpy()
                np.testing.assert_allclose(low, expected, atol=1e-2)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_image_is_evaluated_in_the_same_rectangle_whatever_the_batch(
    index: DatasetIndex, batch_size: int, world_size: int
) -> None:
    dataset = COCODataset(index, 96, [{"func_name": "letterbox"}])
    shapes = Rectangular(resized_sizes(index.sizes_hw, 96), 32, shuffle=False)
    found: dict[int, tuple[int, ...]] = {}
    for rank in range(world_size):
        loader = create_loader(dataset, batch_size, 1, rank, world_size, shuffle=False, drop_last=False)
        for batch in replace(loader, shapes=shapes):
            for position in batch.indices.tolist():
                assert position not in found
                found[position] = tuple(batch.images.shape[2:])
    needed = -(-resized_sizes(index.sizes_hw, 96) // 32) * 32
    assert found == {position: tuple(size) for position, size in enumerate(needed.tolist())}


def test_samplers_favour_what_they_name_and_stay_pure(index: DatasetIndex) -> None:
    for name in ("uniform", "class_aware", "repeat_factor", "image_weights"):
        sampler = create_sampler(name, index, 5)
        assert len(sampler(0)) == 24
        assert np.array_equal(sampler(3), create_sampler(name, index, 5)(3))
        assert not np.array_equal(sampler(3), sampler(4))
    drawn = np.concatenate([create_sampler("class_aware", index, 5)(epoch) for epoch in range(400)])
    share = np.bincount(drawn, minlength=24) / len(drawn)
    # A third of the 20 images with objects shows the rare class; the four without come as often as before.
    assert abs(share[1] - 20 / 24 / 3) < 0.01
    assert np.abs(share[::6] - 1 / 24).max() < 0.005
    assert sorted(create_sampler("uniform", index, 5)(9).tolist()) == list(range(24))
    with pytest.raises(YoloflowError, match="did you mean class_aware"):
        create_sampler("class_awar", index, 0)  # type: ignore[arg-type]


def test_repeat_factors_follow_the_formula(index: DatasetIndex) -> None:
    many = replace(index, classes=np.where(index.classes == 2, 2, 0))
    sampler = create_sampler("repeat_factor", many, 1)
    assert sorted(sampler(0).tolist()) == list(range(24))  # nothing is as rare as one image in a thousand
    names = np.tile(index.image_paths, 200)
    counts = np.tile(np.diff(index.box_offsets), 200)
    classes = np.zeros(counts.sum(), np.int64)
    classes[0] = 1
    large = replace(
        index,
        image_paths=names,
        box_offsets=np.concatenate(([0], np.cumsum(counts))),
        classes=classes,
        is_crowd=np.zeros(len(classes), bool),
        names=["common", "rare"],
    )
    drawn = [int((create_sampler("repeat_factor", large, 1)(epoch) == 1).sum()) for epoch in range(60)]
    assert abs(np.mean(drawn) - np.sqrt(0.001 * 4800)) < 0.35


def test_impossible_scales_and_lengths_are_refused() -> None:
    assert multi_scale_sides(640, (0.5, 1.5), 32) == tuple(range(320, 961, 32))
    with pytest.raises(YoloflowError, match="no multiple of the stride 32 lies between 33.28 and 60.16"):
        multi_scale_sides(64, (0.52, 0.94), 32)
    assert fit_stages([100, 20, 30], 90, "steps") == [40, 20, 30]
    with pytest.raises(YoloflowError, match="stage_steps"):
        fit_stages([0], 90, "steps")


def test_a_disk_cache_is_found_again_and_gives_the_same_images(index: DatasetIndex, tmp_path: Path) -> None:
    sizes_hw = resized_sizes(index.sizes_hw, 96)

    def dataset() -> COCODataset:
        cache = open_image_cache("disk", index, sizes_hw, "linear", tmp_path)
        assert cache is not None
        return COCODataset(index, 96, MOSAIC, is_training=True, augment=True, cache=cache)

    plain = COCODataset(index, 96, MOSAIC, is_training=True, augment=True)
    first = [dataset().get(1, number).image for number in range(24)]
    (file,) = (tmp_path / "images").iterdir()
    again = dataset()
    assert again.cache is not None
    assert again.cache.get(5) is not None
    for number in range(24):
        assert np.array_equal(plain.get(1, number).image, first[number])
        assert np.array_equal(plain.get(1, number).image, again.get(1, number).image)
    assert file.stat().st_size == 24 * 4 + (sizes_hw.prod(1) * 3).sum()


def test_a_changed_image_or_setting_gets_another_cache_file(index: DatasetIndex, tmp_path: Path) -> None:
    paths = []
    for number, path in enumerate(index.image_paths[:4].tolist()):
        copy = tmp_path / f"{number}.png"
        copy.write_bytes(Path(path).read_bytes())
        paths.append(str(copy))
    small = replace(index, image_paths=np.array(paths), sizes_hw=index.sizes_hw[:4])
    sizes_hw = resized_sizes(small.sizes_hw, 96)
    folder = tmp_path / "cache"
    open_image_cache("disk", small, sizes_hw, "linear", folder)
    before = os.stat(paths[0])
    Path(paths[0]).write_bytes(Path(paths[1]).read_bytes()[: before.st_size].ljust(before.st_size, b"\0"))
    os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    open_image_cache("disk", small, sizes_hw, "linear", folder)
    open_image_cache("disk", small, sizes_hw, "area", folder)
    assert len(list((folder / "images").iterdir())) == 3


def test_a_damaged_image_in_a_cache_file_is_decoded_again(tmp_path: Path) -> None:
    sizes_hw = np.array([[4, 5], [6, 7]], np.int64)
    path = tmp_path / "x.pixels"
    images = [np.full((*size, 3), 7 + number, np.uint8) for number, size in enumerate(sizes_hw.tolist())]
    cache = ImageCache(sizes_hw, path)
    for number, image in enumerate(images):
        cache.put(number, image)
    del cache
    data = bytearray(path.read_bytes())
    data[8 + 3] ^= 1
    path.write_bytes(data)
    damaged = ImageCache(sizes_hw, path)
    assert damaged.get(0) is None
    found = damaged.get(1)
    assert found is not None
    assert np.array_equal(found, images[1])


def test_a_cache_that_does_not_fit_is_refused_or_left_out(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = np.array([[2**20, 2**20]] * 24, np.int64)
    for storage in ("ram", "disk"):
        with pytest.raises(YoloflowError, match="cache=none"):
            open_image_cache(storage, index, huge, "linear", tmp_path)
    assert open_image_cache("auto", index, huge, "linear") is None
    assert open_image_cache("auto", index, resized_sizes(index.sizes_hw, 96), "linear") is not None
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(YoloflowError, match="cannot be written"):
        open_image_cache("disk", index, index.sizes_hw, "linear", tmp_path / "file")
