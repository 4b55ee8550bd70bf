"""Loss scaling: keeps small half-precision gradients above zero."""

from __future__ import annotations

import torch
from torch import Tensor

from yoloflow.structures import YoloflowError, nearest_names

SCALER_KINDS = ("static", "dynamic", "none")
MIN_SCALE = 1.0


class LossScaler:
    """Multiplies the loss by a scale that may follow the gradients.

    Dynamic: halved after an update with non-finite gradients (never below 1), doubled after `window` updates
    in a row without one. The scale lies on the device and is adjusted there: the host never waits for it.

    Attributes:
        scale: () float32.
        good_updates: () int32, updates since the last overflow or change.
    """

    def __init__(self, scale_value: float, is_dynamic: bool, factor: float = 2.0, window: int = 2000) -> None:
        """Starts at `scale_value`; see `get_loss_scaler`."""
        self.scale = torch.tensor(scale_value, dtype=torch.float32)
        self.good_updates = torch.tensor(0, dtype=torch.int32)
        self._is_dynamic, self._factor, self._window = is_dynamic, factor, window

    def to(self, device: torch.device) -> LossScaler:
        """Moves scale and counter to a device; returns the scaler."""
        self.scale, self.good_updates = self.scale.to(device), self.good_updates.to(device)
        return self

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Returns the loss to differentiate."""
        return loss * self.scale

    def can_shrink(self) -> Tensor:
        """Returns () bool, whether an overflow of the gradients will make the scale smaller."""
        if not self._is_dynamic:
            return torch.zeros_like(self.scale, dtype=torch.bool)
        return self.scale > MIN_SCALE

    def adjust(self, finite: Tensor, unless: Tensor | None = None) -> None:
        """Adjusts the scale after an update.

        Args:
            finite: () bool, whether its gradients were.
            unless: () bool; where true, nothing changes.
        """
        if not self._is_dynamic:
            return
        good = torch.where(finite, self.good_updates + 1, 0)
        is_time_to_grow = good >= self._window
        shrunk = torch.clamp(self.scale / self._factor, min=MIN_SCALE)
        grown = torch.where(is_time_to_grow, self.scale * self._factor, self.scale)
        scale = torch.where(finite, grown, shrunk)
        good = torch.where(is_time_to_grow, 0, good)
        if unless is not None:
            scale = torch.where(unless, self.scale, scale)
            good = torch.where(unless, self.good_updates, good)
        self.scale.copy_(scale)
        self.good_updates.copy_(good)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns scale and counter, the live tensors."""
        return {"scale": self.scale, "good_updates": self.good_updates}


def get_loss_scaler(kind: str, scale_value: float = 1024.0) -> LossScaler:
    """Returns the loss scaler that a recipe names.

    Args:
        kind: "static" (constant), "dynamic" (starts at `scale_value`; factor 2, window 2,000) or "none";
            "auto", where nobody has decided it for a device, is "static".
        scale_value: the scale, or where a dynamic one starts; a power of two changes no digit.

    Raises:
        YoloflowError: unknown kind, or a scale that is not positive.
    """
    kind = "static" if kind == "auto" else kind
    if kind not in SCALER_KINDS:
        raise YoloflowError(f"loss_scaler={kind}: unknown; {nearest_names(kind, SCALER_KINDS)}")
    if not scale_value > 0.0:
        raise YoloflowError(f"loss_scaler_value={scale_value}: must be above 0")
    return LossScaler(1.0 if kind == "none" else scale_value, is_dynamic=kind == "dynamic")
