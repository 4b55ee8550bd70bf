"""Joined statistics by the kernels that only CUDA has, with stand-ins of these kernels for the CPU.

The stand-ins are written from the formulas of the kernels; the kernels themselves run on no CPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from yoloflow.models.layers.normalization import SyncBatchNorm
from yoloflow.runtime.ranks import leave_ranks, without_collectives

SHARES = (2, 3)
CHANNELS = 4


def stats(features: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(features, (0, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def gather_stats(
    _features: Tensor,
    means: Tensor,
    invstds: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    parts = counts[:, None] / counts.sum()
    mean = (parts * means).sum(0)
    variance = (parts * (invstds**-2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (variance + eps).rsqrt()


def elemt(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, invstd: Tensor, _eps: float) -> Tensor:
    return (x - by_channel(mean)) * by_channel(invstd * weight) + by_channel(bias)


def backward_reduce(
    dy: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, _weight: Tensor, *_needed: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sum_dy, sum_dy_xmu = dy.sum((0, 2, 3)), (dy * (x - by_channel(mean))).sum((0, 2, 3))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def backward_elemt(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    counts: Tensor,
) -> Tensor:
    along = by_channel(invstd**2 * sum_dy_xmu / counts.sum())
    centred = dy - by_channel(sum_dy / counts.sum()) - (x - by_channel(mean)) * along
    return centred * by_channel(invstd * weight)


def by_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def with_stand_ins() -> torch.library.Library:
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("batch_norm_stats", stats, "CPU")
    kernels.impl("batch_norm_gather_stats_with_counts", gather_stats, "CPU")
    kernels.impl("batch_norm_elemt", elemt, "CPU")
    kernels.impl("batch_norm_backward_reduce", backward_reduce, "CPU")
    kernels.impl("batch_norm_backward_elemt", backward_elemt, "CPU")
    return kernels


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(sum(SHARES), CHANNELS, 5, 3, generator=generator, dtype=torch.float64) * 3 + 1


def norm_of(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    norm = kind(CHANNELS, eps=1e-3, momentum=0.03).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return norm


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(SHARES))
    kernels = with_stand_ins()
    norm = norm_of(SyncBatchNorm)
    assert isinstance(norm, SyncBatchNorm)
    share = images().split(SHARES)[rank].to(memory_format=torch.channels_last).requires_grad_()
    output = norm._fused(share)
    (output**3).sum().backward()
    found = {"output": output.detach(), "of_images": share.grad, "of_weight": norm.weight.grad}
    torch.save(found | {"of_bias": norm.bias.grad, "state": norm.state_dict()}, f"{folder}/{rank}.pt")
    del kernels
    leave_ranks()


@pytest.mark.process
def test_the_kernels_of_cuda_are_called_as_the_joined_batch_needs(tmp_path: Path) -> None:
    mp.spawn(run_rank, (str(tmp_path),), nprocs=len(SHARES))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(SHARES))]
    whole, batch = norm_of(nn.BatchNorm2d), images().requires_grad_()
    output = whole(batch)
    (output**3).sum().backward()
    torch.testing.assert_close(torch.cat([rank["output"] for rank in ranks]), output.detach())
    torch.testing.assert_close(torch.cat([rank["of_images"] for rank in ranks]), batch.grad)
    torch.testing.assert_close(sum(rank["of_weight"] for rank in ranks), whole.weight.grad)
    torch.testing.assert_close(sum(rank["of_bias"] for rank in ranks), whole.bias.grad)
    for rank in ranks:
        torch.testing.assert_close(dict(rank["state"]), dict(whole.state_dict()))


def test_a_single_process_and_a_trial_normalise_their_own_batch() -> None:
    synced, plain = norm_of(SyncBatchNorm), norm_of(nn.BatchNorm2d)
    with without_collectives():
        assert torch.equal(synced(images()), plain(images()))
    assert synced.state_dict().keys() == plain.state_dict().keys()
