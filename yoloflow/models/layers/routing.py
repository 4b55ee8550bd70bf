"""Layers without weights that lead maps together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from yoloflow.models.layers.contract import Layer, LayerRow, MapShape


class Upsample(Layer):
    """Enlarge a map by a whole factor, repeating cells."""

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale

    @classmethod
    def from_row(cls, row: LayerRow, size: None = None, scale: int = 2, mode: str = "nearest") -> Upsample:
        """Row arguments: size (must be None: the size follows from the scale), scale, mode ("nearest").

        Raises:
            ValueError: another size or mode.
        """
        if size is not None or mode != "nearest":
            raise ValueError(f"takes [None, scale, nearest], not size {size} and mode {mode}")
        return cls(scale)

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """The same channels, the stride divided by the factor."""
        return MapShape(inputs[0].channels, inputs[0].stride / self.scale)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, scale * H, scale * W)."""
        return F.interpolate(features, scale_factor=float(self.scale), mode="nearest")


class Concat(Layer):
    """Maps of one stride, joined along the channels."""

    takes_several = True

    @classmethod
    def from_row(cls, row: LayerRow, axis: int = 1) -> Concat:
        """Row arguments: axis (1, the channels).

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
        """The sum of the channels, the same stride."""
        return MapShape(sum(shape.channels for shape in inputs), inputs[0].stride)

    def forward(self, features: list[Tensor]) -> Tensor:
        """L maps (B, C_l, H, W) to (B, sum of C_l, H, W)."""
        return torch.cat(features, 1)
