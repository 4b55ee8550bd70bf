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
    signs = ("gloo", "nccl", "hccl", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def describe_rank_failure(activity: str, seconds: float, error: BaseException) -> str:
    """Returns the message for a wait in vain.

    Args:
        activity: rank and what it was doing.
        seconds: time since that began.
        error: of torch.
    """
    reason = str(error).splitlines()[0].rpartition("] ")[2]
    return (
        f"{activity}, and for {seconds:.0f} s waiting for the other ranks, which do not answer ({reason}). "
        "One of them failed, was killed or hangs, and what it printed says why; rank_timeout is how long to "
        "wait"
    )


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
