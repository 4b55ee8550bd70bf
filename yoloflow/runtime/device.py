"""The device to compute on."""

from __future__ import annotations

import platform

import torch

from yoloflow.runtime.settings import check_device_name
from yoloflow.structures import YoloflowError


def select_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Returns the device to compute on.

    Args:
        name: "auto" (the machine's accelerator, else the CPU) or torch's name of a device.
        local_rank: which accelerator of this machine "auto" takes.

    Raises:
        YoloflowError: the named device does not exist here.
    """
    try:
        check_device_name(name)
    except ValueError as error:
        raise YoloflowError(f"device: {error}") from error
    if name == "auto":
        # torch.accelerator may name CUDA on a machine without a GPU: ask for availability too.
        if torch.accelerator.is_available():
            kind = torch.accelerator.current_accelerator()
            assert kind is not None
            return torch.device(kind.type, local_rank)
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise YoloflowError(
            f"device={name}: not usable here ({error}); use device=auto or device=cpu"
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """Describes a device: its kind, and the model where torch knows it (for CUDA alone)."""
    if device.type == "cuda":
        return f"{device.type} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.processor() or platform.machine()})"


def can_pin_memory() -> bool:
    """Returns whether page-locked memory makes transfers faster (torch has it for CUDA alone)."""
    return torch.cuda.is_available()


def require_jit_backend(name: str) -> None:
    """Refuses a back end of `torch.compile` that is not available.

    Args:
        name: any that torch lists; those for debugging are taken too, but not named.

    Raises:
        YoloflowError: there is none of that name.
    """
    if name not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise YoloflowError(f"jit_backend={name}: torch.compile has no such back end here; known: {known}")
