"""Device, ranks and seeds: what depends on the machine and not on the model."""

from __future__ import annotations

import atexit
import ctypes
import gc
import logging
import os
import platform
import random
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from yoloflow.structures import YoloflowError, nearest_names

T = TypeVar("T")
Determinism = Literal["none", "data", "bitwise"]

logger = logging.getLogger("yoloflow")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its peers; one process is rank 0 of 1. `local_` counts those of one machine."""

    rank: int = 0
    rank_size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0


def select_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device to compute on.

    Args:
        name: "auto" (the machine's accelerator, else the CPU) or torch's name of a device.
        local_rank: which accelerator of this machine "auto" takes.

    Raises:
        YoloflowError: the named device does not exist here.
    """
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


def init_ranks(
    device_name: str = "auto", threads: int | None = None, timeout_s: float = 900.0
) -> tuple[Ranks, torch.device]:
    """Join the process group that torchrun describes in the environment, if there is one.

    The process leaves it by itself when Python ends.

    Args:
        device_name: see `select_device`.
        threads: CPU threads of this process; None leaves torch's choice.
        timeout_s: bound of every collective in seconds.

    Returns:
        this process's place and its device.
    """
    ranks = Ranks(
        rank=int(os.environ.get("RANK", 0)),
        rank_size=int(os.environ.get("WORLD_SIZE", 1)),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    )
    if threads is not None:
        torch.set_num_threads(threads)
    device = select_device(device_name, ranks.local_rank)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    if ranks.rank_size > 1 and not dist.is_initialized():
        dist.init_process_group(
            dist.get_default_backend_for_device(device),
            store=_meeting_place(ranks, timedelta(seconds=timeout_s)),
            rank=ranks.rank,
            world_size=ranks.rank_size,
            timeout=timedelta(seconds=timeout_s),
        )
        atexit.register(leave_ranks)
    return ranks, device


def _meeting_place(ranks: Ranks, timeout: timedelta) -> PrefixStore:
    """Where the processes find each other: a part of torchrun's store that those started together share.

    torchrun keeps one store while it starts ranks again. Without parts they find the addresses of the dead
    ones and wait for them, and the parts that torchrun itself has do not help: machines count the starts
    differently (pytorch/pytorch issue 135712).
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
    except dist.DistError as error:
        raise YoloflowError(
            f"rank {ranks.rank}: the ranks' meeting place cannot be used ({error})"
        ) from error
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return PrefixStore(_name_of_start(store, ranks, timeout), store)


def _name_of_start(store: Store, ranks: Ranks, timeout: timedelta) -> str:
    """A name that the processes started together share, and no others.

    Each rank leaves a word that nobody had before. The first answers every word it finds, be it of a dead
    rank, with its own, which is the name, until all ranks have taken it.

    Raises:
        YoloflowError: not all ranks come in time.
    """
    own, limit = uuid4().hex, f"within {timeout.total_seconds():g} seconds (rank_timeout)"
    if not ranks.is_main:
        store.set(f"word of rank {ranks.rank}", own)
        try:
            name = str(store.get(f"answer to {own}"), "ascii")
        except dist.DistStoreError as error:
            raise YoloflowError(f"rank {ranks.rank}: rank 0 did not answer {limit}") from error
        store.set(f"{name} taken by rank {ranks.rank}", "")
        return name
    missing, deadline = list(range(1, ranks.rank_size)), time.monotonic() + timeout.total_seconds()
    while missing := [rank for rank in missing if not store.check([f"{own} taken by rank {rank}"])]:
        if time.monotonic() > deadline:
            numbers = ", ".join(map(str, missing))
            raise YoloflowError(f"of {ranks.rank_size} ranks these did not come {limit}: {numbers}")
        for word in (f"word of rank {rank}" for rank in missing):
            if store.check([word]):
                store.set(f"answer to {str(store.get(word), 'ascii')}", own)
        time.sleep(0.02)
    return own


def device_name(device: torch.device) -> str:
    """A device in words: its kind, and the model where torch tells it (it does so for CUDA alone)."""
    if device.type == "cuda":
        return f"{device.type} ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.processor() or platform.machine()})"


def can_pin_memory() -> bool:
    """Whether page-locked memory makes the way to the accelerator faster (torch has it for CUDA alone)."""
    return torch.cuda.is_available()


def free_memory() -> int:
    """Bytes of memory that can be taken, the limit of a container included."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError, StopIteration):  # no Linux
        free = _kilobytes("/proc/meminfo", "MemAvailable")
    with suppress(OSError, ValueError):  # no container, or one without limit
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        free = min(free, int(limit) - used)
    return free


