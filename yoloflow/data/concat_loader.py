"""The loader that joins those of all stages."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from yoloflow.data.loader import BatchExtent, StageLoader, require
from yoloflow.data.loading_time import LoadingTime
from yoloflow.data.shapes import Shape
from yoloflow.structures import Batch


class ConcatLoader:
    """A loader of the stages of a training, one after the other, counted in global epochs and steps."""

    def __init__(self, loaders: Sequence[StageLoader], stage_steps: Sequence[int] | None = None) -> None:
        """Join the stages.

        Args:
            loaders: one for each stage, those that are not trained included.
            stage_steps: length of each stage in steps; None takes the loaders' epochs.

        Raises:
            YoloflowError: nothing to train, stages with different numbers of steps in an epoch, or lengths
                that do not add up to whole epochs.
        """
        lengths = [len(loader) for loader in loaders] if stage_steps is None else list(stage_steps)
        require(sum(lengths) > 0, "no stage has an epoch to train")
        steps = [loader.steps_per_epoch for loader in loaders]
        require(
            len(set(steps)) == 1,
            f"the stages have {steps} steps in an epoch; schedules need the same number: give all stages the "
            "same data set and batch size",
        )
        require(
            sum(lengths) % steps[0] == 0,
            f"the stages have {lengths} steps, together no multiple of the {steps[0]} of an epoch",
        )
        self._ends = list(accumulate(lengths))
        self.loading_time = LoadingTime()
        self.loaders = [replace(loader, loading_time=self.loading_time) for loader in loaders]

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

    @property
    def largest_batch(self) -> BatchExtent:
        """The bounds of the batches of all stages that are trained."""
        extents = [stage.largest_batch for stage, begin, end in self._spans() if end > begin]
        return BatchExtent(
            max(extent.batch_size for extent in extents),
            max(extent.side for extent in extents),
            max(extent.label_rows for extent in extents),
        )

    @property
    def smallest_shape(self) -> Shape:
        """Height and width of the smallest batch of one image in all stages that are trained."""
        shapes = (stage.smallest_shape for stage, begin, end in self._spans() if end > begin)
        return min(shapes, key=math.prod)

    @property
    def cache_memory(self) -> int:
        """Bytes that decoded images of all stages take in memory when the caches are full."""
        caches = {id(stage.dataset.cache): stage.dataset.cache for stage in self.loaders}
        recent = max(stage.recent_bytes for stage in self.loaders)
        return sum(cache.memory_bytes for cache in caches.values() if cache) + recent

    def _spans(self) -> Iterator[tuple[StageLoader, int, int]]:
        """Yield each stage with its first global step and the one after its last."""
        return zip(self.loaders, [0, *self._ends[:-1]], self._ends, strict=True)

    def stage_of(self, step: int) -> int:
        """Return the number of the stage (from 0) that a global step (from 0) belongs to."""
        require(0 <= step < len(self), f"step {step} is not among the {len(self)} of this training")
        return bisect_right(self._ends, step)

    def batches(self, start_step: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches from the 0-based `start_step` on, exactly those of an uninterrupted run."""
        for loader, begin, end in self._spans():
            if max(begin, start_step) < end:
                yield from loader.batches(max(begin, start_step), end)

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def names_of(self, batch: Batch) -> list[str]:
        """Return the files of a batch's images; those mixed into them are not named."""
        return self.loaders[0].dataset.names_of(batch.indices.tolist())
