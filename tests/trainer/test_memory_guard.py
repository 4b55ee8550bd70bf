"""What would run out of memory later does so before the first step, and the number that fits really fits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from tests.support.toy_loader import square_index
from tests.support.toy_training import BATCH, ToyLoader, everything, toy_step, toy_trainer
from yoloflow.config.reader import load_config
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import COCODataset
from yoloflow.data.loader import BatchExtent
from yoloflow.data.settings import BatchSettings, DataSettings
from yoloflow.data.stage_loaders import create_stage_loaders
from yoloflow.data.stages import Stage
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.runtime.memory import forget_peak_memory, peak_memory
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import YoloflowError
from yoloflow.train_step.step import StepSettings, TrainStep, create_train_step_fn
from yoloflow.trainer.guards.memory import compute_batch, forecast_batch, forecast_memory, largest_that_fits

CPU = torch.device("cpu")
ROWS = [
    [{"func_name": "mosaic", "prob": 1.0}, {"func_name": "random_perspective", "prob": 1.0}],
    [
        {"func_name": "mosaic", "prob": 1.0, "mosaic9_prob": 1.0},
        {"func_name": "random_perspective", "prob": 1.0},
    ],
    [
        {"func_name": "letterbox", "prob": 1.0},
        {"func_name": "mixup", "prob": 1.0, "pre_transform": [{"func_name": "letterbox", "prob": 1.0}]},
    ],
]


def test_a_forecast_leaves_no_trace_in_an_unfinished_update() -> None:
    step, batch = toy_step(StepSettings(accumulate=2)), ToyLoader().batch(0)
    step(batch.images, batch.labels)
    before = {name: tensor.clone() for name, tensor in everything(step).items()}
    draws = torch.get_rng_state()
    forecast_memory(step, cast(ConcatLoader, ToyLoader()), Ranks())
    after = everything(step)
    assert after.keys() == before.keys()
    assert any(name.startswith("unfinished.") for name in before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_training_with_forecast_ends_as_one_without(tmp_path: Path) -> None:
    with_it, without = toy_step(), toy_step()
    toy_trainer(tmp_path / "with", with_it, memory_forecast=True).train()
    toy_trainer(tmp_path / "without", without).train()
    expected = everything(without)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(with_it).items())


@pytest.mark.parametrize("rows", ROWS, ids=["mosaic", "nine", "mixup"])
def test_no_sample_has_more_objects_than_the_bound(rows: list[dict[str, object]], tmp_path: Path) -> None:
    index = square_index(tmp_path)
    full = np.repeat(np.arange(1, 7), 4).cumsum()  # 1 to 6 objects an image
    index.box_offsets = np.concatenate(([0], full))
    index.boxes_xyxy = np.tile([2.0, 3.0, 20.0, 30.0], (full[-1], 1))
    index.classes, index.is_crowd = np.zeros(full[-1], np.int64), np.zeros(full[-1], bool)
    index.areas = np.full(full[-1], 486.0)
    index.polygon_offsets = np.zeros(full[-1] + 1, np.int64)
    dataset = COCODataset(index, 32, rows, is_training=True, augment=True)
    counts = [len(dataset.get(epoch, number).classes) for epoch in range(20) for number in range(len(index))]
    assert dataset.most_objects / 2 < max(counts) <= dataset.most_objects


def test_the_largest_batch_is_that_of_all_stages_that_are_trained(tmp_path: Path) -> None:
    index = square_index(tmp_path)
    letterbox = [{"func_name": "letterbox", "prob": 1.0}]
    stages = [
        Stage(steps=6, transforms=ROWS[1], img_size=32),
        Stage(steps=6, transforms=letterbox, img_size=64, multi_scale=(0.5, 1.5)),
        Stage(steps=0, transforms=letterbox, img_size=640),
    ]
    loader = create_stage_loaders(
        index, stages, DataSettings(num_parallel_workers=0), BatchSettings(per_batch_size=4)
    )
    assert loader.largest_batch == BatchExtent(batch_size=4, side=96, label_rows=16)


@pytest.mark.parametrize("fits", [0, 1, 5, 15, 16])
def test_halving_finds_what_fits(fits: int) -> None:
    tried = []

    def compute(batch_size: int) -> None:
        tried.append(batch_size)
        if batch_size > fits:
            raise torch.OutOfMemoryError("out of memory")

    forecast = largest_that_fits(compute, 16, CPU)
    assert forecast.fits == fits
    assert tried[0] == 16
    assert len(tried) <= 6


def test_another_error_of_the_largest_batch_is_not_taken_for_want_of_memory() -> None:
    def compute(batch_size: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        largest_that_fits(compute, 16, CPU)


@pytest.mark.skipif(peak_memory() is None, reason="only Linux tells a process's memory")
def test_a_peak_is_seen_although_its_memory_is_free_again() -> None:
    forget_peak_memory()
    before = peak_memory()
    torch.ones(100_000_000, dtype=torch.uint8).sum()
    after = peak_memory()
    assert before is not None
    assert after is not None
    assert after - before > 90_000_000


def yolov8_step() -> TrainStep:
    config = load_config("quickstart", ["network.width_multiple=0.25"])
    network = create_model(config.network.model_name, config.network_table(), 3)
    settings, length = config.optimizer, config.run_length(4)
    return create_train_step_fn(
        network,
        create_loss(
            config.loss, anchors=config.network.anchors, stride=network.stride, nc=3, variant=config.variant
        ),
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
    )


@pytest.mark.training
@pytest.mark.skipif(peak_memory() is None, reason="only Linux tells a process's memory")
def test_the_line_through_two_small_batches_tells_what_a_large_one_needs_and_what_fits() -> None:
    compute = partial(compute_batch, yolov8_step(), BatchExtent(batch_size=64, side=160, label_rows=64))
    compute(8)  # what stays in memory after a first step
    forget_peak_memory()
    present = peak_memory()
    assert present is not None
    room = present + 300 * 2**20
    told = forecast_batch(compute, 64, CPU, room)
    assert told.peak is not None
    assert told.peak > room
    assert 8 < told.fits < 60

    def peak_of(batch_size: int) -> int:
        forget_peak_memory()
        compute(batch_size)
        return peak_memory() or 0

    assert peak_of(told.fits) < 1.1 * room
    assert peak_of(64) == pytest.approx(told.peak, rel=0.15)


@pytest.mark.training
@pytest.mark.skipif(peak_memory() is None, reason="only Linux tells a process's memory")
def test_a_batch_that_takes_little_of_the_memory_is_not_tried_whole() -> None:
    step, tried = yolov8_step(), []

    def compute(batch_size: int) -> None:
        tried.append(batch_size)
        compute_batch(step, BatchExtent(batch_size=32, side=160, label_rows=64), batch_size)

    told = forecast_batch(compute, 32, CPU, 2**40)
    assert tried == [4, 8]
    assert told.fits == 32
    assert told.peak is not None
    forget_peak_memory()
    compute(32)
    assert told.peak == pytest.approx(peak_memory(), rel=0.15)
    tried.clear()
    assert forecast_batch(compute, 32, CPU, int(1.5 * told.peak)).fits == 32
    assert tried == [4, 8, 32]


@dataclass
class Crowded:
    """What a forecast asks of a loader, whose caches leave no room."""

    largest_batch: BatchExtent
    cache_memory: int = 2**60


def test_a_batch_without_any_room_is_refused_plainly() -> None:
    loader = cast(ConcatLoader, Crowded(BatchExtent(4 * BATCH, 8, 2)))
    with pytest.raises(
        YoloflowError, match=r"cpu has too little memory .* not even one image fits; accumulate"
    ):
        forecast_memory(toy_step(), loader, Ranks())
