"""Masks of samples become those of batches, whoever loads them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.data_sets import annotation, write_coco
from tests.support.painted_objects import PaintedObjects
from tests.support.toy_loader import assert_equal_batches
from yoloflow.data.collate import collate
from yoloflow.data.dataset import COCODataset
from yoloflow.data.index import read_index
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.settings import BatchSettings, DataSettings
from yoloflow.data.stage_loaders import create_stage_loaders
from yoloflow.data.stages import Stage
from yoloflow.data.transforms import TransformContext, create_transforms
from yoloflow.data.transforms.rows import Row
from yoloflow.structures import Batch, DatasetIndex

SIZE = 64
MASKS: Row = {"func_name": "segment_poly2mask"}
ROWS: list[Row] = [
    {"func_name": "mosaic"},
    {"func_name": "copy_paste", "prob": 0.5},
    {"func_name": "random_perspective", "degrees": 10.0},
    {"func_name": "fliplr", "prob": 0.5},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    outline = [[10, 10, 30, 12, 28, 40, 12, 38], [40, 50, 60, 55, 45, 70]]
    rows = [
        annotation(10 * number, bbox=[10, 10, 50, 60], segmentation=outline) for number in range(1, 13, 2)
    ]
    return read_index(str(write_coco(tmp_path_factory.mktemp("set"), rows, num_images=12)))


def loader_of(index: DatasetIndex, workers: int, **row: Any) -> StageLoader:
    dataset = COCODataset(index, SIZE, [*ROWS, {**MASKS, **row}], is_training=True, seed=3)
    return create_loader(dataset, 4, 2, num_parallel_workers=workers, seed=1)


@pytest.mark.parametrize("overlap", [True, False])
def test_worker_processes_send_the_same_masks(index: DatasetIndex, overlap: bool) -> None:
    plain = list(loader_of(index, 0, mask_overlap=overlap))
    for first, second in zip(plain, loader_of(index, 2, mask_overlap=overlap), strict=True):
        assert first.masks is not None
        assert first.masks.dtype == torch.uint8
        assert first.masks.shape == ((4, 16, 16) if overlap else (4, first.labels.shape[1], 16, 16))
        assert_equal_batches(first, second)
    assert any(batch.masks is not None and batch.masks.any() for batch in plain)


@pytest.mark.process
def test_the_masks_of_a_lost_worker_are_made_again(index: DatasetIndex) -> None:
    plain = list(loader_of(index, 0))
    batches = iter(loader_of(index, 2))
    found = [next(batches)]
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    for first, second in zip(plain, [*found, *batches], strict=True):
        assert_equal_batches(first, second)


def test_each_rank_has_the_masks_of_its_images(index: DatasetIndex) -> None:
    dataset = loader_of(index, 0).dataset
    whole = next(iter(create_loader(dataset, 4, seed=1)))
    for rank in range(2):
        half = next(iter(create_loader(dataset, 2, 1, rank, 2, seed=1)))
        assert whole.masks is not None
        assert half.masks is not None
        assert half.indices.tolist() == whole.indices[2 * rank : 2 * rank + 2].tolist()
        assert torch.equal(half.masks, whole.masks[2 * rank : 2 * rank + 2])


def test_masks_have_the_shape_of_their_batch(index: DatasetIndex) -> None:
    rows: list[Row] = [{"func_name": "letterbox", "scaleup": True}, MASKS]
    stages = [Stage(6, rows, SIZE, multi_scale=(0.5, 1.5)), Stage(3, rows, SIZE, rect=True)]
    settings = DataSettings(num_parallel_workers=0, cache="none")
    loader = create_stage_loaders(index, stages, settings, BatchSettings(per_batch_size=4), stride=32, seed=0)
    found = set()
    for batch in loader:
        height, width = batch.images.shape[2:]
        assert batch.masks is not None
        assert batch.masks.shape == (4, height // 4, width // 4)
        found.add((height, width))
    assert len(found) > 1


def test_rows_of_labels_are_those_that_the_masks_name() -> None:
    source = PaintedObjects()
    pipeline = create_transforms([{"func_name": "mosaic"}, {"func_name": "random_perspective"}, MASKS])
    samples = [
        pipeline(source.load(seed), TransformContext(np.random.default_rng(seed), source, 160))
        for seed in range(4)
    ]
    batch = collate(samples)
    assert batch.masks is not None
    for masks, labels in zip(batch.masks.numpy(), batch.labels.numpy(), strict=True):
        for number in np.unique(masks[masks > 0]):
            rows, columns = np.nonzero(masks == number)
            x, y = (columns + 0.5) / 40, (rows + 0.5) / 40
            _, class_number, cx, cy, w, h = labels[number - 1]
            assert class_number >= 0
            assert (np.abs(x - cx) <= w / 2 + 1 / 40).all()
            assert (np.abs(y - cy) <= h / 2 + 1 / 40).all()


def test_many_objects_make_the_masks_of_their_batch_wider() -> None:
    boxes = np.array([[x, y, x + 4, y + 4] for x in range(0, 80, 4) for y in range(0, 80, 4)], np.float32)
    source = PaintedObjects()
    full = replace(
        source.load(0),
        boxes_xyxy=boxes,
        classes=np.arange(400),
        polygons=[np.zeros((0, 2), np.float32)] * 400,
    )
    empty = replace(full, boxes_xyxy=boxes[:0], classes=np.arange(0), polygons=[])
    pipeline = create_transforms([{"func_name": "letterbox", "scaleup": True}, MASKS])
    context = TransformContext(np.random.default_rng(0), source, 160)
    batch: Batch = collate([pipeline(full, context), pipeline(empty, context)])
    assert batch.masks is not None
    assert batch.masks.dtype == torch.int32
    assert int(batch.masks.max()) > 255
    assert not batch.masks[1].any()
