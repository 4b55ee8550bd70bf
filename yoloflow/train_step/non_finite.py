"""Notices numbers that are not finite, and holds their updates back on the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yoloflow.structures import YoloflowError


class NonFiniteError(YoloflowError):
    """A loss, a gradient or a weight is not finite."""


class NonFiniteState:
    """Holds back a faulty update and all after it, until the host has looked.

    So the device can go on with steps that were already queued, and the state is that before the fault.
    All tensors are on the device.

    Attributes:
        is_on: whether updates are held; otherwise nothing is.
        losses_finite: () bool, whether the losses of the update in progress are.
        update: () int64, the first update that was held back; -1: none.
        broken: () int64, the first update that left weights which are not finite; -1: none. What comes after
            it is held back, whether `is_on` or not.
    """

    def __init__(self, device: torch.device) -> None:
        """Begins with nothing held back."""
        self.is_on = False
        self.losses_finite = torch.ones((), dtype=torch.bool, device=device)
        self.update = torch.full((), -1, dtype=torch.int64, device=device)
        self.broken = torch.full((), -1, dtype=torch.int64, device=device)

    def is_clear(self) -> bool:
        """Returns whether nothing is held back (waits for the device)."""
        return int(torch.maximum(self.update, self.broken)) < 0

    def note_loss(self, loss: Tensor) -> Tensor:
        """Notes the loss of a micro-batch; returns () bool, whether it is finite."""
        finite = torch.isfinite(loss)
        self.losses_finite.logical_and_(finite)
        return finite

    def note_update(self, is_fault: Tensor, number: int) -> Tensor:
        """Notes whether an update is faulty; returns () bool, whether it is held back."""
        if self.is_on:
            is_first = is_fault & (self.update < 0) & (self.broken < 0)
            self.update.copy_(torch.where(is_first, number, self.update))
        return (self.update >= 0) | (self.broken >= 0)

    def note_weights(self, weights: list[nn.Parameter], number: int) -> None:
        """Notes whether the weights that an update has left are finite, and their norm too."""
        norm = torch.nn.utils.get_total_norm(weights)
        is_first = ~torch.isfinite(norm) & (self.broken < 0) & (self.update < 0)
        self.broken.copy_(torch.where(is_first, number, self.broken))

    def release(self) -> None:
        """Holds nothing back any more."""
        self.update.fill_(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the part of it that belongs to an unfinished update."""
        return {"losses_finite": self.losses_finite}


def first_not_finite(network: nn.Module) -> str | None:
    """Returns the first weight of a network that is not finite, or None; waits for the device once."""
    weights = dict(network.named_parameters())
    # A largest value cannot overflow as a sum of squares does.
    if bool(torch.isfinite(torch.nn.utils.get_total_norm(weights.values(), float("inf")))):
        return None
    return next((name for name, weight in weights.items() if not is_finite(weight)), None)


def is_finite(tensor: Tensor | None) -> bool:
    """Returns whether all numbers of a tensor are finite; True without one."""
    return tensor is None or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
