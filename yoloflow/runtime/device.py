"""The device to compute on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Any

import torch

from yoloflow.runtime.settings import check_device_name, command_with
from yoloflow.structures import YoloflowError


@dataclass(frozen=True, slots=True)
class Accelerators:
    """The accelerators that torch can use on this machine.

    Attributes:
        kind: torch's name of them, such as "cuda"; "cpu" where there is none.
        count: how many; CUDA_VISIBLE_DEVICES and its like may hide some.
    """

    kind: str = "cpu"
    count: int = 0


def find_accelerators() -> Accelerators:
    """Returns the accelerators of this machine."""
    # torch.accelerator may name CUDA on a machine without a GPU: ask for availability too.
    if not torch.accelerator.is_available():
        return Accelerators()
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return Accelerators(kind.type, torch.accelerator.device_count())


def select_device(
    name: str = "auto",
    local_rank: int | None = None,
    local_size: int | None = None,
    found: Accelerators | None = None,
) -> torch.device:
    """Returns the device to compute on; each process that torchrun starts on a machine has its own.

    Args:
        name: "auto" (the machine's accelerator, else the CPU), the number of an accelerator, or torch's name
            of a device.
        local_rank: of this process on its machine, and the accelerator that "auto" and a name without number
            take; None: as torchrun says, else 0.
        local_size: processes of this machine; None: as torchrun says, else 1.
        found: the accelerators; None looks for them.

    Raises:
        YoloflowError: the device does not exist here, or is another process's.
    """
    rank = int(os.environ.get("LOCAL_RANK", 0)) if local_rank is None else local_rank
    size = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if local_size is None else local_size
    present = find_accelerators() if found is None else found
    try:
        text = str(check_device_name(name))
        wanted = present.kind if text == "auto" else text
        device = torch.device(f"{present.kind}:{wanted}" if wanted.isdecimal() else wanted)
    except (ValueError, RuntimeError) as error:
        raise YoloflowError(f"device={name}: {str(error).splitlines()[0]}") from error
    if device.type == "cpu" and not wanted.isdecimal():
        return device
    if device.type != present.kind or not present.count:
        raise YoloflowError(
            f"device={name}: {_why_absent(device.type, present)}; use device=auto or device=cpu"
        )
    chosen = torch.device(device.type, rank if device.index is None else device.index)
    if chosen.index >= present.count or (size > 1 and chosen.index != rank):
        raise YoloflowError(f"device={name}: {_why_not(chosen, device.index, rank, size, present.count)}")
    if found is None:
        _try_out(chosen)
    return chosen


def _try_out(device: torch.device) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise YoloflowError(f"{device}: not usable here ({error}); use device=cpu") from error


def _why_absent(kind: str, present: Accelerators) -> str:
    """Returns the reason why there is no device of a kind, or of any where that is "cpu"."""
    if present.count:
        return f"torch has {present.kind} devices here, none of {kind}"
    if kind not in ("cpu", "cuda"):
        return f"torch {torch.__version__} finds no {kind} device here"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build for the CPU alone (pytorch.org names the others)"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    hint = "" if hidden is None else f"; CUDA_VISIBLE_DEVICES={hidden!r} may hide them"
    return f"torch {torch.__version__} finds no accelerator here (nvidia-smi lists NVIDIA's cards{hint})"


def _why_not(chosen: torch.device, number: int | None, rank: int, size: int, count: int) -> str:
    """Returns the reason why a process cannot have an accelerator, and what to do.

    `number` is the accelerator's as it was named; None: it has that of the process.
    """
    kind = chosen.type
    there = f"this machine has {count} {kind} device{'s' if count > 1 else ''}, numbered from 0"
    see = "; CUDA_VISIBLE_DEVICES chooses which it sees" if kind == "cuda" else ""
    if number is None:
        return (
            f"local rank {rank} of {size} has none to itself: {there}{see}. Start one process for each: "
            f"{command_with(f'torchrun --nproc-per-node {count} -m')}"
        )
    if number >= count:
        return f"there is no {chosen}: {there}{see}"
    return (
        f"local rank {rank} of {size} would share {chosen} with another process; leave device=... out, each "
        f"then takes its own: {there}{see}"
    )


def require_training_kernels(device: torch.device) -> None:
    """Refuses a device on which this torch lacks what training needs: some versions do on Apple's (mps).

    Raises:
        YoloflowError: it does.
    """
    if device.type != "mps":
        return
    try:
        numbers = torch.zeros(2, dtype=torch.int64, device=device)
        numbers.scatter_reduce(0, numbers, numbers, "amin")
        torch.accelerator.max_memory_allocated(device)
    except RuntimeError as error:
        raise YoloflowError(
            f"device=mps: torch {torch.__version__} cannot train there ({str(error).splitlines()[0]}); "
            "2.14 and later should, or use device=cpu"
        ) from error


def device_name(device: torch.device) -> str:
    """Describes a device: its kind, and the model where torch knows it (for CUDA alone)."""
    if device.type == "cuda":
        return f"{device.type} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.processor() or platform.machine()})"


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts on which settings that stand on `auto` depend.

    Attributes:
        device_type: "cpu", "cuda", ...
        has_bfloat16: whether bfloat16 is the half precision of the device.
        cores: of the CPU that this process may use.
        cpu_has_bfloat16: whether the device is a CPU with instructions for bfloat16; None where unknown.
    """

    device_type: str
    has_bfloat16: bool
    cores: int
    cpu_has_bfloat16: bool | None = None

    @classmethod
    def of(cls, device: torch.device) -> Machine:
        """Returns the facts of this machine and a device of it."""
        usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))  # not on a Mac
        has_instructions = _cpu_has_bfloat16() if device.type == "cpu" else None
        return cls(device.type, has_bfloat16(device.type), len(usable(0)), has_instructions)


def prefers_channels_last(device_type: str) -> bool:
    """Returns whether convolutions on a type of device are faster where a pixel's channels lie together.

    They are with oneDNN on the CPU, and with cuDNN but for Windows, where its kernels are slow.
    """
    if device_type == "cpu":
        return bool(torch.backends.mkldnn.is_available())
    return device_type in ("cuda", "xpu") and platform.system() != "Windows"


def has_bfloat16(device_type: str) -> bool:
    """Returns whether bfloat16 is the half precision of a type of device: natively, or on the CPU."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device_type != "mps"


def _cpu_has_bfloat16() -> bool | None:
    """Returns whether this x86 processor has instructions for bfloat16; None where it is not known.

    Without them it computes by way of float32, which takes longer than float32 itself.
    """
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if known.get("architecture") != "x86_64":
        return None
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def float32_convolutions(device_type: str) -> str:
    """Returns the arithmetic of convolutions in float32, as torch is set and the environment overrides it."""
    if device_type != "cuda":
        return "float32"
    is_tf32 = torch.backends.cudnn.allow_tf32 and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
    return "TF32 (NVIDIA_TF32_OVERRIDE=0 in the environment for float32)" if is_tf32 else "float32"


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
