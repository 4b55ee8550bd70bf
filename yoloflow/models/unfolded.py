"""Weights whose BatchNorm is folded into the convolutions: as names, and ready for training again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.csp import C3
from yoloflow.models.layers.normalization import EPS, scale_and_shift
from yoloflow.structures import YoloflowError
from yoloflow.weights.onnx_convolutions import Convolution


def unfold(network: nn.Module, convolutions: Sequence[Convolution]) -> dict[str, Tensor]:
    """Gives convolutions the names of a network: both in the order in which they are computed.

    What BatchNorm did is in kernel and bias; a network's own BatchNorm becomes a mere shift by the bias. So
    evaluation gives what the file gives, and a training, which would measure new statistics, would not.

    Args:
        network: in eval mode it computes the same as the file.
        convolutions: of the file.

    Raises:
        YoloflowError: the file has another number of convolutions, or they have other shapes.
    """
    order = _in_order(network)
    if len(order) != len(convolutions):
        raise YoloflowError(f"has {len(convolutions)} convolutions, the network {len(order)}")
    state = dict(network.state_dict())
    for number, ((name, module), (kernel, bias)) in enumerate(zip(order, convolutions, strict=True)):
        conv = module.conv if isinstance(module, ConvNormAct) else module
        if kernel.shape != conv.weight.shape:
            raise YoloflowError(
                f"its convolution {number} is {tuple(kernel.shape)}, the network's ({name}) "
                f"{tuple(conv.weight.shape)}"
            )
        shift = torch.zeros(len(kernel)) if bias is None else bias
        if isinstance(module, ConvNormAct):
            assert isinstance(module.bn, nn.BatchNorm2d)
            state |= {f"{name}.conv.weight": kernel, **_mere_shift(f"{name}.bn", shift, module.bn.eps)}
        else:
            state |= {f"{name}.weight": kernel, f"{name}.bias": shift}
    return state


def with_norms(tensors: Mapping[str, Tensor], surplus: Iterable[str]) -> dict[str, Tensor]:
    """Replaces the biases that a fused network has in place of BatchNorms by the BatchNorms of `unfold`.

    Args:
        tensors: with names that end in conv.bias and bn.weight, as PyTorch's projects have them.
        surplus: those ending in conv.bias that the network does not have; others keep their bias.
    """
    found = dict(tensors)
    for name in surplus:
        block, bias = name.removesuffix("conv.bias"), tensors[name]
        if f"{block}bn.weight" not in tensors:
            del found[name]
            found |= _mere_shift(f"{block}bn", bias, EPS)
    return found


def _mere_shift(name: str, bias: Tensor, eps: float) -> dict[str, Tensor]:
    """Returns the tensors of a BatchNorm that adds `bias` and does nothing else."""
    ones = torch.ones_like(bias)
    return {
        f"{name}.bias": bias,
        f"{name}.weight": ones * (1 + eps) ** 0.5,
        f"{name}.running_var": ones,
        f"{name}.running_mean": torch.zeros_like(bias),
    }


def is_folded(network: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether weights have the BatchNorms that `unfold` makes: mere shifts, in any file format.

    Args:
        network: whose BatchNorms are looked at.
        tensors: by the network's names.
    """
    parts = ("running_mean", "running_var", "bias")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    found = [[tensors.get(f"{name}.{part}", torch.zeros(1)) for part in parts] for name in names]
    # A new network has these statistics too, but no shift.
    is_shift = any(bias.any() for _, _, bias in found)
    return is_shift and all((variance == 1).all() and not mean.any() for mean, variance, _ in found)


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the running statistics of every BatchNorm to those of its input on images.

    Scale and shift are set so that the network in eval mode computes what it did. A training can then start
    from weights whose BatchNorm was folded.

    Args:
        network: changed in place.
        batches: images (B, 3, H, W), as the network takes them.
    """
    sums: dict[nn.BatchNorm2d, Tensor] = {}

    def add(norm: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        values = inputs[0].double()
        count = torch.full((values.shape[1],), values.numel() / values.shape[1], dtype=torch.float64)
        found = torch.stack((count, values.sum((0, 2, 3)), values.square().sum((0, 2, 3))))
        sums[norm] = sums.get(norm, torch.zeros_like(found)) + found

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(add) for norm in norms]
    was_training = network.training
    network.eval()
    for batch in batches:
        network(batch)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        _set_statistics(norm, mean, (squares / count - mean.square()).clamp(min=1e-8))


def _set_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Gives a BatchNorm other running statistics, and the scale and shift with which its function stays."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale, shift = scale_and_shift(norm)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + mean * scale)


def _in_order(network: nn.Module) -> list[tuple[str, Any]]:
    """Returns convolutions, with their BatchNorm where they have one, by name and as they are computed."""
    device = next(network.parameters()).device
    if device.type == "meta":  # constants such as anchors have values all the same
        network = copy.deepcopy(network).to(device)
    names = {module: name for name, module in network.named_modules()}
    units = [module for module in names if isinstance(module, ConvNormAct)]
    inner = {module.conv for module in units}
    others = [module for module in names if isinstance(module, nn.Conv2d) and module not in inner]
    ran: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda *args: ran.append(args[0])) for module in (*units, *others)]
    was_training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64, device=device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for block in names:
        # YOLOX computes the second branch of a block before the bottlenecks of the first.
        if isinstance(block, C3):
            ran.insert(ran.index(block.main) + 1, ran.pop(ran.index(block.side)))
    return [(names[module], module) for module in ran]
