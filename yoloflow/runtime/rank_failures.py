"""Clear errors where other ranks do not answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from yoloflow.structures import YoloflowError


def is_rank_failure(error: BaseException) -> bool:
    """Returns whether a collective failed: torch has an error of its own for some back ends only."""
    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "Gloo", "nccl", "hccl", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def describe_rank_failure(activity: str, seconds: float, error: BaseException) -> str:
    """Returns the message for a wait in vain.

    Args:
        activity: rank and what it was doing.
        seconds: time since that began.
        error: of torch.
    """
    reason = _reason(error)
    return (
        f"{activity}, and for {seconds:.0f} s waiting for the other ranks, which do not answer ({reason}). "
        "One of them failed, was killed or hangs, and what it printed says why; rank_timeout is how long to "
        "wait"
    )


def describe_no_connection(rank: int, backend: str, seconds: float, error: BaseException) -> str:
    """Returns the message for ranks that met and then could not connect to each other.

    Args:
        rank: of this process.
        backend: of the process group.
        seconds: time since they met.
        error: of torch.
    """
    return (
        f"rank {rank}: no connection to the other ranks within {seconds:.0f} s ({_reason(error)}). Either "
        "one of them ended, and what it printed says why, or the machines do not reach each other: each port "
        f"must be open between them, and {backend.upper()}_SOCKET_IFNAME, written before torchrun, names the "
        "network interface to use"
    )


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0].rpartition("] ")[2] or str(error).splitlines()[0]


@contextmanager
def explain_rank_timeout(activity: str) -> Iterator[None]:
    """Explains a wait in vain for other ranks within a block (or, as a decorator, a function).

    Args:
        activity: what the block does, for the message.

    Raises:
        YoloflowError: the other ranks do not answer.
    """
    since = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if not is_rank_failure(error) or not dist.is_initialized():
            raise
        where = f"rank {dist.get_rank()} of {dist.get_world_size()}: {activity}"
        raise YoloflowError(describe_rank_failure(where, time.monotonic() - since, error)) from error
