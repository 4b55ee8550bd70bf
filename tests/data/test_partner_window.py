"""Partners of mosaics from a window of the order: the same whoever loads, each image decoded once."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.data_sets import write_picture
from tests.support.toy_loader import assert_equal_batches, toy_index
from yoloflow.data.caches.recent_images import RecentImages
from yoloflow.data.dataset import COCODataset
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.partner_window import WINDOW_IMAGES, WindowPlan
from yoloflow.data.samplers import UniformSampler
from yoloflow.data.settings import BatchSettings, DataSettings
from yoloflow.data.shapes import MultiScale
from yoloflow.data.stage_loaders import choose_partners, create_stage_loaders
from yoloflow.data.stages import Stage
from yoloflow.data.transforms.rows import Row
from yoloflow.runtime import memory
from yoloflow.structures import DatasetIndex, Uint8Array

SIDE, COUNT = 32, 146
MOSAIC: list[Row] = [
    {"func_name": "mosaic"},
    {"func_name": "random_perspective", "scale": 0.5},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    folder = tmp_path_factory.mktemp("images")
    sizes = [(SIDE, SIDE + 8 * (number % 3)) for number in range(COUNT)]
    paths = [str(write_picture(folder / f"{n}.png", w, h)) for n, (h, w) in enumerate(sizes)]
    return toy_index(paths, sizes, [np.array([[2.0, 3.0, 20.0, 30.0]])] * COUNT)


def window_loader(index: DatasetIndex, batch_size: int = 4, epochs: int = 2, **more: Any) -> StageLoader:
    dataset = COCODataset(index, SIDE, MOSAIC, is_training=True, augment=True, seed=7)
    return replace(create_loader(dataset, batch_size, epochs, **more), has_windows=True)


def count_decodings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts the images that are decoded, in processes forked from this one too."""
    count = multiprocessing.Value("l", 0)
    read = COCODataset._read

    def counted(dataset: COCODataset, number: int) -> Uint8Array:
        with count.get_lock():
            count.value += 1
        return read(dataset, number)

    monkeypatch.setattr(COCODataset, "_read", counted)
    return count


@pytest.mark.parametrize("workers", [2, *(pytest.param(n, marks=pytest.mark.process) for n in (1, 3, 4))])
def test_batches_are_the_same_with_any_number_of_workers(index: DatasetIndex, workers: int) -> None:
    plain = list(window_loader(index))
    assert len(plain) == 2 * 36
    assert not torch.equal(
        plain[0].images, next(iter(replace(window_loader(index), has_windows=False))).images
    )
    for first, second in zip(plain, window_loader(index, num_parallel_workers=workers), strict=True):
        assert_equal_batches(first, second)


def test_batches_continue_from_any_step(index: DatasetIndex) -> None:
    whole = list(window_loader(index))
    for step in (1, 37):
        for first, second in zip(whole[step:], window_loader(index).batches(step), strict=True):
            assert_equal_batches(first, second)


