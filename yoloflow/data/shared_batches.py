"""Shared memory for batches that workers fill and the training process reads, used again and again.

New shared memory for every batch costs about a quarter of what making it does: the system hands over each
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
    """A pool of equal buffers for the images of a batch, in memory that forked processes share.

    A process that was not forked sees no memory here, and the loader falls back to memory of its own.
    """

    _ids: ClassVar[count[int]] = count()
    _alive: ClassVar[weakref.WeakValueDictionary[int, SharedBatchPool]] = weakref.WeakValueDictionary()

    def __init__(self, num_buffers: int, num_bytes: int) -> None:
        """Reserve address space; memory is taken as it is used.

        Args:
            num_buffers: batches that are on their way at most.
            num_bytes: of the largest batch.
        """
        self._memory: mmap.mmap | None = mmap.mmap(-1, max(num_buffers * num_bytes, 1))
        self._num_bytes = num_bytes
        self._free = deque(range(num_buffers))
        self.id = next(self._ids)
        self._alive[self.id] = self

    @classmethod
    def of_id(cls, pool_id: int) -> SharedBatchPool:
        """Return the pool of this process that has an id."""
        return cls._alive[pool_id]

    def acquire(self) -> int | None:
        """Take a free buffer; return its number, or None where all are in use."""
        return self._free.popleft() if self._free else None

    def release(self, buffer: int) -> None:
        """Free a buffer that was acquired."""
        self._free.append(buffer)

    def array(self, buffer: int, shape: tuple[int, ...]) -> Uint8Array | None:
        """Return the memory of a buffer, to be written; None where it is too small or not shared."""
        size = math.prod(shape)
        if self._memory is None or size > self._num_bytes:
            return None
        return np.frombuffer(self._memory, np.uint8, size, buffer * self._num_bytes).reshape(shape)

    def tensor(self, buffer: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Return a buffer as a tensor that releases it when nothing refers to its memory any more.

        Views of the tensor, and arrays made of it, refer to its memory too.
        """
        array = self.array(buffer, shape)
        assert array is not None
        # Every view of the tensor keeps its storage, and the storage keeps this array.
        weakref.finalize(array, self._free.append, buffer).atexit = False
        return torch.from_numpy(array)

    def __getstate__(self) -> dict[str, Any]:
        return {"_num_bytes": self._num_bytes, "id": self.id, "_memory": None, "_free": deque()}
