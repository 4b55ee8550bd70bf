"""What every loss is to the rest of the house."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from yoloflow.runtime.ranks import count_ranks, sum_over_ranks


class Loss(nn.Module, ABC):
    """A training objective.

    Attributes:
        loss_item_name: what the items of `forward` are, the total first.
        reduction: what makes the loss of a large batch of those of its parts (micro-batches, devices): their
            sum, where `forward` multiplies by the number of images, or their mean.
    """

    loss_item_name: list[str]
    reduction: Literal["sum", "mean"] = "sum"

    def __init__(self, variant: str = "published") -> None:
        """Nothing is set but the rules.

        Args:
            variant: see `create_loss`.
        """
        super().__init__()
        self.variant = variant

    def normalizer(self, number: Tensor) -> Tensor:
        """What a sum over the images of this device is divided by, to be a mean over what `number` counts.

        It is the mean number over the devices, so that the mean of their quotients is that of the joined
        batch: a device whose images have few objects does not weigh them more. In variant "mindyolo" it is
        the device's own number.

        Args:
            number: counts or scores on this device, of any shape; at least 1 is taken of each.
        """
        if self.variant == "mindyolo":
            return number.clamp(min=1)
        return sum_over_ranks(number.float()).clamp(min=1) / count_ranks()

    def begin_stage(self, stage: int) -> None:
        """Called before the first step of an epoch with the 0-based stage that the epoch belongs to."""

    @abstractmethod
    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch of B images.

        Args:
            outputs: what the network returns in train mode.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; class -1 in padding rows.
            images: (B, 3, H, W) network input.

        Returns:
            the scalar to differentiate and the detached 1-D items named by `loss_item_name`, float32.
        """
