"""Restarts worker processes that die or hang; the batches lost with them are loaded again."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from yoloflow.structures import YoloflowError

T = TypeVar("T")

logger = logging.getLogger("yoloflow")


class RestartingLoader(Generic[T]):
    """An iterator over batches whose worker processes are restarted where one is lost.

    Nothing changes for the consumer: batches depend on their number alone. A batch that is lost twice is an
    error. Where processes cannot share memory at all, this process loads.
    """

    def __init__(
        self,
        load_from: Callable[[int, int], Iterator[T]],
        start: int,
        num_workers: int,
        describe: Callable[[int], str],
    ) -> None:
        """Start loading.

        Args:
            load_from: (batch, num_workers) to an iterator over the batches from there on, by torch's loader.
            start: number of the first batch.
            num_workers: worker processes; 0 loads in this one.
            describe: a batch's number to what is in it, for messages.
        """
        self._load_from, self._num_workers, self._describe = load_from, num_workers, describe
        self._next, self._lost_at = start, -1
        self._batches = self._open()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next batch.

        Raises:
            YoloflowError: its worker was lost twice.
        """
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            if not _is_lost_worker(error):
                raise
            self._restart(error)
            return next(self)
        self._next += 1
        return batch

    def _restart(self, error: RuntimeError) -> None:
        what = f"{error} at {self._describe(self._next)}"
        if self._lost_at == self._next:
            raise YoloflowError(
                f"{what}: for the second time; is memory short, does the storage hang, or is a file damaged? "
                "Fewer data.num_parallel_workers need less memory; resume=auto goes on"
            ) from error
        logger.warning("%s: its processes are started anew, no image is lost", what)
        self._lost_at = self._next
        del self._batches
        self._batches = self._open()

    def _open(self) -> Iterator[T]:
        try:
            # As many locks as torch's loader makes, which leaves a traceback on the screen where it cannot.
            num_locks = 4 * self._num_workers + 8 if self._num_workers else 0
            locks = [multiprocessing.Lock() for _ in range(num_locks)]
            locks.clear()
        except OSError as error:
            logger.warning(
                "data.num_parallel_workers=%d: no processes that share memory can be started here (%s; is "
                "/dev/shm there, to be written?); images are loaded in the training process, which is slower",
                self._num_workers,
                error,
            )
            self._num_workers = 0
        with _without_sigchld_handler():
            return self._load_from(self._next, self._num_workers)


def _is_lost_worker(error: RuntimeError) -> bool:
    """Tell whether torch's loader says that a process died or is overdue, not what went wrong in it."""
    return str(error).startswith(("DataLoader worker (pid", "DataLoader timed out"))


@contextmanager
def _without_sigchld_handler() -> Iterator[None]:
    """Undo torch's handler of SIGCHLD, which would raise anywhere in the main thread, as in a training step.

    The death of a process is noticed where its batch is missed.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
