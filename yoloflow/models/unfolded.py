"""The weights of a file that has convolutions without names, BatchNorm folded into them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.csp import C3
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
            state |= {f"{name}.conv.weight": kernel, f"{name}.bn.bias": shift}
            norm = module.bn
            assert isinstance(norm, nn.BatchNorm2d)
            ones = torch.ones(len(kernel))
            state |= {f"{name}.bn.weight": ones * (1 + norm.eps) ** 0.5, f"{name}.bn.running_var": ones}
            state[f"{name}.bn.running_mean"] = torch.zeros(len(kernel))
        else:
            state |= {f"{name}.weight": kernel, f"{name}.bias": shift}
    return state


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
