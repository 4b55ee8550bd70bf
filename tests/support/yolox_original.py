"""The original YOLOX-nano's published weights in our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from yoloflow.config.reader import load_config
from yoloflow.models import Network, create_model
from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.models.layers.csp import C3

RECIPE, CLASSES = "yolox-nano-original", 80


def file_order(network: Network) -> list[ConvNormAct | nn.Conv2d]:
    """The convolutions as the ONNX file has them: as they run, but a C3's second branch before its blocks."""
    ran: list[Any] = []
    units = [module for module in network.modules() if isinstance(module, ConvNormAct)]
    inner = {module.conv for module in units}
    others = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module not in inner]
    hooks = [module.register_forward_hook(lambda *args: ran.append(args[0])) for module in (*units, *others)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    for block in network.modules():
        if isinstance(block, C3):
            ran.insert(ran.index(block.main) + 1, ran.pop(ran.index(block.side)))
    return ran


def original_network(folder: Path) -> Network:
    """Our YOLOX-nano with the published weights; their folded BatchNorms are ours' shift."""
    config = load_config(RECIPE)
    network = create_model(config.network.model_name, config.network_table(), CLASSES)
    arrays = np.load(folder / "yolox_nano_convs_in_order.npz")
    order = file_order(network)
    assert len(arrays.files) == 2 * len(order)
    with torch.no_grad():
        for number, module in enumerate(order):
            weight, bias = (torch.from_numpy(arrays[f"{number:03d}.{key}"]) for key in ("weight", "bias"))
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(weight)
                module.get_parameter("bias").copy_(bias)
            else:
                assert module.conv.weight.shape == weight.shape
                module.conv.weight.copy_(weight)
                assert isinstance(module.bn, nn.BatchNorm2d)
                module.bn.weight.fill_((1 + module.bn.eps) ** 0.5)
                module.bn.bias.copy_(bias)
    return network.eval()
