"""The values of a Darknet file, given the names of a network: both in the order of the layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

from torch import Tensor, nn

from yoloflow.models.heads.yolov4 import YOLOv4Head
from yoloflow.models.layers.convolution import ConvNormAct
from yoloflow.structures import YoloflowError

EPS = 1e-5
"""What Darknet's BatchNorm adds to the variance."""

# Networks without a recipe: values without those of the last convolutions, and values of these for one output
# channel of each anchor, of which there are 5 + classes.
_OTHERS = {
    "yolov3-tiny": (8_662_384, 3 * 770),
    "yolov4-tiny": (5_866_464, 3 * 770),
    "yolov3-spp": (62_594_656, 3 * 1795),
    "yolov2": (50_547_936, 5 * 1025),
}
_BEFORE_CLASSES = 5
_MOST_CLASSES = 2000


class _Layer(NamedTuple):
    """A convolution, with its name and that of its BatchNorm, which the last ones do not have."""

    conv_name: str
    conv: nn.Conv2d
    norm_name: str | None

    def size(self, out_channels: int) -> int:
        """Returns the number of its values with as many output channels."""
        return out_channels * (self.conv.weight[0].numel() + (1 if self.norm_name is None else 4))


def name_values(network: nn.Module, values: Tensor) -> dict[str, Tensor]:
    """Cuts a Darknet file's values into tensors with the names of a network.

    The last convolutions are as wide as the file's number of classes wants. A file of the first layers alone,
    such as darknet53.conv.74, gives those.

    Args:
        network: of Darknet's function, its rows in the order of Darknet's layers.
        values: (N,) of the file.

    Raises:
        YoloflowError: the network is not Darknet's, or the file does not have as many values as it needs.
    """
    head = _darknet_head(network)
    layers = list(_layers(network, head))
    classes = _count_classes(layers, head.num_anchors, len(values))
    tensors: dict[str, Tensor] = {}
    place = 0
    for layer in layers:
        if place == len(values):
            break
        kernel = list(layer.conv.weight.shape)
        if layer.norm_name is None:
            kernel[0] = head.num_anchors * (_BEFORE_CLASSES + classes)
            leaves = [f"{layer.conv_name}.bias"]
        else:
            leaves = [
                f"{layer.norm_name}.{leaf}" for leaf in ("bias", "weight", "running_mean", "running_var")
            ]
        shapes = {**dict.fromkeys(leaves, kernel[:1]), f"{layer.conv_name}.weight": kernel}
        for name, shape in shapes.items():
            size = math.prod(shape)
            tensors[name] = values[place : place + size].view(shape)
            place += size
    negative = [name for name in tensors if name.endswith("running_var") and (tensors[name] < 0).any()]
    if negative:
        raise YoloflowError(f"is damaged, or of another network: {negative[0]} would be negative")
    return tensors


def _darknet_head(network: nn.Module) -> YOLOv4Head:
    """Returns the head of a network that computes what Darknet does."""
    heads = [module for module in network.children() if isinstance(module, YOLOv4Head)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not heads or any(norm.eps != EPS for norm in norms):
        raise YoloflowError(
            "of Darknet, whose networks differ from this one in activations, BatchNorm and decoding of boxes"
        )
    return heads[0]


def _layers(network: nn.Module, head: YOLOv4Head) -> Iterator[_Layer]:
    """Yields the convolutions in the order of Darknet's files: one of the head follows the row it takes."""
    inputs: list[str] = getattr(network, "head_inputs", [])
    rows = dict(network.named_children())
    head_name = next(name for name, row in rows.items() if row is head)
    outputs = {
        row_name: _Layer(f"{head_name}.convs.{level}", conv, None)
        for level, (row_name, conv) in enumerate(zip(inputs, head.convs, strict=True))
        if isinstance(conv, nn.Conv2d)
    }
    for row_name, row in rows.items():
        for name, module in row.named_modules(prefix=row_name):
            if isinstance(module, ConvNormAct):
                yield _Layer(f"{name}.conv", module.conv, f"{name}.bn")
        if row_name in outputs:
            yield outputs[row_name]


def _count_classes(layers: Sequence[_Layer], num_anchors: int, found: int) -> int:
    """Returns the classes of a file with `found` values; 0 for a file of the first layers alone.

    Raises:
        YoloflowError: it has as many values for no number of classes.
    """
    body = [layer for layer in layers if layer.norm_name is not None]
    fixed = sum(layer.size(layer.conv.out_channels) for layer in body)
    by_channel = sum(layer.size(num_anchors) for layer in layers if layer.norm_name is None)
    classes = _classes(found, fixed, by_channel)
    if classes:
        return classes
    first = takewhile(lambda layer: layer.norm_name is not None, layers)
    if found in accumulate(layer.size(layer.conv.out_channels) for layer in first):
        return 0
    others = [(name, _classes(found, *sizes)) for name, sizes in _OTHERS.items()]
    known = [f"; {name} of {number} classes has, but is no recipe" for name, number in others if number]
    of_coco = fixed + by_channel * (_BEFORE_CLASSES + 80)
    raise YoloflowError(
        f"has {found:,} values; this network has {of_coco:,} with 80 classes, {by_channel:,} for each, and "
        "as many as the file with no number of classes" + "".join(known)
    )


def _classes(found: int, fixed: int, by_channel: int) -> int | None:
    """Returns the number of classes that makes so many values; None where none does."""
    channels, over = divmod(found - fixed, by_channel)
    classes = channels - _BEFORE_CLASSES
    return classes if over == 0 and 1 <= classes <= _MOST_CLASSES else None
