"""The way of a batch to the device, beside the step that computes there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Transfer:
    """Copies batches to a device; on CUDA in a stream of its own, so that the step before goes on meanwhile.

    The host is ahead of the device within a sink, and in page-locked memory, where the loader has the batch,
    a copy does not wait for the host.
    """

    def __init__(self, device: torch.device) -> None:
        """Takes the device."""
        self._device = device

    def __call__(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Returns tensors on the device; those that are there already stay as they are."""
        if self._device.type != "cuda" or all(part.is_cuda for part in parts):
            return [part.to(self._device, non_blocking=True) for part in parts]
        return copied_beside(
            parts, self._device, self._stream, torch.accelerator.current_stream(self._device)
        )

    @cached_property
    def _stream(self) -> torch.Stream:
        return torch.Stream(self._device)


def copied_beside(
    parts: Sequence[Tensor], device: torch.device, side: torch.Stream, computing: torch.Stream
) -> list[Tensor]:
    """Returns copies that are made in one stream and used in another.

    Args:
        parts: tensors on the host.
        device: for the copies.
        side: the stream that copies.
        computing: the stream that waits for the copies and then uses them.
    """
    with side:
        copies = [part.to(device, non_blocking=True) for part in parts]
    computing.wait_stream(side)
    for copy in copies:
        # Memory of the side stream: it may be used again only when the computation is done with it.
        copy.record_stream(computing)
    return copies
