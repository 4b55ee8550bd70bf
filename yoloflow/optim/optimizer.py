"""SGD and AdamW from torch, with state that exists from the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from yoloflow.optim.settings import OptimizerSettings

# These devices have fused kernels that can be told on the device to leave everything as it is.
_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def create_optimizer(
    params: Sequence[dict[str, Any]], settings: OptimizerSettings
) -> torch.optim.SGD | torch.optim.AdamW:
    """Creates the optimizer that the recipe names, over the groups of `create_group_param`.

    "momentum", "nesterov" and "sgd" are heavy-ball SGD, v = m v + (g + decay p), p -= lr v, or with Nesterov
    p -= lr (g + decay p + m v). Learning rates and momentum are set by `Schedule.apply` before every update.

    Args:
        params: parameter groups.
        settings: the recipe's optimizer section.

    Returns:
        a fused optimizer where the device has one, else a foreach one.
    """
    device_types = {parameter.device.type for group in params for parameter in group["params"]}
    is_fused = device_types <= _FUSED_DEVICES
    shared: dict[str, Any] = {"lr": settings.lr_init, "fused": is_fused, "foreach": not is_fused}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(params, betas=(settings.momentum, 0.999), weight_decay=0.0, **shared)
    return torch.optim.SGD(params, momentum=settings.momentum, nesterov=settings.uses_nesterov, **shared)


def is_skippable_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether the optimizer obeys a `found_inf` flag that lies on the device."""
    return bool(optimizer.defaults.get("fused"))


def zero_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives every parameter its moments, as zeros in the parameter's own memory format.

    Torch makes them at the first update, and leaves SGD's uninitialised if that update is skipped. Momentum
    that starts from zeros is the same algorithm: v = m 0 + g.
    """
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state[parameter]
        if isinstance(optimizer, torch.optim.SGD):
            state["momentum_buffer"] = torch.zeros_like(parameter)
        else:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