def test_the_global_batch_is_the_same_whatever_the_number_of_ranks(index: DatasetIndex) -> None:
    single = list(window_loader(index, 48, 1))
    for world_size in (2, 4):
        batch_size = 48 // world_size
        ranks = [
            list(window_loader(index, batch_size, 1, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        for step, batch in enumerate(single):
            assert torch.equal(batch.images, torch.cat([one[step].images for one in ranks]))


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (4, 1), (16, 4), (8, 4), (10, 3), (500, 1)])
def test_a_sample_has_all_of_its_lane_to_choose_from_but_itself(batch_size: int, world_size: int) -> None:
    total = batch_size * world_size
    groups = np.arange(200 * total).reshape(200, total)
    for rank in range(world_size):
        plan = WindowPlan(total, batch_size, rank)
        for step in (0, 1, 150):
            window = plan.window(groups, 0, step)
            for number in {0, batch_size // 2, batch_size - 1}:
                nearby = window.of_sample(number)
                own = groups[step, rank * batch_size + number]
                assert own not in nearby.images
                assert len(set(nearby.images)) == len(nearby) >= WINDOW_IMAGES - 1
                assert nearby.images.min() >= 0
                # Numbers of places are as unique as images, and the same in all batches of the rank.
                assert len({*nearby.places, nearby.own_place}) == len(nearby) + 1
                row = np.flatnonzero(window.images.reshape(-1) == own)[0]
                assert nearby.own_place == window.first_step * window.images.shape[1] + row


def test_each_image_is_decoded_once(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    count = count_decodings(monkeypatch)
    loader = window_loader(index)
    assert sum(len(batch.indices) for batch in loader) == 288
    # At the beginning the window looks ahead, and these images are kept until their turn comes.
    assert count.value == 288
    count.value = 0
    # A run that goes on decodes what is used of the window before its first batch once more.
    assert len(list(loader.batches(52))) == 20
    assert 0.8 * (80 + WINDOW_IMAGES) < count.value < 80 + WINDOW_IMAGES


@pytest.mark.process
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_worker_processes_share_what_they_decode(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    count = count_decodings(monkeypatch)
    for _ in window_loader(index, 4, 4, num_parallel_workers=workers):
        pass
    assert 576 <= count.value < 700


def uses_of_images(num_images: int, total: int, epochs: int) -> tuple[np.ndarray, Counter[tuple[int, int]]]:
    """Counts how often each image is drawn as one of three partners, and each pair of images."""
    uses, pairs = np.zeros(num_images), Counter[tuple[int, int]]()
    sampler, plan = UniformSampler(num_images, 3), WindowPlan(total, total, 0)
    groups = np.concatenate([sampler(epoch).reshape(-1, total) for epoch in range(epochs)])
    for step in range(len(groups)):
        window = plan.window(groups, 0, step)
        for number in range(total):
            nearby = window.of_sample(number)
            drawn = nearby.images[np.random.default_rng((step, number)).integers(len(nearby), size=3)]
            np.add.at(uses, drawn, 1)
            pairs.update((int(groups[step, number]), int(other)) for other in drawn)
    return uses, pairs


def test_images_are_used_alike_and_meet_others_each_epoch() -> None:
    epochs, count = 4, 640
    uses, pairs = uses_of_images(count, 16, epochs)
    mean = 3 * epochs
    assert uses.sum() == mean * count
    # As drawn from the whole set: the number of uses scatters as Poisson's; the bound is five deviations.
    assert abs(uses.var() / mean - 1) < 5 * np.sqrt(2 / count)
    assert uses.min() > 0
    # 7,680 pairs of 408,960, of which the same come in one mosaic or in two epochs by chance alone.
    repeated = sum(times - 1 for times in pairs.values())
    by_window = 3 * epochs * count / (WINDOW_IMAGES - 1)
    by_chance = (3 * epochs * count) ** 2 / 2 / (count * (count - 1))
    assert repeated < 1.6 * (by_window + by_chance)


def test_a_small_set_is_all_in_its_window() -> None:
    nearby = WindowPlan(4, 4, 0).window(np.arange(160).reshape(40, 4) % 24, 0, 35).of_sample(0)
    assert set(nearby.images.tolist()) == set(range(24))


def test_batches_of_many_sizes_have_windows_too(index: DatasetIndex) -> None:
    def loader(workers: int) -> StageLoader:
        loaded = window_loader(index, epochs=1, num_parallel_workers=workers)
        return replace(loaded, shapes=MultiScale((16, 24, 32)))

    for first, second in zip(loader(0), loader(2), strict=True):
        assert_equal_batches(first, second)


def test_recent_images_make_room_for_later_ones() -> None:
    recent = RecentImages(3, 12)
    image = np.full((2, 2, 3), 7, np.uint8)
    assert recent.get(4, (2, 2)) is None
    recent.put(4, image)
    found = recent.get(4, (2, 2))
    assert found is not None
    np.testing.assert_array_equal(found, image)
    with pytest.raises(ValueError, match="read-only"):
        found[:] = 0
    recent.put(7, image[:1])
    assert recent.get(4, (2, 2)) is None
    assert pickle.loads(pickle.dumps(recent)).get(7, (1, 2)) is None


STAGES = [Stage(36, MOSAIC, 64), Stage(36, [{"func_name": "letterbox"}], 128)]


def test_auto_is_a_window_where_memory_does_not_hold_the_images(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(**settings: Any) -> str:
        return choose_partners(index, STAGES, DataSettings(**settings), 32)

    assert chosen(cache="ram") == "anywhere"
    assert chosen(cache="none") == chosen(cache="disk") == "window"
    assert chosen(cache="none", mosaic_partners="anywhere") == "anywhere"
    assert chosen(cache="ram", mosaic_partners="window") == "window"
    assert choose_partners(index, STAGES[1:], DataSettings(cache="none"), 32) == "anywhere"
    assert chosen(cache="auto") == "anywhere"
    monkeypatch.setattr(memory, "_kilobytes", lambda file, name: 1000)
    assert chosen(cache="auto") == "window"


def test_the_log_says_what_a_window_takes(index: DatasetIndex, caplog: pytest.LogCaptureFixture) -> None:
    settings = DataSettings(cache="none", num_parallel_workers=0)
    with caplog.at_level("INFO", "yoloflow"):
        loader = create_stage_loaders(index, STAGES, settings, BatchSettings(per_batch_size=4))
    assert [stage.has_windows for stage in loader.loaders] == [True, False]
    assert "from the last 128 images of the epoch's order" in caplog.text
    # 32 batches of the window and the one that is made.
    assert loader.cache_memory == 33 * 4 * 64 * 64 * 3


def test_images_decoded_in_full_differ_only_where_the_decoder_would_shrink(tmp_path: Path) -> None:
    large, small = (write_picture(tmp_path / f"{side}.jpg", side, side) for side in (128, 80))
    index = toy_index([str(large), str(small)], [(128, 128), (80, 80)], [np.zeros((0, 4))] * 2)

    def images(decode_reduced: bool) -> list[Uint8Array]:
        settings = DataSettings(cache="none", num_parallel_workers=0, decode_reduced=decode_reduced)
        stages = [replace(STAGES[0], steps=1)]
        loader = create_stage_loaders(index, stages, settings, BatchSettings(per_batch_size=2))
        return [loader.loaders[0].dataset.load(number).image for number in range(2)]

    reduced, full = images(True), images(False)
    assert not np.array_equal(reduced[0], full[0])
    assert np.abs(reduced[0].astype(int) - full[0]).mean() < 20
    np.testing.assert_array_equal(reduced[1], full[1])
