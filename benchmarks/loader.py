"""Images per second of the training loader: `python benchmarks/loader.py [--data FOLDER]`.

The chain is stage 1 of the small YOLOv8 recipes (mosaic, random_perspective, the mild colour ops,
hsv_augment, fliplr), batch 16; `outlines` is the same with an outline of 40 points for each box, `masks`
draws them last (segment_poly2mask). Without a cache partners of mosaics come from a window of the order, with
--anywhere from the whole set. Without --data it makes JPEGs of 640 x 480 that are about as hard to
decode as photographs; with it, it takes every .jpg under FOLDER (boxes at random). Each figure is the median
of --repeats runs, the settings interleaved, so that a busy neighbour hits all of them alike. Each --peer is a
shell command that measures another program; it runs once a round too, and its last line is shown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import cv2
import numpy as np

from yoloflow.data.caches.decoded_images import Storage
from yoloflow.data.dataset import COCODataset
from yoloflow.data.loader import create_loader
from yoloflow.runtime.allocator import keep_freed_memory
from yoloflow.structures import DatasetIndex

TRAIN: Sequence[Mapping[str, object]] = [
    {"func_name": "mosaic", "prob": 1.0},
    {"func_name": "random_perspective", "degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0},
    {"func_name": "albumentations"},
    {"func_name": "hsv_augment", "hgain": 0.015, "sgain": 0.7, "vgain": 0.4},
    {"func_name": "fliplr", "prob": 0.5},
]
MASKS: Sequence[Mapping[str, object]] = [*TRAIN, {"func_name": "segment_poly2mask"}]
TEST: Sequence[Mapping[str, object]] = [{"func_name": "letterbox", "scaleup": False}]
BATCH = 16
MODES = {"train": TRAIN, "outlines": TRAIN, "masks": MASKS, "test": TEST}
OUTLINE_POINTS = 40


def draw_pictures(folder: Path, count: int = 512) -> list[Path]:
    """Noise of several scales plus fine grain, 640 x 480, quality 92."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        picture = np.zeros((480, 640, 3), np.float32)
        for cells, strength in ((4, 60), (16, 35), (64, 20)):
            noise = rng.normal(0, strength, (cells, cells * 4 // 3, 3)).astype(np.float32)
            picture += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
        picture += 120 + rng.normal(0, 8, picture.shape)
        path = folder / f"{number:04d}.jpg"
        cv2.imwrite(str(path), np.clip(picture, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 92])
        paths.append(path)
    return paths


def index_of(paths: list[Path], boxes_per_image: int = 5) -> DatasetIndex:
    """An index with random boxes."""
    rng = np.random.default_rng(1)
    images = (cv2.imread(str(path)) for path in paths)
    sizes = np.array([image.shape[:2] for image in images if image is not None], np.int64)
    count = len(paths) * boxes_per_image
    low = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate((low, low + rng.uniform(0.05, 0.4, (count, 2))), 1)
    boxes *= np.repeat(sizes[:, [1, 0, 1, 0]], boxes_per_image, 0)
    return DatasetIndex(
        image_paths=np.array([str(path) for path in paths]),
        image_ids=np.arange(len(paths)),
        sizes_hw=sizes,
        box_offsets=np.arange(len(paths) + 1) * boxes_per_image,
        boxes_xyxy=boxes,
        classes=rng.integers(0, 4, count),
        is_crowd=np.zeros(count, bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        polygon_offsets=np.zeros(count + 1, np.int64),
        polygon_points=np.zeros((0, 2), np.float32),
        names=["a", "b", "c", "d"],
        category_ids=np.arange(1, 5),
        num_images_listed=len(paths),
    )


def with_outlines(index: DatasetIndex) -> DatasetIndex:
    """The index with an ellipse in each box."""
    angles = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1) / 2 + 0.5
    low, high = index.boxes_xyxy[:, None, :2], index.boxes_xyxy[:, None, 2:]
    points = (low + circle * (high - low)).reshape(-1, 2).astype(np.float32)
    offsets = np.arange(len(index.boxes_xyxy) + 1) * OUTLINE_POINTS
    return replace(index, polygon_offsets=offsets, polygon_points=points)


def images_per_second(
    dataset: COCODataset, workers: int, seconds: float, training: bool, anywhere: bool
) -> float:
    """Steady rate after the first batches (and, with a cache, after it is full)."""
    if dataset.cache:
        for number in range(len(dataset)):
            dataset.load(number)
    loader = create_loader(
        dataset, BATCH, 1000, shuffle=training, drop_last=training, num_parallel_workers=workers
    )
    batches = replace(loader, has_windows=training and not anywhere and not dataset.cache).batches()
    for _ in islice(batches, 2 + 2 * workers):
        pass
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += len(next(batches).indices)
    rate = count / (time.perf_counter() - start)
    del batches  # ends the worker processes
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of .jpg files")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--modes", choices=MODES, nargs="+", default=["train", "test"])
    parser.add_argument("--caches", choices=("none", "ram"), nargs="+", default=["none", "ram"])
    parser.add_argument("--anywhere", action="store_true", help="partners from the whole set in any case")
    parser.add_argument("--peer", action="append", default=[], help="command to run after each round")
    arguments = parser.parse_args()
    keep_freed_memory()  # as a training does
    with tempfile.TemporaryDirectory() as folder:
        index = index_of(
            sorted(arguments.data.rglob("*.jpg")) if arguments.data else draw_pictures(Path(folder))
        )
        rates: dict[tuple[str, int, str, int], list[float]] = defaultdict(list)
        storages: list[Storage] = arguments.caches
        settings = list(product(arguments.modes, arguments.sizes, storages, arguments.workers))
        outlined = with_outlines(index)
        for _ in range(arguments.repeats):
            for mode, size, cache, workers in settings:
                training = mode != "test"
                chosen = outlined if mode in ("outlines", "masks") else index
                dataset = COCODataset(chosen, size, MODES[mode], training, training, cache=cache)
                rates[mode, size, cache, workers].append(
                    images_per_second(dataset, workers, arguments.seconds, training, arguments.anywhere)
                )
            for peer in arguments.peer:
                done = subprocess.run(peer, shell=True, capture_output=True, text=True, check=True)
                print(done.stdout.strip().rpartition("\n")[2])
    for (mode, size, kept, workers), values in rates.items():
        rate = statistics.median(values)
        print(f"{mode:8} {size} px  cache {kept:4}  workers {workers}  {rate:6.0f} images/s")


if __name__ == "__main__":
    main()
