"""Batches in an order that depends on nothing but the seed.

Global batch k of an epoch takes places k*T to (k+1)*T of the epoch's permutation, with
T = batch_size * world_size, and rank r the slice r*b to (r+1)*b of it, b = batch_size.
Neither workers nor their number change a sample or
the order, and a global batch holds the same images whatever the number of ranks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from yoloflow.data.collate import rows_for
from yoloflow.data.loading_time import LoadingTime
from yoloflow.data.restarting_loader import RestartingLoader
from yoloflow.data.samplers import Sampler, UniformSampler
from yoloflow.data.shapes import Rectangular, Shape, Shapes
from yoloflow.data.shared_batches import SharedBatchPool
from yoloflow.data.worker import BatchKey, BatchMaker, Loaded, SampleSet, start_worker
from yoloflow.runtime.device import can_pin_memory
from yoloflow.structures import Batch, Int64Array, YoloflowError

_PREFETCHED = 2
"""Batches that a worker makes ahead."""
# The consumer's, the one it asks for, and one that a view still holds.
_IN_HANDS = 3


@dataclass(frozen=True, slots=True)
class BatchExtent:
    """How large a batch may be.

    Attributes:
        batch_size: images of a rank.
        side: of the largest image in pixels.
        label_rows: of an image.
    """

    batch_size: int
    side: int
    label_rows: int


@dataclass(frozen=True, slots=True)
class StageLoader:
    """All epochs of one stage. Make it with `create_loader`, which checks the numbers.

    Attributes:
        dataset: where samples come from.
        batch_size: samples of this rank in a batch.
        epochs: length of the stage; 0 for a stage that is not trained.
        sampler: which images an epoch sees, in order.
        rank: this process among `world_size`.
        world_size: number of processes.
        drop_last: leave out the places that do not fill a global batch.
        num_parallel_workers: worker processes; 0 loads in this process.
        max_labels: see `collate`.
        shapes: of the batches; None for the data set's own.
        timeout_s: seconds that a batch may take before its processes are started anew; 0 for no limit.
        loading_time: what loading took.
    """

    dataset: SampleSet
    batch_size: int
    epochs: int
    sampler: Sampler
    rank: int = 0
    world_size: int = 1
    drop_last: bool = True
    num_parallel_workers: int = 0
    max_labels: int | None = None
    shapes: Shapes | None = None
    timeout_s: float = 0.0
    loading_time: LoadingTime = field(default_factory=LoadingTime)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        if self.drop_last:
            return len(self.dataset) // (self.batch_size * self.world_size)
        return len(self.epoch_batches(0))

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def batches(self, start_step: int = 0, end_step: int | None = None) -> Iterator[Batch]:
        """Batches prefetched across the borders of epochs.

        Args:
            start_step: the first, counted from the run's first; nothing is loaded for those before.
            end_step: where to stop; None stops after `epochs` epochs.

        Raises:
            YoloflowError: unreadable data, as soon as it is met; a batch whose loading dies twice.
        """
        end = len(self) if end_step is None else end_step
        supply = RestartingLoader(
            lambda step, processes: self._load(step, end, processes),
            start_step,
            self.num_parallel_workers,
            self._describe,
        )
        mark = time.perf_counter()
        for loaded in supply:
            batch = loaded.settled().batch
            self.loading_time.add(time.perf_counter() - mark, loaded.seconds)
            if isinstance(batch, YoloflowError):
                raise batch
            # The buffers' place must be free as soon as the consumer has no more use for it.
            del loaded
            yield batch
            del batch
            mark = time.perf_counter()

    def _load(self, start_step: int, end_step: int, processes: int) -> Iterator[Loaded]:
        places = _IN_HANDS + processes * _PREFETCHED
        buffers = SharedBatchPool(places, self.batch_size * 3 * self.dataset.img_size**2)
        loader = DataLoader(
            BatchMaker(self.dataset, self.max_labels, buffers),
            batch_size=None,
            sampler=_Requests(self, start_step, end_step, buffers),
            prefetch_factor=_PREFETCHED if processes else None,
            num_workers=processes,
            timeout=self.timeout_s if processes else 0,
            collate_fn=_unchanged,
            pin_memory=can_pin_memory(),
            worker_init_fn=start_worker,
            # Torch draws a seed for the workers, which nothing here uses: not from the training's generator.
            generator=torch.Generator(),
        )
        return iter(loader)

    @property
    def largest_batch(self) -> BatchExtent:
        """What bounds its batches."""
        rows = self.max_labels or rows_for(self.dataset.most_objects)
        return BatchExtent(self.batch_size, self.dataset.img_size, rows)

    def _describe(self, step: int) -> str:
        epoch, number = divmod(step, self.steps_per_epoch)
        names = self.dataset.names_of(self.epoch_batches(epoch)[number].indices)
        return f"batch {number + 1} of epoch {epoch + 1} ({', '.join(names)})"

    def epoch_batches(self, epoch: int) -> list[BatchKey]:
        """This rank's batches of an epoch, in order."""
        order = self.sampler(epoch)
        if self.drop_last:
            return self._full_batches(order, epoch)
        if isinstance(self.shapes, Rectangular):
            alike = self.shapes.alike(order, self.batch_size)[self.rank :: self.world_size]
            return [BatchKey(epoch, tuple(images.tolist()), self.shapes.shape(images)) for images in alike]
        mine = order[self.rank :: self.world_size].tolist()
        starts = range(0, len(mine), self.batch_size)
        return [BatchKey(epoch, tuple(mine[start : start + self.batch_size])) for start in starts]

    def _full_batches(self, order: Int64Array, epoch: int) -> list[BatchKey]:
        total = self.batch_size * self.world_size
        groups = order[: self.steps_per_epoch * total].reshape(-1, total)
        shapes: list[Shape | None] = [None] * len(groups)
        if self.shapes is not None:
            groups = self.shapes.arrange(groups, epoch)
            shapes = [self.shapes.shape(images, epoch, batch) for batch, images in enumerate(groups)]
        mine = groups[:, self.rank * self.batch_size :][:, : self.batch_size].tolist()
        return [BatchKey(epoch, tuple(images), shape) for images, shape in zip(mine, shapes, strict=True)]

    def epoch_indices(self, epoch: int) -> Int64Array:
        """(n,) data set positions that this rank sees in an epoch, in order."""
        return np.array([index for key in self.epoch_batches(epoch) for index in key.indices], np.int64)


