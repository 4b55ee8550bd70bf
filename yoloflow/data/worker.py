"""What a loading process does: samples into batches, batches into shared memory."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import Dataset

from yoloflow.data.caches.images import ImageCache
from yoloflow.data.collate import collate
from yoloflow.data.loading_time import SpanTimer
from yoloflow.data.shapes import Shape
from yoloflow.data.shared_batches import SharedBatchPool
from yoloflow.data.transforms import Sample
from yoloflow.structures import Batch, YoloflowError


class SampleSet(Protocol):
    """What a loader needs of a data set.

    Attributes:
        timer: of this process.
        cache: of decoded images; None where they are decoded each time.
    """

    timer: SpanTimer
    cache: ImageCache | None

    @property
    def img_size(self) -> int:
        """Side of the largest image in pixels."""
        ...

    @property
    def most_objects(self) -> int:
        """Objects that a sample may have."""
        ...

    def __len__(self) -> int: ...

    def names_of(self, indices: Sequence[int]) -> list[str]:
        """The files of images."""
        ...

    def get(self, epoch: int, index: int, shape_hw: Shape | None = None) -> Sample:
        """Image `index` as seen in `epoch`, in a batch of this height and width (None: its own square)."""
        ...


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Which samples make a batch.

    Attributes:
        epoch: of the run, from 0.
        indices: positions in the data set.
        shape_hw: height and width of the batch; None for the data set's own.
    """

    epoch: int
    indices: tuple[int, ...]
    shape_hw: Shape | None = None


@dataclass(slots=True)
class Loaded:
    """What a loading process hands over.

    Attributes:
        batch: the batch; or what is wrong, as a value: torch would wrap a worker's exception in a page of
            traceback.
        place: in the buffers, where the images lie in there; `batch.images` is empty then.
        shape: of the images.
        buffers: number of the buffers.
        seconds: what the batch took, by what was done.
    """

    batch: Batch | YoloflowError
    place: int | None
    shape: tuple[int, ...]
    buffers: int
    seconds: dict[str, float]

    def settled(self) -> Loaded:
        """With the images in the batch (in the training process)."""
        if self.place is None:
            return self
        buffers, place = SharedBatchPool.of_number(self.buffers), self.place
        self.place = None
        if isinstance(self.batch, YoloflowError) or not self.shape:
            buffers.release(place)
        else:
            self.batch.images = buffers.lend(place, self.shape)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Through the pipe as arrays: torch would make a file in shared memory of each small tensor."""
        sent: Any = self.batch
        if isinstance(sent, Batch):
            tensors = (getattr(sent, name) for name in sent.__dataclass_fields__)
            sent = [tensor if tensor.is_shared() else tensor.numpy() for tensor in tensors]
        return _received, (sent, self.place, self.shape, self.buffers, self.seconds)

    def pin_memory(self) -> Loaded:
        """Likewise, in page-locked memory (called by torch's loader on CUDA machines)."""
        self.settled()
        if isinstance(self.batch, Batch):
            self.batch = self.batch.pin_memory()
        return self


def _received(sent: YoloflowError | list[Any], *more: Any) -> Loaded:
    """What `Loaded` was before it was sent."""
    if isinstance(sent, YoloflowError):
        return Loaded(sent, *more)
    return Loaded(Batch(*(torch.as_tensor(part) for part in sent)), *more)


class BatchMaker(Dataset[Loaded]):
    """A data set whose items are whole batches."""

    def __init__(self, dataset: SampleSet, max_labels: int | None, buffers: SharedBatchPool) -> None:
        self._dataset = dataset
        self._max_labels = max_labels
        self._buffers = buffers

    def __getitem__(self, request: tuple[BatchKey, int | None]) -> Loaded:
        key, place = request
        loaded = Loaded(YoloflowError(), place, (), self._buffers.number, {})
        try:
            samples = [self._dataset.get(key.epoch, index, key.shape_hw) for index in key.indices]
            with self._dataset.timer.span("batch"):
                loaded.batch = self._collate(samples, loaded)
        except YoloflowError as error:
            loaded.batch = error
        loaded.seconds = self._dataset.timer.take()
        return loaded

    def _collate(self, samples: Sequence[Sample], loaded: Loaded) -> Batch:
        shape = (len(samples), 3, *samples[0].image.shape[:2])
        array = None if loaded.place is None else self._buffers.array(loaded.place, shape)
        if array is None:
            return collate(samples, self._max_labels)
        batch = collate(samples, self._max_labels, torch.from_numpy(array))
        batch.images, loaded.shape = torch.empty(0, dtype=torch.uint8), shape
        return batch


def start_worker(worker: int) -> None:
    """One thread per worker, as the processes are the parallelism; signals concern the training process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
