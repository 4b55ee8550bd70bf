"""Batches in an order that depends on nothing but the seed.

Global batch k of an epoch takes places k*T to (k+1)*T of the epoch's permutation, T = batch_size * rank_size,
and rank r the slice r*b to (r+1)*b of it, b = batch_size. Neither workers nor their number change a sample or
the order, and a global batch holds the same images whatever the number of ranks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from yoloflow.data.order import InTurn, Order
from yoloflow.data.shapes import Rectangular, Shape, Shapes
from yoloflow.structures import Batch, Int64Array, Sample, YoloflowError

LABEL_STEP = 16


class SampleSet(Protocol):
    """What a loader needs of a data set."""

    def __len__(self) -> int: ...

    def get(self, epoch: int, index: int, shape_hw: Shape | None = None) -> Sample:
        """Image `index` as seen in `epoch`, in a batch of this height and width (None: its own square)."""
        ...


def collate(samples: Sequence[Sample], max_labels: int | None = None) -> Batch:
    """Samples of one size as a batch: RGB planes, boxes as centre form in 0..1, label rows padded.

    Args:
        samples: B of them.
        max_labels: rows of labels per image; None takes the next multiple of 16 that holds them all.

    Raises:
        YoloflowError: an image has more objects than `max_labels`.
    """
    height, width = samples[0].image.shape[:2]
    images = _empty_images((len(samples), 3, height, width))
    labels = np.zeros((len(samples), _label_rows(samples, max_labels), 6), np.float32)
    labels[..., 0] = np.arange(len(samples))[:, None]
    labels[..., 1] = -1
    size = np.array((width, height), np.float32)
    planes = images.numpy()
    for row, sample in enumerate(samples):
        cv2.split(sample.image, [planes[row, 2], planes[row, 1], planes[row, 0]])
        count = len(sample.classes)
        low, high = sample.boxes_xyxy[:, :2], sample.boxes_xyxy[:, 2:]
        labels[row, :count, 1] = sample.classes
        labels[row, :count, 2:4] = (low + high) / 2 / size
        labels[row, :count, 4:6] = (high - low) / size
    return Batch(
        images=images,
        labels=torch.from_numpy(labels),
        indices=torch.tensor([sample.index for sample in samples]),
        original_sizes_hw=torch.tensor([sample.original_size_hw for sample in samples], dtype=torch.float32),
        scales_xy=torch.tensor([sample.scale_xy for sample in samples], dtype=torch.float32),
        pads_xy=torch.tensor([sample.pad_xy for sample in samples], dtype=torch.float32),
    )


def _empty_images(shape: tuple[int, ...]) -> torch.Tensor:
    """Room for a batch; in a worker shared memory from the start, so that nothing is copied on the way."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _label_rows(samples: Sequence[Sample], max_labels: int | None) -> int:
    """Rows of labels that every image of the batch gets."""
    most = max(samples, key=lambda sample: len(sample.classes))
    count = len(most.classes)
    if max_labels is None:
        return max(LABEL_STEP, -(-count // LABEL_STEP) * LABEL_STEP)
    if count > max_labels:
        raise YoloflowError(
            f"the sample of image number {most.index} has {count} objects, max_labels is {max_labels}: "
            f"raise it to {count} or more (objects are never cut off)"
        )
    return max_labels


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


class _Batches(Dataset[Batch | YoloflowError]):
    """A data set whose items are whole batches."""

    def __init__(self, dataset: SampleSet, max_labels: int | None) -> None:
        self._dataset = dataset
        self._max_labels = max_labels

    def __getitem__(self, key: BatchKey) -> Batch | YoloflowError:
        try:
            samples = [self._dataset.get(key.epoch, index, key.shape_hw) for index in key.indices]
            return collate(samples, self._max_labels)
        except YoloflowError as error:
            # Handed over as a value: torch would wrap a worker's exception in a page of traceback.
            return error


@dataclass(frozen=True, slots=True)
class StageLoader:
    """All epochs of one stage. Make it with `create_loader`, which checks the numbers.

    Attributes:
        dataset: where samples come from.
        batch_size: samples of this rank in a batch.
        epochs: length of the stage; 0 for a stage that is not trained.
        order: the images of each epoch.
        rank: this process among `rank_size`.
        rank_size: number of processes.
        drop_remainder: leave out the places that do not fill a global batch.
        num_parallel_workers: worker processes; 0 loads in this process.
        max_labels: see `collate`.
        shapes: of the batches; None for the data set's own.
    """

    dataset: SampleSet
    batch_size: int
    epochs: int
    order: Order
    rank: int = 0
    rank_size: int = 1
    drop_remainder: bool = True
    num_parallel_workers: int = 0
    max_labels: int | None = None
    shapes: Shapes | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        if self.drop_remainder:
            return len(self.dataset) // (self.batch_size * self.rank_size)
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
            YoloflowError: unreadable data, as soon as it is met.
        """
        loader = DataLoader(
            _Batches(self.dataset, self.max_labels),
            batch_size=None,
            sampler=_Keys(self, start_step, len(self) if end_step is None else end_step),
            num_workers=self.num_parallel_workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
        )
        for batch in loader:
            if isinstance(batch, YoloflowError):
                raise batch
            yield batch

    def epoch_batches(self, epoch: int) -> list[BatchKey]:
        """This rank's batches of an epoch, in order."""
        order = self.order(epoch)
        if self.drop_remainder:
            return self._full_batches(order, epoch)
        if isinstance(self.shapes, Rectangular):
            alike = self.shapes.alike(order, self.batch_size)[self.rank :: self.rank_size]
            return [BatchKey(epoch, tuple(images.tolist()), self.shapes.shape(images)) for images in alike]
        mine = order[self.rank :: self.rank_size].tolist()
        starts = range(0, len(mine), self.batch_size)
        return [BatchKey(epoch, tuple(mine[start : start + self.batch_size])) for start in starts]

    def _full_batches(self, order: Int64Array, epoch: int) -> list[BatchKey]:
        total = self.batch_size * self.rank_size
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
class _Keys:
    """Yields what makes each batch; torch's loader hands it to its workers."""

    stage: StageLoader
    start_step: int
    end_step: int

    def __iter__(self) -> Iterator[BatchKey]:
        step = self.start_step
        steps_per_epoch = self.stage.steps_per_epoch
        while step < self.end_step:
            epoch, skipped = divmod(step, steps_per_epoch)
            keys = self.stage.epoch_batches(epoch)[skipped : skipped + self.end_step - step]
            yield from keys
            step += len(keys)

    def __len__(self) -> int:
        return max(self.end_step - self.start_step, 0)


def _unchanged(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    """One thread per worker: the processes are the parallelism."""
    cv2.setNumThreads(0)


def create_loader(
    dataset: SampleSet,
    batch_size: int,
    epoch_size: int = 1,
    rank: int = 0,
    rank_size: int = 1,
    shuffle: bool = True,
    drop_remainder: bool = True,
    num_parallel_workers: int = 0,
    seed: int = 0,
    max_labels: int | None = None,
) -> StageLoader:
    """A loader for `epoch_size` epochs of a data set (`create_stage_loaders` knows other orders and shapes).

    With `drop_remainder` every rank gets equally many full batches. Without it (evaluation) rank r gets every
    rank_size-th image from r on, none twice and none left out, and its last batch may be smaller.

    Args:
        dataset: a COCODataset.
        batch_size: samples per batch and rank.
        epoch_size: epochs of the stage.
        rank: this process among `rank_size`.
        rank_size: number of processes.
        shuffle: a new order each epoch.
        drop_remainder: see above.
        num_parallel_workers: worker processes; 0 loads in this process.
        seed: of the order.
        max_labels: rows of labels per image; None takes as many as the batch needs, in steps of 16.

    Raises:
        YoloflowError: a number out of range, or a data set smaller than one global batch.
    """
    _require(batch_size >= 1, f"per_batch_size={batch_size}: at least 1")
    _require(epoch_size >= 0, f"epochs={epoch_size}: not negative")
    _require(0 <= rank < rank_size, f"rank={rank} is not below rank_size={rank_size}")
    _require(num_parallel_workers >= 0, f"num_parallel_workers={num_parallel_workers}: at least 0")
    _require(len(dataset) > 0, "the data set has no image")
    total = batch_size * rank_size
    _require(
        len(dataset) >= total or not drop_remainder,
        f"the data set has {len(dataset)} images, one step takes {total} (per_batch_size {batch_size} x "
        f"{rank_size} ranks): set per_batch_size to {max(len(dataset) // rank_size, 1)} or less, or use more",
    )
    return StageLoader(
        dataset,
        batch_size,
        epoch_size,
        InTurn(len(dataset), seed, shuffle),
        rank,
        rank_size,
        drop_remainder,
        num_parallel_workers,
        max_labels,
    )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise YoloflowError(message)


class ConcatLoader:
    """The stages of a training, one after the other, counted in global epochs and steps."""

    def __init__(self, loaders: Sequence[StageLoader], stage_steps: Sequence[int] | None = None) -> None:
        """Join the stages.

        Args:
            loaders: one for each stage, vanished ones included.
            stage_steps: length of each stage in steps; None takes the loaders' epochs.

        Raises:
            YoloflowError: nothing to train, stages with different numbers of steps in an epoch, or lengths
                that do not add up to whole epochs.
        """
        self.loaders = list(loaders)
        lengths = [len(loader) for loader in loaders] if stage_steps is None else list(stage_steps)
        _require(sum(lengths) > 0, "no stage has an epoch to train")
        steps = [loader.steps_per_epoch for loader in loaders]
        _require(
            len(set(steps)) == 1,
            f"the stages have {steps} steps in an epoch; schedules need the same number: give all stages the "
            "same data set and batch size",
        )
        _require(
            sum(lengths) % steps[0] == 0,
            f"the stages have {lengths} steps, together no multiple of the {steps[0]} of an epoch",
        )
        self._ends = list(accumulate(lengths))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        return self.loaders[0].steps_per_epoch

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return self._ends[-1] // self.steps_per_epoch

    def __len__(self) -> int:
        return self._ends[-1]

    def stage_of(self, step: int) -> int:
        """Number of the stage (from 0) that a global step (from 0) belongs to."""
        _require(0 <= step < len(self), f"step {step} is not among the {len(self)} of this training")
        return bisect_right(self._ends, step)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """All batches from a global step on, exactly those that an uninterrupted run would see."""
        for loader, begin, end in zip(self.loaders, [0, *self._ends], self._ends, strict=False):
            if max(begin, start_step) < end:
                yield from loader.batches(max(begin, start_step), end)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()
