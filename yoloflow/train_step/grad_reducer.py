"""Averages gradients over several devices while the backward pass still runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from yoloflow.structures import YoloflowError


class GradReducer:
    """The reducer for one device: everything stays as it is.

    Attributes:
        rank: of this device among `world_size`.
    """

    rank, world_size = 0, 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns the module to call instead of `module`, so that backward averages its gradients."""
        return module

    def micro_batch(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Returns the context for forward and backward of one micro-batch of an update.

        Args:
            module: what `wrap` returned.
            is_last: whether the update follows; only then do the devices communicate.
        """
        return nullcontext()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their mean over the devices (all of them must call)."""

    def on_all(self, flag: Tensor) -> Tensor:
        """Returns () bool, whether a flag is true on all devices (all of them must call)."""
        return flag

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Returns the tensors of all devices, by rank (all of them must call)."""
        return [dict(tensors)]

    def own_part(self, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Returns those of the tensors named `<prefix><rank>.<name>` that are this device's, by name.

        Args:
            tensors: made of what `gather` gave; others may be among them.
            prefix: of the names.

        Raises:
            YoloflowError: they were gathered from another number of devices.
        """
        parts = [name.removeprefix(prefix).split(".", 1) for name in tensors if name.startswith(prefix)]
        ranks = {int(rank) for rank, _ in parts}
        if ranks and ranks != set(range(self.world_size)):
            raise YoloflowError(
                f"the training state is of {len(ranks)} processes in the middle of an update, these are "
                f"{self.world_size}: go on with as many"
            )
        mine = str(self.rank)
        return {name: tensors[f"{prefix}{mine}.{name}"] for rank, name in parts if rank == mine}


class DistributedGradReducer(GradReducer):
    """The reducer for several processes with one device each, through `DistributedDataParallel`.

    The mean is taken; see `StepSettings.loss_ratio`.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns the module in DDP, which averages gradients as they come."""
        # Running statistics are averaged once an update (`RunningStatistics`), not broadcast at each forward.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        # The name that torch 2.14 has for it, and earlier versions lack.
        new = "forward_sync_buffers"
        off: dict[str, Any] = {new if new in known else "broadcast_buffers": False}
        return DistributedDataParallel(module, gradient_as_bucket_view=True, **off)

    def micro_batch(self, module: nn.Module, is_last: bool) -> AbstractContextManager[None]:
        """Returns a context without communication, unless this is the last micro-batch."""
        assert isinstance(module, DistributedDataParallel)
        return nullcontext() if is_last else module.no_sync()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Averages with one all-reduce for each tensor."""
        for tensor in tensors:
            dist.all_reduce(tensor)
        if tensors:
            torch._foreach_div_(list(tensors), float(self.world_size))

    def on_all(self, flag: Tensor) -> Tensor:
        """Returns the minimum over all devices."""
        number = flag.float()
        dist.all_reduce(number, dist.ReduceOp.MIN)
        return number > 0

    def gather(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Gathers through host memory."""
        gathered: list[dict[str, Tensor]] = [{} for _ in range(self.world_size)]
        dist.all_gather_object(gathered, {name: tensor.detach().cpu() for name, tensor in tensors.items()})
        return gathered


def get_gradreducer(is_parallel: bool) -> GradReducer:
    """Returns the reducer for one process, or for the process group that has been joined.

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
