"""Running statistics of normalisation layers: equal on all devices, and unchanged by a skipped update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yoloflow.engine.grad_reducer import GradReducer


class RunningStatistics:
    """All floating-point buffers of a network as one flat tensor.

    An overflow in the forward pass leaves infinities in the running statistics, and a moving average never
    gets rid of one. So the statistics of the last good update are kept, and put back when one is skipped.
    """

    def __init__(self, network: nn.Module, reducer: GradReducer) -> None:
        """Remember the present statistics of `network`; `reducer` averages them over the devices."""
        self._buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        self._reducer = reducer
        self._good = self._flat()

    def settle(self, skip: Tensor | None) -> None:
        """Finish an update: average over the devices; where it is skipped, go back to the last good values.

        Args:
            skip: () float, 1 where the update is skipped; None: it is applied whatever the numbers.
        """
        if not self._buffers:
            return
        present = self._flat()
        self._reducer.average([present])
        if skip is not None:
            present = torch.where(skip > 0, self._good, present)
        parts = torch.split(present, [buffer.numel() for buffer in self._buffers])
        shaped = [part.view_as(buffer) for part, buffer in zip(parts, self._buffers, strict=True)]
        torch._foreach_copy_(self._buffers, shaped)
        self._good = present

    def remember(self) -> None:
        """Take the present values for good (after a state has been loaded)."""
        self._good = self._flat()

    def _flat(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._buffers]) if self._buffers else torch.empty(0)
