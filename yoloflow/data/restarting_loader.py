"""Loading processes may die or hang: what was lost with them is loaded again."""

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
    """Items in order, from processes that are started anew where one is lost.

    Nothing changes for the consumer: items depend on their number alone. An item whose second loading fails
    as well is refused. Where processes cannot share memory at all, this one loads.
    """

    def __init__(
        self,
        load_from: Callable[[int, int], Iterator[T]],
        start: int,
        processes: int,
        describe: Callable[[int], str],
    ) -> None:
        """Start loading.

        Args:
            load_from: (item, processes) to the items from there on; torch's loader stands behind it.
            start: the first item.
            processes: how many load; 0 loads in this one.
            describe: an item's number to what is in it, for messages.
        """
        self._load_from, self._processes, self._describe = load_from, processes, describe
        self._next, self._lost_at = start, -1
        self._source = self._open()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next item.

        Raises:
            YoloflowError: its loading was lost twice.
        """
        try:
            item = next(self._source)
        except RuntimeError as error:
            if not _is_loss(error):
                raise
            self._recover(error)
            return next(self)
        self._next += 1
        return item

    def _recover(self, error: RuntimeError) -> None:
        what = f"{error} at {self._describe(self._next)}"
        if self._lost_at == self._next:
            raise YoloflowError(
                f"{what}: for the second time; is memory short, does the storage hang, or is a file damaged? "
                "Fewer data.num_parallel_workers need less memory; resume=auto goes on"
            ) from error
        logger.warning("%s: its processes are started anew, no image is lost", what)
        self._lost_at = self._next
        del self._source
        self._source = self._open()

    def _open(self) -> Iterator[T]:
        try:
            _prove_sharing(self._processes)
        except OSError as error:
            logger.warning(
                "data.num_parallel_workers=%d: no processes that share memory can be started here (%s; is "
                "/dev/shm there, to be written?); images are loaded in the training process, which is slower",
                self._processes,
                error,
            )
            self._processes = 0
        with _silent_deaths():
            return self._load_from(self._next, self._processes)


def _prove_sharing(processes: int) -> None:
    """Make as many locks as torch's loader, which leaves a traceback on the screen where it cannot."""
    for_each_and_all = 4 * processes + 8 if processes else 0
    locks = [multiprocessing.Lock() for _ in range(for_each_and_all)]
    locks.clear()


def _is_loss(error: RuntimeError) -> bool:
    """Whether torch's loader says that a process died or is overdue, rather than what went wrong in it."""
    return str(error).startswith(("DataLoader worker (pid", "DataLoader timed out"))


@contextmanager
def _silent_deaths() -> Iterator[None]:
    """A block in which torch's loader starts: the death of a process is noticed where its work is missed.

    Torch would raise in the main thread wherever that is, such as in the middle of a training step.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)
