"""BatchNorm and SiLU in one kernel, for training on a CPU; norm_silu.cpp has the arithmetic.

Torch reads and writes a map once for each step of the two, and keeps what lies between for the backward pass.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from yoloflow.runtime.native import load_native
from yoloflow.structures import YoloflowError

_LANES = 16
_POINTER, _LONG, _FLOAT, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int


def require_norm_silu() -> None:
    """Builds the kernel, and compares it with torch on a small map.

    Raises:
        YoloflowError: it cannot be built here, or computes something else than torch.
    """
    _kernel()
    if not _agrees_with_torch():
        raise YoloflowError("the kernel for BatchNorm and SiLU, as it was built here, computes wrong values")


def can_join(features: Tensor, norm: nn.Module, act: nn.Module) -> bool:
    """Returns whether the kernel takes a map (B, C, H, W), norm and activation that have no hooks."""
    return (
        type(norm) is nn.BatchNorm2d
        and type(act) is nn.SiLU
        and norm.training
        and norm.affine
        and norm.momentum is not None
        and norm.running_mean is not None
        and type(features) is Tensor
        and features.device.type in ("cpu", "meta")
        and features.dtype == norm.weight.dtype == torch.float32
        and features.shape[1] % _LANES == 0
        and features.numel() > features.shape[1]
        and features.is_contiguous(memory_format=torch.channels_last)
        and not (
            norm._forward_hooks or norm._forward_pre_hooks or act._forward_hooks or act._forward_pre_hooks
        )
    )


def norm_silu(features: Tensor, norm: nn.Module) -> Tensor:
    """Normalises a map (B, C, H, W) by its batch, moves the running statistics, and applies SiLU.

    Args:
        features: as `can_join` asks for.
        norm: a BatchNorm2d in training mode.
    """
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    tensors = (features, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    result: Tensor = _NormSiLU.apply(*tensors, norm.eps, norm.momentum)
    return result


class _NormSiLU(torch.autograd.Function):
    """The kernel with its gradient; on the meta device it only makes the tensors."""

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
        result, rows = torch.empty_like(features), _rows_of(features)
        statistics = features.new_empty((4, features.shape[1]))
        if features.device.type == "cpu":
            scratch = _scratch(rows, len(weight))
            _kernel().forward(
                *_pointers(features, weight, bias),
                eps,
                momentum,
                rows,
                len(weight),
                torch.get_num_threads(),
                *_pointers(running_mean, running_var, result, *statistics, scratch),
            )
        ctx.save_for_backward(features, statistics)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, statistics = ctx.saved_tensors
        gradient, step = _with_step(gradients[0])
        of_features, rows = torch.empty_like(features), _rows_of(features)
        of_weight, of_bias = features.new_empty((2, features.shape[1]))
        if features.device.type == "cpu":
            scratch = _scratch(rows, len(of_weight))
            _kernel().backward(
                *_pointers(features, gradient),
                step,
                *_pointers(*statistics),
                rows,
                len(of_weight),
                torch.get_num_threads(),
                *_pointers(of_features, of_weight, of_bias, scratch),
            )
        return of_features, of_weight, of_bias, None, None, None, None


@cache
def _kernel() -> ctypes.CDLL:
    kernel = load_native(Path(__file__).with_suffix(".cpp"))
    kernel.scratch_of.argtypes, kernel.scratch_of.restype = (_LONG, _LONG), _LONG
    kernel.forward.argtypes = (*[_POINTER] * 3, _FLOAT, _FLOAT, _LONG, _LONG, _INT, *[_POINTER] * 8)
    kernel.backward.argtypes = (
        _POINTER,
        _POINTER,
        _LONG,
        *[_POINTER] * 4,
        _LONG,
        _LONG,
        _INT,
        *[_POINTER] * 4,
    )
    kernel.forward.restype = kernel.backward.restype = None
    return kernel


@cache
def _agrees_with_torch() -> bool:
    """Returns whether the kernel gives torch's values and gradients on maps whose tiles are not full."""
    generator = torch.Generator().manual_seed(0)
    shape, norm = (3, 5 * _LANES, 13, 11), nn.BatchNorm2d(5 * _LANES)
    maps = 2 * torch.randn(shape, generator=generator) + 1, torch.randn(shape, generator=generator)
    features, gradient = (part.contiguous(memory_format=torch.channels_last) for part in maps)
    results = []
    for function in (norm_silu, lambda features, norm: nn.functional.silu(norm(features))):
        leaves = (features.clone().requires_grad_(), norm.weight, norm.bias)
        with torch.enable_grad():
            result = function(leaves[0], norm)
            results.append((result, *torch.autograd.grad(result, leaves, gradient)))
    return all(
        torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4) for ours, theirs in zip(*results, strict=True)
    )


def _rows_of(features: Tensor) -> int:
    return features.numel() // features.shape[1]


def _pointers(*tensors: Tensor) -> list[int]:
    """Returns addresses, which are valid as long as the caller holds the tensors."""
    return [tensor.data_ptr() for tensor in tensors]


def _scratch(rows: int, channels: int) -> Tensor:
    return torch.empty(_kernel().scratch_of(rows, channels))


def _with_step(gradient: Tensor) -> tuple[Tensor, int]:
    """Returns a gradient (B, C, H, W) whose cells lie at one distance, as parts of wider maps do, and it."""
    _, channels, height, width = gradient.shape
    step = gradient.stride(3)
    if step >= channels and gradient.stride() == (height * width * step, 1, width * step, step):
        return gradient, step
    return gradient.contiguous(memory_format=torch.channels_last), channels
