"""Shared batches: no memory that anybody still holds is ever overwritten."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.toy_loader import mosaic_loader
from yoloflow.data.shared_batches import SharedBatchPool


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_were(tmp_path: Path, workers: int) -> None:
    loader = mosaic_loader(tmp_path, workers)
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
    for number, batch in enumerate(mosaic_loader(tmp_path, workers).batches()):
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
    for batch in mosaic_loader(tmp_path, workers).batches():
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
    loader = mosaic_loader(tmp_path, 0)
    (tmp_path / "images" / "05.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"05\.png"):
        list(loader.batches())
    (tmp_path / "images" / "05.png").write_bytes((tmp_path / "images" / "06.png").read_bytes())
    assert len(list(loader.batches())) == 18
