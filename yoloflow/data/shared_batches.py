"""Memory for batches that workers fill and the training process reads, used again and again.

New shared memory for every batch costs about a quarter of what its making does: the system hands over each
page empty, in both processes.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque
from itertools import count
from typing import Any, ClassVar

import numpy as np
import torch

from yoloflow.structures import Uint8Array


class SharedBatchPool:
    """A number of equal places for the images of a batch, in memory that forked processes share.

    A place that was lent as a tensor is free again when nothing refers to its memory any more: neither the
    tensor, nor a view of it, nor an array made of it. A process that was not forked sees no memory here, and
    the loader falls back to memory of its own.
    """

    _numbers: ClassVar[count[int]] = count()
    _alive: ClassVar[weakref.WeakValueDictionary[int, SharedBatchPool]] = weakref.WeakValueDictionary()

    def __init__(self, places: int, num_bytes: int) -> None:
        """Reserve the room; memory is taken as it is used.

        Args:
            places: how many batches are on their way at most.
            num_bytes: of the largest batch.
        """
        self._memory: mmap.mmap | None = mmap.mmap(-1, max(places * num_bytes, 1))
        self._num_bytes = num_bytes
        self._free = deque(range(places))
        self.number = next(self._numbers)
        self._alive[self.number] = self

    @classmethod
    def of_number(cls, number: int) -> SharedBatchPool:
        """The buffers of this process that have a number."""
        return cls._alive[number]

    def reserve(self) -> int | None:
        """A free place, or None."""
        return self._free.popleft() if self._free else None

    def release(self, place: int) -> None:
        """Free a place that was reserved and never lent."""
        self._free.append(place)

    def array(self, place: int, shape: tuple[int, ...]) -> Uint8Array | None:
        """The memory of a place, to be written; None where it is too small or not to be seen."""
        size = math.prod(shape)
        if self._memory is None or size > self._num_bytes:
            return None
        return np.frombuffer(self._memory, np.uint8, size, place * self._num_bytes).reshape(shape)

    def lend(self, place: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The memory of a place as a tensor; the place is free again when the last view of it is gone."""
        array = self.array(place, shape)
        assert array is not None
        # Every view of the tensor keeps its storage, and the storage keeps this array.
        weakref.finalize(array, self._free.append, place).atexit = False
        return torch.from_numpy(array)

    def __getstate__(self) -> dict[str, Any]:
        return {"_num_bytes": self._num_bytes, "number": self.number, "_memory": None, "_free": deque()}
