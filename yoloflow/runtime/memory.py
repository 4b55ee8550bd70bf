"""Free main memory, what the allocator keeps of it, and the peak of this process or its accelerator."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch

_CPU = torch.device("cpu")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def keep_freed_memory() -> None:
    """Lets the allocator of a Linux system (glibc) keep what is freed, for the next tensors.

    A step frees all that it takes. Given back to the system, each page of the next step's tensors is a page
    fault, and is filled with zeros first.
    """
    _set_thresholds(mmap=2**30, trim=-1)  # -1: never


def give_back_freed_memory() -> None:
    """Ends `keep_freed_memory`: gives back what is free, and from now on what is freed."""
    _set_thresholds(mmap=2**25, trim=2**26)  # as far as glibc raises its own when large tensors are freed
    _trim()


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
    _trim()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _set_thresholds(mmap: int, trim: int) -> None:
    """Sets above which size glibc asks the system for a block of its own, and gives free memory back."""
    with suppress(OSError, AttributeError, TypeError):  # no glibc; Windows has no CDLL(None)
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, mmap)
        libc.mallopt(_TRIM_THRESHOLD, trim)


def _trim() -> None:
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _kilobytes(file: str, name: str) -> int:
    """Reads a figure of a file in /proc, in bytes."""
    lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
