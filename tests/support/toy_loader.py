"""Small indexes and loaders whose content does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.data_sets import write_picture, write_yolo
from yoloflow.data.dataset import COCODataset
from yoloflow.data.index import read_index
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.structures import Batch, DatasetIndex

SIDE, COUNT = 32, 24


def toy_index(
    paths: Sequence[str],
    sizes_hw: Sequence[tuple[int, int]],
    boxes: Sequence[NDArray[np.float64]],
    classes: Sequence[int] | None = None,
) -> DatasetIndex:
    """Three classes in turn unless they are given; no polygons and no crowd."""
    counts = [len(rows) for rows in boxes]
    total = sum(counts)
    flat = np.concatenate(boxes).astype(np.float64) if total else np.zeros((0, 4))
    return DatasetIndex(
        image_paths=np.array(paths),
        image_ids=np.arange(1, len(paths) + 1),
        sizes_hw=np.array(sizes_hw, np.int64),
        box_offsets=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        boxes_xyxy=flat,
        classes=np.arange(total) % 3 if classes is None else np.array(classes, np.int64),
        is_crowd=np.zeros(total, bool),
        areas=(flat[:, 2:] - flat[:, :2]).prod(1),
        polygon_offsets=np.zeros(total + 1, np.int64),
        polygon_points=np.zeros((0, 2), np.float32),
        names=["a", "b", "c"],
        category_ids=np.arange(1, 4),
        num_images_listed=len(paths),
    )


def square_index(folder: Path) -> DatasetIndex:
    """Square images 0.png, 1.png ... with one object each."""
    paths = [str(write_picture(folder / f"{number}.png", SIDE, SIDE)) for number in range(COUNT)]
    return toy_index(paths, [(SIDE, SIDE)] * COUNT, [np.array([[2.0, 3.0, 20.0, 30.0]])] * COUNT)


def toy_loader(folder: Path, workers: int = 2, timeout_s: float = 0) -> StageLoader:
    """Three epochs of `square_index` in batches of 4."""
    rows = [{"func_name": "fliplr", "prob": 0.5}]
    dataset = COCODataset(square_index(folder), SIDE, rows, True)
    return replace(create_loader(dataset, 4, 3, num_parallel_workers=workers), timeout_s=timeout_s)


def mosaic_loader(root: Path, workers: int) -> StageLoader:
    """Three epochs of 24 images in batches of 4, as mosaics of 64 pixels."""
    labels: dict[str, str | bytes | None] = {f"{number:02}": "0 .5 .5 .2 .2\n" for number in range(COUNT)}
    index = read_index(str(write_yolo(root, labels)), nc=1)
    rows = [{"func_name": "mosaic"}, {"func_name": "random_perspective"}]
    return create_loader(
        COCODataset(index, 64, rows, is_training=True), 4, epoch_size=3, num_parallel_workers=workers
    )


def assert_equal_batches(first: Batch, second: Batch) -> None:
    """Every tensor of two batches is the same, and they have the same ones."""
    for name in first.__dataclass_fields__:
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None), name
        assert one is None or torch.equal(one, other), name
