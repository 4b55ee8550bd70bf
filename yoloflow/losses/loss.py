"""What every loss is to the rest of the house."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Loss(nn.Module, ABC):
    """A training objective.

    Attributes:
        loss_item_name: what the items of `forward` are, the total first.
    """

    loss_item_name: list[str]

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
