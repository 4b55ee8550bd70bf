"""The interface of all losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from yoloflow.runtime.ranks import count_ranks, sum_over_ranks
from yoloflow.settings import Section


class NetworkFacts(NamedTuple):
    """Properties of a network that its loss depends on.

    Attributes:
        stride: pixels a cell, level by level.
        nc: number of classes.
        anchors: widths and heights in pixels as the recipe states them; None where there are none.
    """

    stride: Sequence[int]
    nc: int
    anchors: Sequence[Sequence[float]] | None = None


class Loss(nn.Module, ABC):
    """A training objective.

    Attributes:
        settings_class: the hyper-parameters: their names, types and defaults.
        needs_anchors: whether the network must have anchors; else it must have none.
        loss_item_name: names of the items of `forward`, the total first.
        reduction: how the loss of a large batch follows from those of its parts (micro-batches, devices): as
            their sum, where `forward` multiplies by the number of images, or as their mean.
        takes_masks: whether `forward` takes a fourth argument, the masks, as `Batch.masks`.
        separate_masks: whether these are one for each object, and not one map an image.
    """

    settings_class: ClassVar[type[Section]]
    needs_anchors: ClassVar[bool] = False
    loss_item_name: list[str]
    reduction: Literal["sum", "mean"] = "sum"
    takes_masks: bool = False
    separate_masks: bool = False

    def __init__(self, settings: Section, network: NetworkFacts) -> None:
        super().__init__()
        self.settings = settings
        self.stride, self.nc = tuple(network.stride), network.nc

    def normalizer(self, number: Tensor) -> Tensor:
        """Returns the divisor that makes a sum over this device's images a mean over `number`.

        It is the mean number over the devices, so that the mean of their quotients is that of the joined
        batch: a device whose images have few objects does not weigh them more.

        Args:
            number: counts or scores on this device, of any shape; at least 1 is taken of each.
        """
        return sum_over_ranks(number.float()).clamp(min=1) / count_ranks()

    @staticmethod
    def with_items(items: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sum of items (I,), and it and the items, detached: (1 + I,)."""
        total = items.sum()
        return total, torch.cat((total[None], items)).detach()

    def begin_stage(self, stage: int) -> None:
        """Is called before the first step of an epoch with the 0-based stage that the epoch belongs to."""

    @abstractmethod
    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch of B images.

        Args:
            outputs: the network's outputs in train mode.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; class -1 in padding rows.
            images: (B, 3, H, W) network input; losses read its size alone.

        Returns:
            the scalar to differentiate and the detached 1-D items named by `loss_item_name`, float32.
        """


def takes_masks(loss_fn: nn.Module) -> bool:
    """Returns whether a loss is called with the batch's masks: where its `takes_masks` is true."""
    return bool(getattr(loss_fn, "takes_masks", False))


def full_masks(loss_fn: nn.Module, labels: Tensor, side: int) -> list[Tensor]:
    """Returns the masks of a trial batch, a quarter of the images' sides; none where the loss takes none.

    Args:
        loss_fn: of the training.
        labels: (B, G, 6).
        side: of the images in pixels.
    """
    if not takes_masks(loss_fn):
        return []
    objects = labels.shape[1:2] if getattr(loss_fn, "separate_masks", False) else ()
    shape = (len(labels), *objects, side // 4, side // 4)
    return [torch.ones(shape, dtype=torch.uint8, device=labels.device)]
