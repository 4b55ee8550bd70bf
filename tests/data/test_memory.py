"""A loader's memory does not grow, however long it runs."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.data_sets import write_picture
from yoloflow.data.dataset import COCODataset
from yoloflow.data.loader import create_loader
from yoloflow.structures import DatasetIndex

SIZE = 32


def large_index(folder: Path, count: int) -> DatasetIndex:
    """Entries of a few real images, with three boxes and a polygon each."""
    paths = [str(write_picture(folder / f"{number}.png", SIZE, SIZE)) for number in range(50)]
    return DatasetIndex(
        image_paths=np.array([paths[number % 50] for number in range(count)], np.str_),
        image_ids=np.arange(1, count + 1),
        sizes_hw=np.full((count, 2), SIZE),
        box_offsets=np.arange(count + 1) * 3,
        boxes_xyxy=np.tile([2.0, 3.0, 20.0, 30.0], (3 * count, 1)),
        classes=np.arange(3 * count) % 80,
        is_crowd=np.zeros(3 * count, bool),
        areas=np.full(3 * count, 486.0),
        polygon_offsets=np.arange(3 * count + 1) * 4,
        polygon_points=np.tile(np.array([[2, 3], [20, 3], [20, 30], [2, 30]], np.float32), (3 * count, 1)),
        names=[str(number) for number in range(80)],
        category_ids=np.arange(1, 81),
        num_images_listed=count,
        num_boxes_listed=3 * count,
    )


def private_bytes(process: int) -> int:
    """Memory that a process shares with nobody; pages it copied by writing to them included."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


def bytes_of_a_worker(folder: Path, count: int, epochs: int) -> list[int]:
    """Its private memory at the first batches and near the end of each epoch."""
    dataset = COCODataset(large_index(folder, count), SIZE, [{"func_name": "fliplr", "prob": 0.5}], True)
    loader = create_loader(dataset, 50, epochs, num_parallel_workers=1)
    taken = []
    for step, _ in enumerate(loader.batches(), 1):
        # A little before the end of each epoch: after the last batch the worker goes home.
        if (step + 10) % loader.steps_per_epoch == 0 or step == 10:
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            taken.append(private_bytes(worker.pid))
    return taken


@pytest.mark.process
@pytest.mark.parametrize(
    ("count", "epochs"),
    [pytest.param(4_000, 3), pytest.param(200_000, 5, marks=pytest.mark.full)],
)
def test_a_worker_takes_as_much_memory_in_the_last_epoch_as_in_the_first(
    tmp_path: Path, count: int, epochs: int
) -> None:
    # In a process of its own: a worker touches, and so copies, what earlier tests left in this one.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        taken = fresh.submit(bytes_of_a_worker, tmp_path, count, epochs).result()
    print([f"{value / 2**20:.1f} MiB" for value in taken])  # noqa: T201
    steady = taken[1:]
    assert max(steady) <= 1.05 * min(steady)