@dataclass(frozen=True, slots=True)
class _Requests:
    """Yields what makes each batch and a place for it; torch's loader hands it to its workers."""

    stage: StageLoader
    start_step: int
    end_step: int
    buffers: SharedBatchPool

    def __iter__(self) -> Iterator[tuple[BatchKey, int | None]]:
        step = self.start_step
        steps_per_epoch = self.stage.steps_per_epoch
        while step < self.end_step:
            epoch, skipped = divmod(step, steps_per_epoch)
            keys = self.stage.epoch_batches(epoch)[skipped : skipped + self.end_step - step]
            yield from ((key, self.buffers.reserve()) for key in keys)
            step += len(keys)

    def __len__(self) -> int:
        return max(self.end_step - self.start_step, 0)


def _unchanged(item: Any) -> Any:
    return item


def create_loader(
    dataset: SampleSet,
    batch_size: int,
    epoch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = True,
    drop_last: bool = True,
    num_parallel_workers: int = 0,
    seed: int = 0,
    max_labels: int | None = None,
) -> StageLoader:
    """A loader for `epoch_size` epochs of a data set (`create_stage_loaders` knows other orders and shapes).

    With `drop_last` every rank gets equally many full batches. Without it (evaluation) rank r gets every
    world_size-th image from r on, none twice and none left out, and its last batch may be smaller.

    Args:
        dataset: a COCODataset.
        batch_size: samples per batch and rank.
        epoch_size: epochs of the stage.
        rank: this process among `world_size`.
        world_size: number of processes.
        shuffle: a new order each epoch.
        drop_last: see above.
        num_parallel_workers: worker processes; 0 loads in this process.
        seed: of the order.
        max_labels: rows of labels per image; None takes as many as the batch needs, in steps of 16.

    Raises:
        YoloflowError: a number out of range, or a data set smaller than one global batch.
    """
    require(batch_size >= 1, f"per_batch_size={batch_size}: at least 1")
    require(epoch_size >= 0, f"epochs={epoch_size}: not negative")
    require(0 <= rank < world_size, f"rank={rank} is not below world_size={world_size}")
    require(num_parallel_workers >= 0, f"num_parallel_workers={num_parallel_workers}: at least 0")
    require(len(dataset) > 0, "the data set has no image")
    total = batch_size * world_size
    require(
        len(dataset) >= total or not drop_last,
        f"the data set has {len(dataset)} images, one step takes {total} (per_batch_size {batch_size} x "
        f"{world_size} ranks): set per_batch_size to {max(len(dataset) // world_size, 1)} or less, "
        "or use more",
    )
    return StageLoader(
        dataset,
        batch_size,
        epoch_size,
        UniformSampler(len(dataset), seed, shuffle),
        rank,
        world_size,
        drop_last,
        num_parallel_workers,
        max_labels,
    )


def require(holds: bool, message: str) -> None:
    """Raise YoloflowError with a message unless something holds."""
    if not holds:
        raise YoloflowError(message)
