"""What a training is doing, for the moment when it does not get on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")


class StallWatchdog:
    """Notes what its rank is doing, and warns once if that lasts suspiciously long."""

    def __init__(self, ranks: Ranks, patience_s: float = 300.0) -> None:
        """Prepare; the clock runs inside `running`.

        Args:
            ranks: this process among its peers.
            patience_s: seconds after which a step, a batch, a callback is worth a warning.
        """
        self._ranks, self._patience = ranks, patience_s
        self._what, self._since, self._has_warned = "starting", time.monotonic(), False

    def begins(self, what: str) -> None:
        """Something else begins now.

        Args:
            what: as it stands in messages.
        """
        self._what, self._since, self._has_warned = what, time.monotonic(), False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look now and then, from a thread."""
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,), daemon=True, name="yoloflow-watch")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        while not done.wait(self._patience / 10):
            passed = time.monotonic() - self._since
            if passed > self._patience and not self._has_warned:
                self._has_warned = True
                logger.warning("%s for %.0f s and not done yet", self._where(), passed)

    def _where(self) -> str:
        ranks = self._ranks
        who = f"rank {ranks.rank} of {ranks.world_size}: " if ranks.world_size > 1 else ""
        return f"{who}{self._what}"

    def explain(self, error: BaseException) -> YoloflowError | None:
        """What an error means if the other ranks did not answer; None for all others.

        Args:
            error: what the training ends with.
        """
        if self._ranks.world_size == 1 or not _is_of_ranks(error):
            return None
        waited = _waited(self._where(), time.monotonic() - self._since, error)
        return YoloflowError(f"{waited}. The newest good state is untouched: resume=auto goes on")


@contextmanager
def explain_rank_timeout(what: str) -> Iterator[None]:
    """A block (or, as a decorator, a function) whose waits in vain for other ranks say what it was doing.

    Args:
        what: it does.

    Raises:
        YoloflowError: the other ranks do not answer.
    """
    since = time.monotonic()
    try:
        yield
    except RuntimeError as error:
        if not _is_of_ranks(error) or not dist.is_initialized():
            raise
        where = f"rank {dist.get_rank()} of {dist.get_world_size()}: {what}"
        raise YoloflowError(_waited(where, time.monotonic() - since, error)) from error


def _waited(where: str, seconds: float, error: BaseException) -> str:
    reason = str(error).splitlines()[0].rpartition("] ")[2]
    return (
        f"{where}, and for {seconds:.0f} s waiting for the other ranks, which do not answer ({reason}). "
        "One of them failed, was killed or hangs, and what it printed says why; rank_timeout is how long to "
        "wait"
    )


def _is_of_ranks(error: BaseException) -> bool:
    """Whether a collective failed: torch has an error of its own for some back ends only."""
    if isinstance(error, dist.DistError):
        return True
    signs = ("gloo", "nccl", "hccl", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
