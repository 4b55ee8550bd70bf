"""Layers without weights that lead maps together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yoloflow.models.layers.contract import Layer, LayerRow, MapShape


@dataclass(frozen=True, slots=True)
class SplitShape(MapShape):
    """A map whose channels are several parts, see `CBLinear`."""

    parts: tuple[int, ...]


class Upsample(Layer):
    """Enlarge a map by a whole factor, repeating cells."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale

    @classmethod
    def from_row(cls, row: LayerRow, size: None = None, scale: int = 2, mode: str = "nearest") -> Upsample:
        """Takes the row arguments size (None: it follows from the scale), scale, mode ("nearest").

        Raises:
            ValueError: another size or mode.
        """
        if size is not None or mode != "nearest":
            raise ValueError(f"takes [None, scale, nearest], not size {size} and mode {mode}")
        return cls(scale)

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns the same channels and the stride divided by the factor."""
        return MapShape(inputs[0].channels, inputs[0].stride / self.scale)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, scale * H, scale * W)."""
        if self.training and _adds_up_faster(features):
            repeated: Tensor = _Repeat.apply(features, self.scale)
            return repeated
        return _repeat(features, self.scale)


def _repeat(features: Tensor, scale: int) -> Tensor:
    return F.interpolate(features, scale_factor=float(scale), mode="nearest")


def _adds_up_faster(features: Tensor) -> bool:
    """Returns whether torch's own gradient of a repeated map is slow: it copies the map, on a CPU."""
    return (
        type(features) is Tensor
        and features.device.type == "cpu"
        and features.dtype == torch.float32
        and features.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


class _Repeat(torch.autograd.Function):
    """Repeated cells, whose gradient is the sum over each cell's repetitions."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: int) -> Tensor:
        ctx.scale = scale
        return _repeat(features, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        starts = itertools.product(range(ctx.scale), repeat=2)
        first, *others = (gradients[0][..., row :: ctx.scale, column :: ctx.scale] for row, column in starts)
        return sum(others, start=first), None


def halves(features: Tensor) -> tuple[list[Tensor], Tensor]:
    """Returns what is to be joined later of a map (B, 2 C, H, W) and its links, and the second half.

    Where nothing is differentiated that is the map itself, which is copied faster than two halves.
    """
    first, second = features.chunk(2, 1)
    return [first, second] if features.requires_grad else [features], second


class Concat(Layer):
    """Maps of one stride, joined along the channels."""

    takes_several = True

    @classmethod
    def from_row(cls, row: LayerRow, axis: int = 1) -> Concat:
        """Takes the row arguments axis (1, the channels).

        Raises:
            ValueError: another axis, or maps of different strides.
        """
        if axis != 1:
            raise ValueError(f"joins channels (axis 1), not axis {axis}")
        if len({shape.stride for shape in row.inputs}) > 1:
            strides = ", ".join(f"{shape.stride:g}" for shape in row.inputs)
            raise ValueError(f"joins maps of one stride, `from` names maps of strides {strides}")
        return cls()

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns the sum of the channels and the same stride."""
        return MapShape(sum(shape.channels for shape in inputs), inputs[0].stride)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Turns L maps (B, C_l, H, W) into (B, sum of C_l, H, W)."""
        return torch.cat(features, 1)


class Identity(Layer):
    """A map as it is, so that another row can name it."""

    @classmethod
    def from_row(cls, row: LayerRow) -> Identity:
        """Takes no row arguments."""
        return cls()

    def forward(self, features: Tensor) -> Tensor:
        """Returns the map as it is."""
        return features


class Shortcut(Layer):
    """The sum of two maps."""

    takes_several = True

    @classmethod
    def from_row(cls, row: LayerRow) -> Shortcut:
        """Takes no row arguments.

        Raises:
            ValueError: not two maps of one shape.
        """
        if len(row.inputs) != 2 or row.inputs[0] != row.inputs[1]:
            raise ValueError(f"adds two maps of one shape, `from` names {list(row.inputs)}")
        return cls()

    def forward(self, features: list[Tensor]) -> Tensor:
        """Turns two maps (B, C, H, W) into one."""
        return features[0] + features[1]


class CBLinear(Layer):
    """A 1x1 convolution, parts of whose channels go to different rows (CBNet; YOLOv9's auxiliary branch).

    The parts stay together in one map; `CBFuse` takes the part it names.

    Args:
        parts: channels of each part.
    """

    def __init__(self, in_channels: int, parts: Sequence[int]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.conv = nn.Conv2d(in_channels, sum(parts), 1)

    @classmethod
    def from_row(cls, row: LayerRow, parts: Sequence[int]) -> CBLinear:
        """Takes the row arguments parts (each scaled by the width)."""
        return cls(row.in_channels, [row.scaling.inner_channels(part) for part in parts])

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns all parts at the same stride."""
        return SplitShape(sum(self.parts), inputs[0].stride, self.parts)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, sum of the parts, H, W)."""
        result: Tensor = self.conv(features)
        return result


class CBFuse(Layer):
    """The sum of the last map and of one part of every other, each brought to the last one's size.

    Args:
        slices: first and last channel of the part of each map but the last.
    """

    takes_several = True

    def __init__(self, slices: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.slices = list(slices)

    @classmethod
    def from_row(cls, row: LayerRow, choices: Sequence[int]) -> CBFuse:
        """Takes the row arguments choices, which part of each `CBLinear` is taken.

        Raises:
            ValueError: a map but the last has no such part, or one with other channels.
        """
        slices = []
        for shape, choice in zip(row.inputs[:-1], choices, strict=True):
            if not isinstance(shape, SplitShape) or not 0 <= choice < len(shape.parts):
                raise ValueError(f"all maps but the last must be CBLinear's with a part {choice}")
            if shape.parts[choice] != row.inputs[-1].channels:
                found, wanted = shape.parts[choice], row.inputs[-1].channels
                raise ValueError(f"part {choice} has {found} channels, the last map {wanted}")
            first = sum(shape.parts[:choice])
            slices.append((first, first + shape.parts[choice]))
        return cls(slices)

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns the shape of the last map."""
        return inputs[-1]

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps (B, C_l, H_l, W_l) to (B, C, H, W)."""
        total = features[-1]
        for (first, end), source in zip(self.slices, features[:-1], strict=True):
            total = total + F.interpolate(source[:, first:end], size=total.shape[2:], mode="nearest")
        return total
