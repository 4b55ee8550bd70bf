"""Step 2: batches in an order that depends on nothing but the seed.

Global batch k of an epoch takes positions k*T to (k+1)*T of the epoch's order, with T = batch_size *
world_size, and rank r the slice r*b to (r+1)*b of it, b = batch_size. So the number of workers changes
nothing, and a global batch holds the same images whatever the number of ranks. So do its windows, where
partners come from these.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import DataLoader

from yoloflow.data.caches.recent_images import RecentImages
from yoloflow.data.collate import rows_for
from yoloflow.data.dataset import COCODataset
from yoloflow.data.loading_time import LoadingTime
from yoloflow.data.partner_window import PartnerWindow, WindowPlan
from yoloflow.data.restarting_loader import POLL_SECONDS, RestartingLoader
from yoloflow.data.samplers import Sampler, UniformSampler
from yoloflow.data.shapes import Fixed, Rectangular, Shape, Shapes
from yoloflow.data.shared_batches import SharedBatchPool
from yoloflow.data.worker import BatchKey, BatchMaker, LoadedBatch, start_worker
from yoloflow.runtime.allocator import give_back_freed_memory
from yoloflow.runtime.device import can_pin_memory
from yoloflow.structures import Batch, Int64Array, YoloflowError

# Batches that a worker makes ahead; and the consumer's, the one it asks for, and one that a view still holds.
_PREFETCHED, _CONSUMED = 2, 3


@dataclass(frozen=True, slots=True)
class BatchExtent:
    """The largest batch that a loader may give.

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
    """A loader of all epochs of one stage. `create_loader` makes it and checks the numbers.

    Attributes:
        dataset: gives the samples.
        batch_size: samples of this rank in a batch.
        epochs: length of the stage; 0 for a stage that is not trained.
        sampler: which images an epoch sees, in order.
        rank: this process among `world_size`.
        world_size: number of processes.
        drop_last: leave out the images that do not fill a global batch.
        num_parallel_workers: worker processes; 0 loads in this process.
        max_labels: see `collate`.
        shapes: of the batches; None for the data set's own.
        timeout_s: seconds that a batch may take before its workers are restarted; 0 for no limit.
        loading_time: takes the seconds that loading takes.
        has_windows: take the partners of a sample from a window of the order instead of the whole data set.
    """

    dataset: COCODataset
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
    has_windows: bool = False

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
        """Yield batches, prefetched across the borders of epochs.

        Args:
            start_step: the first, counted from the run's first; nothing is loaded for those before.
            end_step: the step before which to stop; None stops after `epochs` epochs.

        Raises:
            YoloflowError: unreadable data, as soon as it is met; a batch whose loading dies twice.
        """
        end = len(self) if end_step is None else end_step
        loader = RestartingLoader(
            lambda step, workers: self._load(step, end, workers),
            start_step,
            self.num_parallel_workers,
            self._describe,
            self.timeout_s,
        )
        started = time.perf_counter()
        for loaded in loader:
            batch = loaded.take()
            self.loading_time.add(time.perf_counter() - started, loaded.seconds)
            self.dataset.decoder_remarks.say(loaded.remarks)
            if isinstance(batch, YoloflowError):
                try:
                    raise batch
                finally:
                    # The error's traceback keeps this frame. Were the loader in it, a garbage collection
                    # would have to end the workers, for each of which torch waits 5 s then.
                    del batch, loaded, loader
            # The shared buffer must be free as soon as the consumer has no more use for it.
            del loaded
            yield batch
            del batch
            started = time.perf_counter()

    def _load(self, start_step: int, end_step: int, workers: int) -> Iterator[LoadedBatch]:
        num_bytes = self.batch_size * 3 * self.dataset.img_size**2
        num_recent = self._num_recent(workers)
        recent = RecentImages(num_recent, self.dataset.largest_image) if num_recent else None
        if workers:
            give_back_freed_memory()
        pool = SharedBatchPool(_CONSUMED + workers * _PREFETCHED, num_bytes)
        loader = DataLoader(
            BatchMaker(self.dataset, self.max_labels, pool, recent),
            batch_size=None,
            sampler=self._requests(start_step, end_step, pool),
            prefetch_factor=_PREFETCHED if workers else None,
            num_workers=workers,
            timeout=min(POLL_SECONDS, self.timeout_s or POLL_SECONDS) if workers else 0,
            pin_memory=can_pin_memory(),
            worker_init_fn=start_worker,
            # Torch draws a seed for the workers, which nothing here uses: not from the training's generator.
            generator=torch.Generator(),
        )
        return iter(loader)

    def _requests(
        self, start_step: int, end_step: int, pool: SharedBatchPool
    ) -> Iterator[tuple[BatchKey, int | None]]:
        """Yield what makes each batch and a shared buffer for it, as torch's loader asks for its workers."""
        step = start_step
        while step < end_step:
            epoch, skipped = divmod(step, self.steps_per_epoch)
            keys = self.epoch_batches(epoch)[skipped : skipped + end_step - step]
            yield from ((key, pool.acquire()) for key in keys)
            step += len(keys)

    def _num_recent(self, workers: int) -> int:
        """Return the images in the windows of all batches that are made at one time.

        0 where another cache has them or no window needs them.
        """
        if not self.has_windows or self.dataset.cache is not None:
            return 0
        return self._plan.num_kept(max(workers * _PREFETCHED, 1))

    @property
    def recent_bytes(self) -> int:
        """Bytes of memory that the decoded images of windows take at most."""
        return self._num_recent(self.num_parallel_workers) * self.dataset.largest_image

    @property
    def window_images(self) -> int:
        """Images that the partners of a sample come from; 0 for the whole data set."""
        return self._plan.num_images if self.has_windows else 0

    @property
    def _plan(self) -> WindowPlan:
        return WindowPlan(self.batch_size * self.world_size, self.batch_size, self.rank)

    @property
    def largest_batch(self) -> BatchExtent:
        """The bounds of its batches."""
        rows = self.max_labels or rows_for(self.dataset.most_objects)
        return BatchExtent(self.batch_size, self.dataset.img_size, rows)

    @property
    def smallest_shape(self) -> Shape:
        """Height and width of the smallest batch of one image that there may be."""
        side = self.dataset.img_size
        return (side, side) if self.shapes is None else self.shapes.smallest

    def _describe(self, step: int) -> str:
        epoch, number = divmod(step, self.steps_per_epoch)
        names = self.dataset.names_of(self.epoch_batches(epoch)[number].indices)
        return f"batch {number + 1} of epoch {epoch + 1} ({', '.join(names)})"

    def epoch_batches(self, epoch: int) -> list[BatchKey]:
        """Return this rank's batches of an epoch, in order."""
        if self.drop_last:
            return self._full_batches(epoch)
        order = self.sampler(epoch)
        if isinstance(self.shapes, Rectangular):
            alike = self.shapes.alike(order, self.batch_size)[self.rank :: self.world_size]
            return [BatchKey(epoch, tuple(images.tolist()), self.shapes.shape(images)) for images in alike]
        mine = order[self.rank :: self.world_size].tolist()
        starts = range(0, len(mine), self.batch_size)
        shape = self.shapes.shape_hw if isinstance(self.shapes, Fixed) else None
        return [BatchKey(epoch, tuple(mine[start : start + self.batch_size]), shape) for start in starts]

    def _groups(self, epoch: int) -> Int64Array:
        """Return the (k, T) images of the global batches of an epoch."""
        total = self.batch_size * self.world_size
        groups = self.sampler(epoch)[: self.steps_per_epoch * total].reshape(-1, total)
        return self.shapes.arrange(groups, epoch) if isinstance(self.shapes, Rectangular) else groups

    def _full_batches(self, epoch: int) -> list[BatchKey]:
        groups = self._groups(epoch)
        shapes: list[Shape | None] = [None] * len(groups)
        if self.shapes is not None:
            shapes = [self.shapes.shape(images, epoch, batch) for batch, images in enumerate(groups)]
        mine = groups[:, self.rank * self.batch_size :][:, : self.batch_size].tolist()
        windows = self._windows(epoch, groups) if self.has_windows else [None] * len(groups)
        rows = zip(mine, shapes, windows, strict=True)
        return [BatchKey(epoch, tuple(images), shape, window) for images, shape, window in rows]

    def _windows(self, epoch: int, groups: Int64Array) -> list[PartnerWindow | None]:
        """Return the window of each global batch of an epoch; it may reach into epochs beside."""
        plan, steps = self._plan, self.steps_per_epoch
        first = plan.first_step(epoch * steps)
        last = max(first + plan.num_steps, (epoch + 1) * steps) - 1
        begin = first // steps
        near = range(begin, last // steps + 1)
        joined = np.concatenate([groups if other == epoch else self._groups(other) for other in near])
        return [plan.window(joined, begin * steps, epoch * steps + batch) for batch in range(steps)]

    def epoch_indices(self, epoch: int) -> Int64Array:
        """Return the (n,) data set positions that this rank sees in an epoch, in order."""
        return np.array([index for key in self.epoch_batches(epoch) for index in key.indices], np.int64)


def create_loader(
    dataset: COCODataset,
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
    """Create a loader of `epoch_size` epochs of a data set (`create_stage_loaders` for samplers and shapes).

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
    count, total = len(dataset), batch_size * world_size
    require(count > 0, "the data set has no image")
    require(
        count >= total or not drop_last,
        f"the data set has {count} images, one step takes {total} (per_batch_size {batch_size} x "
        f"{world_size} ranks): set per_batch_size to {max(count // world_size, 1)} or less, or use more",
    )
    return StageLoader(
        dataset,
        batch_size,
        epoch_size,
        UniformSampler(count, seed, shuffle),
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
