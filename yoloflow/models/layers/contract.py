"""The base classes of layers and heads: modules that are built from a row and know the map they give."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class MapShape:
    """The shape of a map: its channels, and the input pixels between neighbouring cells."""

    channels: int
    stride: float


@dataclass(frozen=True, slots=True)
class Scaling:
    """The compound scaling of a table for a model size, as Ultralytics and MindYOLO define it.

    Attributes:
        depth: factor on the repeats of rows that are repeated.
        width: factor on channels.
        max_channels: limit of the channels before the factor.
        size: the size's letter, where layers ask for it (YOLOv11), or None.
    """

    depth: float = 1.0
    width: float = 1.0
    max_channels: float = math.inf
    size: str | None = None

    def channels(self, channels: int) -> int:
        """Returns the channels of a row after scaling: a multiple of 8, rounded up."""
        return math.ceil(min(channels, self.max_channels) * self.width / 8) * 8

    def inner_channels(self, channels: int) -> int:
        """Returns the channels inside of a block, where its row states them, after scaling."""
        return self.channels(channels)

    def repeats(self, number: int) -> int:
        """Returns the repeats of a row after scaling, at least 1; a single one stays single."""
        return max(round(number * self.depth), 1) if number > 1 else number


@dataclass(frozen=True, slots=True)
class LayerRow:
    """The surroundings of a row: all that a layer is built from beside the row's arguments.

    Attributes:
        inputs: the maps it takes, in the order of its `from`.
        scaling: rule for its channels.
        repeats: how often its block is repeated, already scaled.
    """

    inputs: Sequence[MapShape]
    scaling: Scaling
    repeats: int

    @property
    def in_channels(self) -> int:
        """Returns the channels of the map of a layer that takes one."""
        return self.inputs[0].channels

    def kept_channels(self, channels: int) -> int:
        """Returns the channels of a layer that gives as many as it takes.

        Raises:
            ValueError: the row asks for another number.
        """
        if self.scaling.channels(channels) != self.in_channels:
            raise ValueError(f"gives the channels it takes, {self.in_channels}; the row asks for {channels}")
        return self.in_channels


class Layer(nn.Module, ABC):
    """A module that a row of the table can name.

    Constructors call the channels of the maps they take and give `in_channels` and `out_channels`.

    A new layer is a subclass and a line in `models/layer_classes.py`. Its `from_row(row, *args,
    **keywords)` takes the `LayerRow` and then the row's arguments under their own names; it alone states how
    they scale, and raises ValueError where they make no sense.

    Attributes:
        takes_repeats: the layer repeats its own inside; else a repeated row becomes a stack of layers.
        takes_several: its input is a list of maps; else it is one map.
        out_channels: channels of the map it gives, None for those that it takes.
        step: cells of the map it takes from one cell of the map it gives to the next.
        mindyolo_names: names of children -> their paths in MindYOLO, see `yoloflow.weights.mindyolo`.
    """

    takes_repeats: ClassVar[bool] = False
    takes_several: ClassVar[bool] = False
    mindyolo_names: ClassVar[dict[str, str]] = {}
    out_channels: int | None = None
    step: int = 1
    from_row: ClassVar[Callable[..., Layer]]
    __call__: Callable[..., Tensor]

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns the shape of the map it gives for the maps it takes."""
        return MapShape(self.out_channels or inputs[0].channels, inputs[0].stride * self.step)


class Stack(Layer, nn.Sequential):
    """A chain of layers that one row describes."""

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Returns the shape that the last layer gives."""
        for layer in self.children():
            assert isinstance(layer, Layer)
            inputs = [layer.output_shape(inputs)]
        return inputs[0]


@runtime_checkable
class Foldable(Protocol):
    """A layer whose BatchNorm can be folded into its convolution."""

    def fold_norm(self) -> None:
        """Fold the running statistics into the weights, in place, for inference."""


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """The meaning of a head's decoded predictions, for the evaluation.

    Attributes:
        has_objectness: rows are cx, cy, w, h, objectness, class scores (else without objectness).
        end_to_end: rows are x1, y1, x2, y2, score, class, already one for each object (no NMS needed).
        mask_channels: K mask coefficients at the end of a row, 0 where there are none; the last of the
            network's outputs are the prototypes that they belong to, (B, K, h, w).
    """

    has_objectness: bool = False
    end_to_end: bool = False
    mask_channels: int = 0


class Head(Layer):
    """The last row of a table: it makes raw predictions and decodes them into boxes and scores.

    Constructors call the channels of the L maps they take `in_channels`, the strides of the maps in pixels
    `stride`, and the number of classes, C, `num_classes`.
    """

    takes_several = True
    __call__: Callable[..., Any]
    output_kind: HeadOutput
    stride: list[int]
    class_parts: ClassVar[tuple[str, ...]] = ()
    """Names of the children, lists of one module a level, that depend on the classes."""
    rows_before_classes: ClassVar[int] = 0
    """Output channels of a cell (of an anchor, where there are any) before those of the classes."""
    num_anchors: int = 1
    inference_names: ClassVar[dict[str, str]] = {}
    """Names of children in the original's files for inference, where they differ from `mindyolo_names`."""
    neutral: ClassVar[dict[str, float]] = {}
    """Children that the original's files for inference do not have, and the value that is without effect."""

    @abstractmethod
    def decode(self, raw: Any) -> Tensor:
        """Decodes raw predictions to (B, N, 4 + scores) in input pixels, as `output_kind` says."""

    def trim(self, num_inputs: int) -> list[int]:
        """Drop, in place, what only training needs.

        Args:
            num_inputs: maps the head takes.

        Returns:
            positions of the maps that it still takes, from now on only these, in this order.
        """
        return list(range(num_inputs))

    def class_tensors(self) -> dict[str, Tensor]:
        """Returns by name the parameters with a row for each class, of the last layers of `class_parts`."""
        found: dict[str, Tensor] = {}
        for part in self.class_parts:
            for level, module in self.get_submodule(part).named_children():
                name = f"{part}.{level}"
                if isinstance(module, nn.Sequential):
                    name, module = f"{name}.{len(module) - 1}", module[-1]
                found.update({f"{name}.{leaf}": value for leaf, value in module.named_parameters()})
        return found

    def output_shape(self, inputs: Sequence[MapShape]) -> MapShape:
        """Refuses: a head gives no map.

        Raises:
            ValueError: always; no row can take a head's output.
        """
        raise ValueError("a head's output cannot be taken by another row")


def neutral_tensors(network: nn.Module) -> dict[str, float]:
    """Returns the names of a network's tensors that its head calls `neutral`, with the value of each."""
    return {
        f"{row}.{name}": value
        for row, head in network.named_children()
        if isinstance(head, Head)
        for child, value in head.neutral.items()
        for name, _ in head.get_submodule(child).named_parameters(prefix=child)
    }
