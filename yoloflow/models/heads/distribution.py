"""Box sides as distributions over bins (Li et al. 2020, Generalized Focal Loss, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DFL(nn.Module):
    """Expected value of each box side's distribution.

    The bins 0, 1, ... are a frozen parameter, as in the originals: it is counted and saved, never trained.

    Args:
        bins: bins of a side.
    """

    def __init__(self, bins: int = 16) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1))

    def forward(self, logits: Tensor) -> Tensor:
        """(B, 4 * bins, N) float32 logits to (B, 4, N) distances in cells.

        The sum is written out: a convolution would run in half precision under autocast, too coarse.
        """
        batch, _, number = logits.shape
        probabilities = logits.view(batch, 4, self.bins, number).softmax(2)
        return (probabilities * self.conv.weight.float().view(-1, 1)).sum(2)
