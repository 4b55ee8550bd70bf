"""A loss that changes with the stages of the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from yoloflow.losses.loss import Loss


class StagedLoss(Loss):
    """One loss for each stage; stages after the last one keep its loss.

    Args:
        losses: the stages' losses, all of one class.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        nn.Module.__init__(self)
        self.losses = nn.ModuleList(losses)
        self.loss_item_name, self.reduction = losses[0].loss_item_name, losses[0].reduction
        self.takes_masks, self.separate_masks = losses[0].takes_masks, losses[0].separate_masks
        self.stage = 0

    def begin_stage(self, stage: int) -> None:
        """Selects the loss of a stage, counted from 0."""
        self.stage = min(stage, len(self.losses) - 1)

    def forward(self, outputs: Any, labels: Tensor, images: Tensor, *masks: Tensor) -> tuple[Tensor, Tensor]:
        """As `Loss.forward`, of the stage in progress; masks go on to losses that take them."""
        loss: tuple[Tensor, Tensor] = self.losses[self.stage](outputs, labels, images, *masks)
        return loss
