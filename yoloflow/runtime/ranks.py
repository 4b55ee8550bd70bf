"""The processes that train together, called ranks."""

from __future__ import annotations

import atexit
import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from yoloflow.runtime.device import select_device
from yoloflow.runtime.network_interface import choose_reachable_interface, name_of_machine
from yoloflow.runtime.rank_failures import describe_no_connection, is_rank_failure
from yoloflow.runtime.start_method import refuse_to_start_twice
from yoloflow.structures import YoloflowError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its peers; one process is rank 0 of 1.

    Attributes:
        rank: of this process.
        world_size: processes of all machines.
        local_rank: of this process on its machine.
        local_size: processes of this machine.
        timeout_s: bound of every wait for the others, in seconds.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    timeout_s: float = 900.0

    @property
    def is_main(self) -> bool:
        """True if this rank writes the files and prints."""
        return self.rank == 0


def init_ranks(
    device_name: str = "auto", threads: int | None = None, timeout_s: float = 900.0
) -> tuple[Ranks, torch.device]:
    """Joins the process group that torchrun describes in the environment, if there is one.

    The process leaves it by itself when Python ends.

    Args:
        device_name: see `select_device`.
        threads: CPU threads of this process; None leaves torch's choice.
        timeout_s: bound of every collective in seconds.

    Returns:
        this process's place and its device.

    Raises:
        YoloflowError: the device cannot be used, not all ranks come, or see `refuse_to_start_twice`.
    """
    refuse_to_start_twice()
    ranks = Ranks(
        rank=int(os.environ.get("RANK", 0)),
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        timeout_s=timeout_s,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    device = select_device(device_name, ranks.local_rank, ranks.local_size)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    if ranks.world_size > 1 and not dist.is_initialized():
        _join(ranks, device)
        atexit.register(leave_ranks)
    return ranks, device


def _join(ranks: Ranks, device: torch.device) -> None:
    """Joins the process group.

    Raises:
        YoloflowError: the ranks cannot meet, or not reach each other.
    """
    timeout, since = timedelta(seconds=ranks.timeout_s), time.monotonic()
    backend, store = dist.get_default_backend_for_device(device), _rendezvous_store(ranks, timeout)
    if ranks.world_size > ranks.local_size:
        store.set(_machine_of(ranks.rank), name_of_machine())
        choose_reachable_interface(os.environ["MASTER_ADDR"], partial(_is_one_machine, store, ranks))
    try:
        dist.init_process_group(
            backend,
            store=store,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timeout,
            # NCCL connects at once then, and says so at once where it cannot.
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError as error:
        if not is_rank_failure(error):
            raise
        seconds = time.monotonic() - since
        raise YoloflowError(describe_no_connection(ranks.rank, backend, seconds, error)) from error


def from_main_rank(value: T, ranks: Ranks) -> T:
    """Returns the main rank's value on all ranks, which call it together."""
    values = [value]
    if ranks.world_size > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def _rendezvous_store(ranks: Ranks, timeout: timedelta) -> PrefixStore:
    """Returns the part of torchrun's store that only the processes started together share.

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
    return PrefixStore(_start_name(store, ranks, timeout), store)


def _machine_of(rank: int) -> str:
    return f"machine of {rank}"


def _is_one_machine(store: Store, ranks: Ranks) -> bool:
    """Returns whether all ranks said that they are on this machine; waits for all of them."""
    here = name_of_machine().encode()
    return all(store.get(_machine_of(rank)) == here for rank in range(ranks.world_size))


def _start_name(store: Store, ranks: Ranks, timeout: timedelta) -> str:
    """Returns a name that only the processes started together share.

    Each rank stores a unique key. Rank 0 answers every key it finds, also those of dead ranks, with its own,
    which is the name, until all ranks have taken it.

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
    missing, deadline = list(range(1, ranks.world_size)), time.monotonic() + timeout.total_seconds()
    while missing := [rank for rank in missing if not store.check([f"{own} taken by rank {rank}"])]:
        if time.monotonic() > deadline:
            numbers = ", ".join(map(str, missing))
            raise YoloflowError(f"of {ranks.world_size} ranks these did not come {limit}: {numbers}")
        for word in (f"word of rank {rank}" for rank in missing):
            if store.check([word]):
                store.set(f"answer to {str(store.get(word), 'ascii')}", own)
        time.sleep(0.02)
    return own


def leave_ranks() -> None:
    """Leaves the process group, if there is one.

    Who joined without `init_ranks` calls this before Python ends: a thread of the group that lets go of a
    tensor while the interpreter is taken down aborts the process.
    """
    if dist.is_initialized():
        # A train step that is kept by a cycle of references keeps the group and its threads.
        gc.collect()
        dist.destroy_process_group()


@torch.no_grad()
def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Returns the sum of a tensor over all ranks (all of them must call), without gradient."""
    if count_ranks() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_over_ranks(value: T) -> list[T]:
    """Returns every rank's value, by rank (all of them must call)."""
    if count_ranks() == 1:
        return [value]
    values: list[Any] = [None] * count_ranks()
    dist.all_gather_object(values, value)
    return values


def count_ranks() -> int:
    """Returns the number of ranks; 1 without a process group, and within `without_collectives`."""
    if _Collectives.is_off:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Collectives:
    """The switch of `without_collectives`, for all threads: backward recomputes in threads of its own."""

    is_off = False
    num_blocks = 0
    lock = threading.Lock()

    @classmethod
    def count(cls, change: int) -> None:
        """Counts the blocks that run: those of threads do not end in the order in which they began."""
        with cls.lock:
            cls.num_blocks += change
            cls.is_off = cls.num_blocks > 0


@contextmanager
def without_collectives() -> Iterator[None]:
    """Makes sums and gathers in a block those of this rank alone, so that it waits for no other.

    It is for what one rank may fail at while the others go on. Compiled code heeds it: torch compiles anew.
    """
    _Collectives.count(1)
    try:
        yield
    finally:
        _Collectives.count(-1)