def peak_memory() -> int | None:
    """Bytes this process has had in memory at most since `forget_peak_memory`; None where nobody tells."""
    with suppress(OSError, ValueError, StopIteration):
        return _kilobytes("/proc/self/status", "VmHWM")
    if find_spec("resource") is None:  # Windows
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_memory() -> None:
    """Begin anew with the peak of `peak_memory`; where that cannot be, it stays that of the whole process.

    What was freed goes back to the system first: the allocator keeps it, and would count as in use.
    """
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _kilobytes(file: str, name: str) -> int:
    """A figure of one of Linux's own files, in bytes."""
    lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@torch.no_grad()
def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes (all of them must call), without gradient."""
    if count_ranks() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_over_ranks(value: T) -> list[T]:
    """Every process's value, by rank (all of them must call)."""
    if count_ranks() == 1:
        return [value]
    values: list[Any] = [None] * count_ranks()
    dist.all_gather_object(values, value)
    return values


def count_ranks() -> int:
    """Processes that have joined the group; 1 without one, and within `alone`."""
    if _Talk.is_off:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Talk:
    """Whether processes talk: one flag for all threads, since backward recomputes in threads of its own."""

    is_off = False


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process sums and gathers over itself, and so waits for no other.

    It is for what one rank may fail at while the others go on. Compiled code heeds it: torch compiles anew.
    """
    before, _Talk.is_off = _Talk.is_off, True
    try:
        yield
    finally:
        _Talk.is_off = before


def leave_ranks() -> None:
    """Leave the process group; without one nothing happens.

    Who joined without `init_ranks` calls this before Python ends: a thread of the group that lets go of a
    tensor while the interpreter is taken down aborts the process.
    """
    if dist.is_initialized():
        # A train step that is kept by a cycle of references keeps the group and its threads.
        gc.collect()
        dist.destroy_process_group()


def require_jit_backend(name: str) -> None:
    """Refuse a back end of `torch.compile` that there is not here.

    Args:
        name: any that torch lists; those for debugging are taken too, but not named.

    Raises:
        YoloflowError: there is none of that name.
    """
    if name not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise YoloflowError(f"jit_backend={name}: torch.compile has no such back end here; known: {known}")


def set_determinism(level: str) -> None:
    """State how much of a training a second one repeats; call it before anything runs on the device.

    What is learnt from (samples, their order, what is drawn for them, first weights) is a function of the
    seed at every level. "none": the device may try several kernels and take the fastest. "data": it does not,
    but may still add up in any order. "bitwise": kernels that give the same bits each time; an operation
    without such a kernel is an error of torch's that names it.

    Args:
        level: "none", "data" or "bitwise".

    Raises:
        YoloflowError: another level.
    """
    if level not in get_args(Determinism):
        raise YoloflowError(f"determinism={level}: {nearest_names(level, get_args(Determinism))}")
    is_bitwise = level == "bitwise"
    if is_bitwise:
        # Read by cuBLAS when it starts: without a fixed workspace its sums depend on the stream.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(is_bitwise)
    # It would fill all new memory, which costs a fifth of a step and matters only to a read of it by mistake.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = is_bitwise
    torch.backends.cudnn.benchmark = level == "none"


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """All global random generators of this process, by name: torch's, the device's, NumPy's and Python's."""
    state = {"torch": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    _, keys, *rest = np.random.get_state()  # noqa: NPY002  third-party code may draw from it
    state["numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state["numpy_rest"] = torch.tensor(rest, dtype=torch.float64)
    version, words, following = random.getstate()
    state["python"] = torch.tensor([version, *words])
    state["python_rest"] = torch.tensor([np.nan if following is None else following], dtype=torch.float64)
    return state


def set_rng_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Go on drawing where `rng_state` was taken; a generator of another kind of device is left as it is."""
    torch.set_rng_state(state["torch"].cpu())
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type].cpu(), device)
    position, has_normal, normal = state["numpy_rest"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_normal), normal))  # noqa: NPY002
    version, *words = state["python"].tolist()
    following = state["python_rest"].item()
    random.setstate((version, tuple(words), None if np.isnan(following) else following))


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch; data samples have generators of their own."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  third-party code may still draw from the global generator
    torch.manual_seed(seed)
