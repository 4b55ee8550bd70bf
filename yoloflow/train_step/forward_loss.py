"""Forward pass and loss: the part of the step that is differentiated and compiled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yoloflow.losses.loss import takes_masks
from yoloflow.models.precision import Precision, to_float32


class ForwardLoss(nn.Module):
    """Computes the loss of images and their targets."""

    def __init__(
        self, network: nn.Module, loss_fn: nn.Module, precision: Precision, memory_format: torch.memory_format
    ) -> None:
        super().__init__()
        self.network, self.loss_fn = network, loss_fn
        self._precision, self._memory_format = precision, memory_format
        self._takes_masks = takes_masks(loss_fn)

    @property
    def is_float32(self) -> bool:
        """Returns whether nothing is computed in half precision."""
        return self._precision.dtype is None

    def forward(self, images: Tensor, *targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of images (B, 3, H, W), as the network takes them, and its items.

        Args:
            images: of the batch.
            *targets: labels and, where there are any, masks; losses that take none do not get them.
        """
        images = images.contiguous(memory_format=self._memory_format)
        with self._precision.autocast():
            outputs = self.network(images)
            if not self._precision.keep_loss_fp32:
                return self._loss(outputs, images, *targets)
        return self._loss(to_float32(outputs), images, *targets)

    def _loss(self, outputs: object, images: Tensor, labels: Tensor, *masks: Tensor) -> tuple[Tensor, Tensor]:
        loss, items = self.loss_fn(outputs, labels, images, *(masks if self._takes_masks else ()))
        return loss, items.detach()
