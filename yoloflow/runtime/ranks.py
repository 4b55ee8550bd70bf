"""The processes that train together: joining them, and sums and lists over them."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from yoloflow.runtime.device import select_device
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
        """Whether this process writes the files and prints."""
        return self.rank == 0


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
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        timeout_s=timeout_s,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    device = select_device(device_name, ranks.local_rank)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    if ranks.world_size > 1 and not dist.is_initialized():
        dist.init_process_group(
            dist.get_default_backend_for_device(device),
            store=_meeting_place(ranks, timedelta(seconds=timeout_s)),
            rank=ranks.rank,
            world_size=ranks.world_size,
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
    """Leave the process group; without one nothing happens.

    Who joined without `init_ranks` calls this before Python ends: a thread of the group that lets go of a
    tensor while the interpreter is taken down aborts the process.
    """
    if dist.is_initialized():
        # A train step that is kept by a cycle of references keeps the group and its threads.
        gc.collect()
        dist.destroy_process_group()


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
    """Processes that have joined the group; 1 without one, and within `without_collectives`."""
    if _Talk.is_off:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Talk:
    """Whether processes talk: one flag for all threads, since backward recomputes in threads of its own."""

    is_off = False


@contextmanager
def without_collectives() -> Iterator[None]:
    """A block in which this process sums and gathers over itself, and so waits for no other.

    It is for what one rank may fail at while the others go on. Compiled code heeds it: torch compiles anew.
    """
    before, _Talk.is_off = _Talk.is_off, True
    try:
        yield
    finally:
        _Talk.is_off = before
