"""CUDA graphs: operations of a device that are recorded once and then run by one call of the host."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
# Of the device's memory, that steps may take: a graph keeps as much, and evaluations need some beside it.
_LARGEST_SHARE = 0.4


class CudaGraph:
    """Records the operations of a function, and runs them again on the same memory."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def record(self, function: Callable[[], Result]) -> Result:
        """Calls a function whose operations are recorded and not run.

        Returns:
            What the function does. Its tensors have no values before `replay`, and other values after each.

        Raises:
            RuntimeError: an operation cannot be recorded, or there is no memory for it.
        """
        if torch.cuda.max_memory_allocated() > _LARGEST_SHARE * torch.cuda.mem_get_info()[1]:
            raise RuntimeError("steps take more than 40 % of the memory, and a graph would keep as much")
        gc.collect()  # an older autograd graph that lives on would add gradients in another stream
        # Only this thread's calls are restricted: another one brings batches into page-locked memory.
        with torch.cuda.graph(self._graph, pool=_shared_pool(), capture_error_mode="thread_local"):
            return function()

    def replay(self) -> None:
        """Runs the recorded operations."""
        self._graph.replay()


@cache
def _shared_pool() -> Any:
    """Returns the memory that all graphs use in turn; what they return stays where it is."""
    return torch.cuda.graph_pool_handle()
