"""A network made ready to predict: fused, and on the CPU with oneDNN's fused kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yoloflow.models.layers.contract import HeadOutput
from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.network import Network

# Pixels that go through the network at once on a CPU, where maps that fit its caches are up to twice as fast
# as those of a whole batch: one image of 640 x 640, four of 320 x 320.
_CPU_PIXELS = 640 * 640


def prepare_for_inference(network: Network, in_float32: bool = True) -> Network:
    """Returns a copy that predicts the same, faster; the network itself is left as it is.

    It is fused (`Network.fuse`). On the CPU its weights lie channels last and, in float32 and where torch has
    the kernels, a convolution keeps its weights as oneDNN reads them too and SiLU is in it. Elsewhere the
    memory layout is the network's own. The copy's weights are not to be changed.

    Args:
        network: in any mode.
        in_float32: whether it computes in float32; half precision is autocast's.
    """
    ready = network.fuse()
    if next(ready.parameters()).device.type != "cpu":
        return ready
    ready = ready.to(memory_format=torch.channels_last)
    if in_float32 and _has_packed_kernels():
        _pack(ready)
    return ready


class Prediction(NamedTuple):
    """The decoded predictions of B images.

    Attributes:
        rows: (B, N, ...) as the network's `output_kind` says.
        prototypes: (B, K, h, w) of the masks; None where the network predicts none.
    """

    rows: Tensor
    prototypes: Tensor | None = None


def predict_images(network: nn.Module, images: Tensor) -> Tensor:
    """Returns the rows that `predict` gives."""
    return predict(network, images).rows


def predict(network: nn.Module, images: Tensor) -> Prediction:
    """Returns the decoded predictions of images: the first tensor that a network in eval mode returns.

    On the CPU the images go through the network some at a time, so that its maps stay in the caches.

    Args:
        network: a network made ready, or anything that answers as one.
        images: (B, 3, H, W) as the network takes them, on its device.
    """
    kind = getattr(network, "output_kind", HeadOutput())
    at_once = len(images)
    if images.device.type == "cpu":
        images = images.contiguous(memory_format=torch.channels_last)
        most = max(_CPU_PIXELS // (images.shape[2] * images.shape[3]), 1)
        # In groups of one size, as far as that goes: for another the weights are arranged anew.
        num_groups = -(-len(images) // most)
        at_once = -(-len(images) // num_groups)
    parts = [prediction_of(network(some), kind) for some in torch.split(images, at_once)]
    prototypes = [part.prototypes for part in parts if part.prototypes is not None]
    return Prediction(_joined([part.rows for part in parts]), _joined(prototypes) if prototypes else None)


def prediction_of(outputs: Any, kind: HeadOutput) -> Prediction:
    """Returns the prediction among the outputs that a network in eval mode returns: first and last tensor."""
    return Prediction(_tensor_at(outputs, 0), _tensor_at(outputs, -1) if kind.mask_channels else None)


def _tensor_at(outputs: Any, end: int) -> Tensor:
    """Returns the first (0) or last (-1) tensor of outputs in any order of tuples and lists."""
    while not isinstance(outputs, Tensor):
        outputs = outputs[end]
    return outputs


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _pack(module: nn.Module) -> None:
    """Packs the convolution of each unit of convolution and activation below a module."""
    for name, child in module.named_children():
        if not isinstance(child, ConvNormAct):
            _pack(child)
        elif isinstance(child.bn, nn.Identity) and isinstance(child.act, nn.SiLU):
            setattr(module, name, _PackedConv(child.conv, with_silu=True))
        else:
            child.add_module("conv", _PackedConv(child.conv, with_silu=False))


class _PackedConv(nn.Module):
    """A convolution with its weights in oneDNN's blocks, and SiLU before its result goes to memory.

    These are the kernels that torch.compile uses on the CPU. Which blocks are best depends on the input's
    shape; torch's own convolution arranges the weights in each call.
    """

    def __init__(self, conv: nn.Conv2d, with_silu: bool) -> None:
        super().__init__()
        self.conv = conv
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._activation = "swish" if with_silu else "none"  # oneDNN's words
        self._packed: tuple[torch.Size, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns all but the arranged weights: their memory can be neither copied nor sent elsewhere."""
        return {**self.__dict__, "_packed": None}

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H', W')."""
        features = features.contiguous(memory_format=torch.channels_last)
        if self._packed is None or self._packed[0] != features.shape:
            weight, shape = self.conv.weight.detach(), list(features.shape)
            packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *self._geometry, shape)
            self._packed = features.shape, packed
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            *(features, self._packed[1], self.conv.bias, *self._geometry), *(self._activation, [], "")
        )
        return result


def _has_packed_kernels() -> bool:
    """Returns true if this torch has the kernels, which are not public, and they work."""
    if not torch.backends.mkldnn.is_available():
        return False
    with torch.random.fork_rng(devices=[]):
        conv = nn.Conv2d(1, 1, 1).requires_grad_(False)
    for parameter in conv.parameters():
        parameter.fill_(0.75)
    ramp = torch.linspace(-4, 4, 16).view(1, 1, 4, 4)
    try:
        result = _PackedConv(conv, with_silu=True)(ramp)
    except (AttributeError, RuntimeError, TypeError):  # none, another signature, or a processor without them
        return False
    return torch.allclose(result, F.silu(conv(ramp)), atol=1e-6)
