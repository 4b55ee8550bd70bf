"""Gradients over several devices: averaged while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from yoloflow.structures import YoloflowError


class GradReducer:
    """One device: everything stays as it is."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """What to call instead of `module`, so that backward averages its gradients over the devices."""
        return module

    def micro_batch(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """The context for forward and backward of one micro-batch of an update.

        Args:
            module: what `wrap` returned.
            is_last: whether the update follows; only then do the devices talk to each other.
        """
        return nullcontext()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the devices (all of them must call)."""


class DistributedGradReducer(GradReducer):
    """Several processes with one device each, through `DistributedDataParallel`.

    The mean is taken; `StepOptions.loss_ratio` equal to the number of devices makes it the sum.
    """

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module in DDP, which averages gradients as they come."""
        # Running statistics are averaged once an update (`RunningStatistics`), not broadcast at each forward.
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def micro_batch(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Without talking, unless this is the last micro-batch."""
        assert isinstance(module, DistributedDataParallel)
        return nullcontext() if is_last else module.no_sync()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """One all-reduce a tensor."""
        for tensor in tensors:
            dist.all_reduce(tensor)
        if tensors:
            torch._foreach_div_(list(tensors), float(dist.get_world_size()))


def get_gradreducer(is_parallel: bool) -> GradReducer:
    """The reducer for one process, or for the process group that has been joined.

    Args:
        is_parallel: whether several processes train together.

    Raises:
        YoloflowError: no process group has been joined (`runtime.init_ranks`).
    """
    if not is_parallel:
        return GradReducer()
    if not dist.is_initialized():
        raise YoloflowError("training on several devices needs a process group: start with torchrun")
    return DistributedGradReducer()
