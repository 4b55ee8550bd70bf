"""Reused batch memory: nothing that anybody still holds is ever overwritten; and the loader's clock."""

import gc
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.data_sets import write_yolo
from yoloflow.data.dataset import COCODataset
from yoloflow.data.index import read_index
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.loading_time import LoadingTime, SpanTimer, describe_work
from yoloflow.data.shared_batches import SharedBatchPool


def a_loader(root: Path, workers: int, count: int = 24) -> StageLoader:
    labels: dict[str, str | bytes | None] = {f"{number:02}": "0 .5 .5 .2 .2\n" for number in range(count)}
    index = read_index(str(write_yolo(root, labels)), nc=1)
    rows = [{"func_name": "mosaic"}, {"func_name": "random_perspective"}]
    return create_loader(
        COCODataset(index, 64, rows, is_training=True), 4, epoch_size=3, num_parallel_workers=workers
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_were(tmp_path: Path, workers: int) -> None:
    loader = a_loader(tmp_path, workers)
    kept, copies = [], []
    for batch in loader.batches():
        kept.append(batch)
        copies.append(batch.images.clone())
    assert len(kept) == 18
    for batch, copy in zip(kept, copies, strict=True):
        assert torch.equal(batch.images, copy)


@pytest.mark.parametrize("workers", [0, 2])
def test_views_and_arrays_of_a_batch_keep_its_memory(tmp_path: Path, workers: int) -> None:
    views, copies = [], []
    for number, batch in enumerate(a_loader(tmp_path, workers).batches()):
        view = (batch.images[1, 0].numpy(), batch.images.numpy()[2, 1:], batch.images.view(-1)[::2].numpy())[
            number % 3
        ]
        views.append(view)
        copies.append(np.array(view))
        del batch
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_nobody_holds_is_used_again(tmp_path: Path, workers: int) -> None:
    addresses = set()
    for batch in a_loader(tmp_path, workers).batches():
        addresses.add(batch.images.data_ptr())
    assert len(addresses) <= 5


def test_a_buffer_is_free_when_its_last_view_is_gone() -> None:
    pool = SharedBatchPool(1, 100)
    buffer = pool.acquire()
    assert buffer == 0
    assert pool.acquire() is None
    tensor = pool.tensor(buffer, (10, 10))
    view = tensor[2:4].numpy()
    del tensor
    gc.collect()
    assert pool.acquire() is None
    del view
    gc.collect()
    assert pool.acquire() == 0
    assert pool.array(0, (101,)) is None


def test_a_process_that_was_not_forked_has_no_memory_and_does_without() -> None:
    other = pickle.loads(pickle.dumps(SharedBatchPool(2, 100)))  # noqa: S301
    assert other.array(0, (10,)) is None


def test_buffers_of_failed_batches_are_released(tmp_path: Path) -> None:
    loader = a_loader(tmp_path, 0)
    (tmp_path / "images" / "05.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"05\.png"):
        list(loader.batches())
    (tmp_path / "images" / "05.png").write_bytes((tmp_path / "images" / "06.png").read_bytes())
    assert len(list(loader.batches())) == 18


# The clock


def test_inner_spans_do_not_count_for_outer_ones() -> None:
    clock = SpanTimer()
    with clock.span("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with clock.span("inner"):
                time.sleep(0.03)
    seconds = clock.take()
    assert 0.06 <= seconds["inner"] < 0.5
    assert seconds["outer"] == pytest.approx(0.02, abs=0.02)
    assert clock.take() == {}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_counts_its_work_and_the_waiting(tmp_path: Path, workers: int) -> None:
    loader = a_loader(tmp_path, workers)
    started = time.perf_counter()
    for _ in loader.batches():
        pass
    passed = time.perf_counter() - started
    assert set(loader.loading_time.worked) == {"decode", "mosaic", "random_perspective", "batch"}
    assert 0 < loader.loading_time.waited <= passed
    assert all(value > 0 for value in loader.loading_time.worked.values())
    assert sum(loader.loading_time.worked.values()) <= passed * max(workers, 1)


def test_the_report_names_the_largest_parts_first() -> None:
    clock = LoadingTime()
    clock.add(1.0, {"decode": 1.0, "warp": 2.0, "hsv": 0.5, "batch": 0.25, "flip": 0.25})
    waited, worked = clock.take()
    assert waited == 1.0
    assert describe_work(worked) == "warp 50%, decode 25%, hsv 12%, batch 6%"
    assert clock.take() == (0.0, {})
