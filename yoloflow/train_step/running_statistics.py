"""Running statistics of normalisation layers, equal on all devices and unchanged by a skipped update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yoloflow.train_step.grad_reducer import GradReducer


class RunningStatistics:
    """The buffers of a network, averages and counters, with their last good values.

    An overflow in the forward pass leaves infinities in the running statistics, and a moving average never
    gets rid of one. So the statistics of the last good update are kept, and put back when one is skipped.
    """

    def __init__(self, network: nn.Module, reducer: GradReducer) -> None:
        """Keeps the present statistics of `network`; `reducer` averages them over the devices."""
        buffers = list(network.buffers())
        averages = _Flat([buffer for buffer in buffers if buffer.is_floating_point()])
        counters = _Flat([buffer for buffer in buffers if not buffer.is_floating_point()])
        self._averages = averages
        self._flats = [flat for flat in (averages, counters) if flat.buffers]
        self._reducer = reducer
        self._good = [flat.read() for flat in self._flats]

    def finish_update(self, skip: Tensor) -> None:
        """Averages over the devices after an update; where it is skipped, restores the last good values.

        Args:
            skip: () bool, whether the update is skipped.
        """
        for flat, good in zip(self._flats, self._good, strict=True):
            present = flat.read()
            if flat is self._averages:
                self._reducer.average([present])
            good.copy_(torch.where(skip, good, present))
        self.restore()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns present and last good values, for a state in the middle of an update."""
        present = {f"present.{number}": flat.read() for number, flat in enumerate(self._flats)}
        return present | {f"good.{number}": good for number, good in enumerate(self._good)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave; without it the present values are good."""
        self._good = [flat.read() for flat in self._flats]
        for number, (flat, good) in enumerate(zip(self._flats, self._good, strict=True)):
            if f"good.{number}" in state:
                flat.write(state[f"present.{number}"].to(good.device))
                good.copy_(state[f"good.{number}"])

    def restore(self) -> None:
        """Restores the last good values."""
        for flat, good in zip(self._flats, self._good, strict=True):
            flat.write(good)


class _Flat:
    """Reads and writes buffers as one vector."""

    def __init__(self, buffers: Sequence[Tensor]) -> None:
        self.buffers = list(buffers)

    def read(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self.buffers])

    def write(self, vector: Tensor) -> None:
        parts = torch.split(vector, [buffer.numel() for buffer in self.buffers])
        shaped = [part.view_as(buffer) for part, buffer in zip(parts, self.buffers, strict=True)]
        torch._foreach_copy_(self.buffers, shaped)
