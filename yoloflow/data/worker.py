"""Worker processes of the loader: samples into batches, batches into shared memory."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch.utils.data import Dataset

from yoloflow.data.caches.recent_images import RecentImages
from yoloflow.data.collate import collate
from yoloflow.data.dataset import COCODataset
from yoloflow.data.partner_window import Nearby, PartnerWindow
from yoloflow.data.shapes import Shape
from yoloflow.data.shared_batches import SharedBatchPool
from yoloflow.data.transforms import Sample
from yoloflow.structures import Batch, YoloflowError


@dataclass(frozen=True, slots=True)
class BatchKey:
    """The samples that make a batch.

    Attributes:
        epoch: of the run, from 0.
        indices: positions in the data set.
        shape_hw: height and width of the batch; None for the data set's own.
        window: where partners come from; None for the whole data set.
    """

    epoch: int
    indices: tuple[int, ...]
    shape_hw: Shape | None = None
    window: PartnerWindow | None = None

    def nearby(self, number: int, recent: RecentImages | None = None) -> Nearby | None:
        """Return the images that sample `number` may take partners from; None for the whole data set."""
        return None if self.window is None else self.window.of_sample(number, recent)


@dataclass(slots=True)
class LoadedBatch:
    """A batch on its way from a worker to the training process.

    Attributes:
        batch: the batch; or the error, as a value: torch would wrap an exception in a page of traceback.
        pool: id of the pool of shared buffers.
        buffer: the buffer acquired for it; None where none was free.
        shape: of the images that lie in the buffer, `batch.images` being empty; () where they do not.
        seconds: of work, by what was done.
        remarks: what decoders printed, see `DecoderRemarks`.
    """

    batch: Batch | YoloflowError
    pool: int
    buffer: int | None
    shape: tuple[int, ...]
    seconds: dict[str, float]
    remarks: Sequence[str] = ()

    def take(self) -> Batch | YoloflowError:
        """Return the batch with its images (in the training process, once)."""
        if self.buffer is not None:
            pool, buffer = SharedBatchPool.of_id(self.pool), self.buffer
            self.buffer = None
            if isinstance(self.batch, Batch) and self.shape:
                self.batch.images = pool.tensor(buffer, self.shape)
            else:
                pool.release(buffer)
        return self.batch

    def __reduce__(self) -> tuple[Any, ...]:
        """Go through the pipe as arrays: torch would make a file in shared memory of each small tensor."""
        sent: Any = self.batch
        if isinstance(sent, Batch):
            parts = (getattr(sent, name) for name in sent.__dataclass_fields__)
            # None stands for the masks that a batch does not have.
            sent = [part if part is None or part.is_shared() else part.numpy() for part in parts]
        return _unpickle, (sent, self.pool, self.buffer, self.shape, self.seconds, self.remarks)

    def pin_memory(self) -> LoadedBatch:
        """Bring the images into page-locked memory (called by torch's loader on CUDA machines)."""
        batch = self.take()
        if isinstance(batch, Batch):
            self.batch = batch.pin_memory()
        return self


def _unpickle(sent: YoloflowError | list[Any], *more: Any) -> LoadedBatch:
    if isinstance(sent, YoloflowError):
        return LoadedBatch(sent, *more)
    parts: Any = (part if part is None else torch.as_tensor(part) for part in sent)
    return LoadedBatch(Batch(*parts), *more)


class BatchMaker(Dataset[LoadedBatch]):
    """A data set, as torch's loader knows them, whose items are whole batches."""

    def __init__(
        self,
        dataset: COCODataset,
        max_labels: int | None,
        pool: SharedBatchPool,
        recent: RecentImages | None = None,
    ) -> None:
        self._dataset = dataset
        self._max_labels = max_labels
        self._pool = pool
        self._recent = recent

    def __getitem__(self, request: tuple[BatchKey, int | None]) -> LoadedBatch:
        """Make a batch in the buffer acquired for it."""
        key, buffer = request
        loaded = LoadedBatch(YoloflowError(), self._pool.id, buffer, (), {})
        try:
            nearby = [key.nearby(number, self._recent) for number in range(len(key.indices))]
            samples = [
                self._dataset.get(key.epoch, index, key.shape_hw, near)
                for index, near in zip(key.indices, nearby, strict=True)
            ]
            with self._dataset.timer.span("batch"):
                loaded.batch = self._collate(samples, loaded)
        except YoloflowError as error:
            loaded.batch = error
        loaded.seconds = self._dataset.timer.take()
        loaded.remarks = self._dataset.decoder_remarks.take()
        return loaded

    def _collate(self, samples: Sequence[Sample], loaded: LoadedBatch) -> Batch:
        shape = (len(samples), 3, *samples[0].image.shape[:2])
        array = None if loaded.buffer is None else self._pool.array(loaded.buffer, shape)
        if array is None:
            return collate(samples, self._max_labels)
        batch = collate(samples, self._max_labels, torch.from_numpy(array))
        batch.images, loaded.shape = torch.empty(0, dtype=torch.uint8), shape
        return batch


def start_worker(worker: int) -> None:
    """Give a worker one thread, as processes are the parallelism; signals go to the training process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
