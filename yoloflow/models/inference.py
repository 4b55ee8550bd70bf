"""A network made ready to predict: fused, and on the CPU with oneDNN's fused kernels."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.network import Network


def prepare_for_inference(network: Network, in_float32: bool = True) -> Network:
    """A copy that predicts the same, faster; the network given is left as it is.

    It is fused (`Network.fuse`). On the CPU its weights lie channels last and, in float32, each convolution
    with SiLU is one kernel where torch has it. Elsewhere the memory layout is the network's own.

    Args:
        network: in any mode.
        in_float32: whether it computes in float32; half precision is autocast's.
    """
    ready = network.fuse()
    if next(ready.parameters()).device.type != "cpu":
        return ready
    ready = ready.to(memory_format=torch.channels_last)
    if in_float32 and _has_fused_silu():
        for module in list(ready.modules()):
            for name, child in module.named_children():
                if _is_folded_with_silu(child):
                    setattr(module, name, _ConvSiLU(child.conv))
    return ready


class _ConvSiLU(nn.Module):
    """SiLU of a convolution in one kernel: the map passes through memory once, not thrice."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        return _fused_silu(features, self.conv)


def _is_folded_with_silu(module: nn.Module) -> TypeGuard[ConvNormAct]:
    if not isinstance(module, ConvNormAct):
        return False
    return isinstance(module.bn, nn.Identity) and isinstance(module.act, nn.SiLU)


def _fused_silu(features: Tensor, conv: nn.Conv2d) -> Tensor:
    # The kernel that torch.compile uses on the CPU ("swish" is oneDNN's word for SiLU).
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        *(features, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups),
        *("swish", [], ""),
    )
    return result


def _has_fused_silu() -> bool:
    """Whether this torch has the kernel, which is no public function, and it does what its name says."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(1, 1, 1).requires_grad_(False)
    for parameter in conv.parameters():
        parameter.fill_(0.75)
    ramp = torch.linspace(-4, 4, 16).view(1, 1, 4, 4)
    try:
        return torch.allclose(_fused_silu(ramp, conv), F.silu(conv(ramp)), atol=1e-6)
    except (RuntimeError, TypeError):  # another signature, or a processor without it
        return False
