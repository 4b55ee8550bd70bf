"""Free main memory, and the peak of this process there or on its accelerator."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

from yoloflow.runtime.allocator import give_back_freed_memory

_CPU = torch.device("cpu")


def free_memory() -> int:
    """Returns the bytes of free memory, within the limit of a container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):  # no Linux
        free = _kilobytes("/proc/meminfo", "MemAvailable")
    with suppress(OSError, ValueError):  # no container, or one without limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        free = min(free, int(limit) - used)
    return free


def peak_memory(device: torch.device = _CPU) -> int | None:
    """Returns the peak bytes of this process since `forget_peak_memory`; None where unknown.

    Args:
        device: in whose memory, that of its tensors; on the CPU all of the process counts.
    """
    if device.type != "cpu":
        with suppress(RuntimeError):  # a device, or a version of torch, that does not count
            return int(torch.accelerator.max_memory_allocated(device))
        return None
    with suppress(OSError, ValueError, StopIteration):
        return _kilobytes("/proc/self/status", "VmHWM")
    if find_spec("resource") is None:  # Windows
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_memory(device: torch.device = _CPU) -> None:
    """Resets the peak of `peak_memory`; where the system cannot, it stays that of the whole process.

    On the CPU what was freed goes back to the system first: the allocator keeps it, and would count as in
    use.
    """
    if device.type != "cpu":
        with suppress(RuntimeError):
            torch.accelerator.reset_peak_memory_stats(device)
        return
    give_back_freed_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _kilobytes(file: str, name: str) -> int:
    """Reads a figure of a file in /proc, in bytes."""
    lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
