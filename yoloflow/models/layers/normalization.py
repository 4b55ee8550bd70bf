"""BatchNorm: the constructor all layers use, statistics of all ranks, and those of recomputed layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from yoloflow.runtime.ranks import count_ranks

EPS = 1e-3
MOMENTUM = 0.03


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Makes a BatchNorm with darknet's epsilon and momentum, which all families keep."""
    return nn.BatchNorm2d(channels, eps=EPS, momentum=MOMENTUM)


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns the factor and the summand of a BatchNorm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the joined batch of all ranks, on any device and backend.

    Count, mean and variance of each rank are gathered and combined (Chan et al. 1979, parallel formula);
    autograd goes through the gathering, so gradients are those of the joined batch. On CUDA the kernels of
    torch.nn.SyncBatchNorm do it, which exist nowhere else. With one process, and in eval mode, it is
    BatchNorm2d. State-dict keys are BatchNorm2d's.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape; B, H and W may differ between ranks."""
        if not self.training or not _several_ranks():
            return super().forward(features)
        if features.is_cuda:
            # A trial without the other ranks takes as much memory with BatchNorm2d.
            return self._fused(features) if count_ranks() > 1 else super().forward(features)
        mean, variance, count = _joined_statistics(features)
        self._update_running(mean.detach(), variance.detach(), count)
        scale = self.weight.to(mean.dtype) * torch.rsqrt(variance + self.eps)
        shift = self.bias.to(mean.dtype) - mean * scale
        shape = (1, -1, 1, 1)
        wide = torch.addcmul(shift.view(shape), features.to(mean.dtype), scale.view(shape))
        return wide.to(features.dtype)

    def _fused(self, features: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        tensors = (features, self.weight, self.bias, self.running_mean, self.running_var)
        normalized: Tensor = _FusedNorm.apply(*tensors, self.eps, self.momentum)
        return normalized

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked.add_(1)


def synchronize_batch_norm(module: nn.Module) -> None:
    """Replace every BatchNorm2d inside `module` by `SyncBatchNorm` with the same tensors."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncBatchNorm(child.num_features, child.eps, child.momentum, device="meta")
            synced.train(child.training)
            synced.load_state_dict(child.state_dict(keep_vars=True), assign=True)
            module.add_module(name, synced)
        else:
            synchronize_batch_norm(child)


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keeps the running statistics of BatchNorms inside `module` unchanged within the context.

    Activation checkpointing runs a forward pass twice; the second run stands under this context. The updates
    go into copies, because the second run has to save the same tensors for autograd as the first.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    _set_buffers(norms, [{name: buffer.clone() for name, buffer in entry.items()} for entry in kept])
    try:
        yield
    finally:
        _set_buffers(norms, kept)


def _set_buffers(modules: list[_BatchNorm], buffers: list[dict[str, Tensor]]) -> None:
    for module, entry in zip(modules, buffers, strict=True):
        for name, buffer in entry.items():
            setattr(module, name, buffer)


def frozen_norms(module: nn.Module) -> list[nn.Module]:
    """Returns the BatchNorms inside `module` none of whose parameters is trained."""
    return [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and not any(p.requires_grad for p in norm.parameters())
    ]


def _several_ranks() -> bool:
    """Returns true if several ranks have joined; also within `without_collectives`, which tries memory."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _joined_statistics(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes mean (C,), biased variance (C,) and count () over all ranks, at least float32."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    count = mean.new_full((1,), features.numel() // features.shape[1])
    rows = _GatherRows.apply(torch.cat((count, mean, variance)))
    counts, means, variances = rows.split((1, len(mean), len(mean)), 1)
    total = counts.sum()
    weights = counts / total
    joined_mean = (weights * means).sum(0)
    joined_variance = (weights * (variances + (means - joined_mean) ** 2)).sum(0)
    return joined_mean, joined_variance, total.detach()


class _FusedNorm(torch.autograd.Function):
    """Normalisation over the joined batch by the kernels that torch.nn.SyncBatchNorm takes.

    Torch's own function first looks, on the host, for ranks without images; here there are none.
    """

    @staticmethod
    def forward(  # noqa: PLR0913  those of BatchNorm
        ctx: FunctionCtx,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        features, channels = _dense(features), features.shape[1]
        mean, invstd = torch.batch_norm_stats(features, eps)
        count = mean.new_full((1,), features.numel() // channels)
        rows = _gather_rows(torch.cat((mean, invstd, count)))
        means, invstds, counts = rows.split((channels, channels, 1), 1)
        counts = counts.flatten()
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            features, means, invstds, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(features, weight, mean, invstd, counts.to(torch.int32))
        return torch.batch_norm_elemt(features, weight, bias, mean, invstd, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, mean, invstd, counts = ctx.saved_tensors
        gradient, needed = _dense(gradients[0]), ctx.needs_input_grad
        sum_dy, sum_dy_xmu, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, features, mean, invstd, weight, True, needed[1], needed[2]
        )
        sums = torch.cat((sum_dy, sum_dy_xmu))
        dist.all_reduce(sums)
        of_features = torch.batch_norm_backward_elemt(
            gradient, features, mean, invstd, weight, sums[: len(mean)], sums[len(mean) :], counts
        )
        own = (of_weight if needed[1] else None, of_bias if needed[2] else None)
        return (of_features, *own, None, None, None, None)


def _dense(features: Tensor) -> Tensor:
    """Returns a tensor that is contiguous, in channels_last where it is that already."""
    is_last = features.is_contiguous(memory_format=torch.channels_last)
    return features if is_last else features.contiguous()


def _gather_rows(vector: Tensor) -> Tensor:
    """Returns each rank's vector (K,) as rows (ranks, K), without gradient."""
    rows = vector.new_empty(dist.get_world_size() * len(vector))
    # The name that torch 2.14 has for it, and the one that earlier versions have and later ones warn of.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(rows, vector)
    return rows.view(-1, len(vector))


class _GatherRows(torch.autograd.Function):
    """A gathering of each rank's vector (K,) as rows (ranks, K), with gradients.

    Within `without_collectives` there is one row.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, vector: Tensor) -> Tensor:
        return vector.unsqueeze(0).clone() if count_ranks() == 1 else _gather_rows(vector)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Any) -> Tensor:
        total: Tensor = gradients[0].contiguous().clone()
        if len(total) == 1:
            return total[0]
        dist.all_reduce(total)
        return total[dist.get_rank()]
