"""Restarts worker processes that die or hang; the batches lost with them are loaded again."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

from yoloflow.runtime.start_method import missing_guard, refuse_to_start_twice
from yoloflow.structures import YoloflowError

T = TypeVar("T")

logger = logging.getLogger("yoloflow")

POLL_SECONDS = 1.0
"""Torch's loader looks at its processes as often while a batch is awaited."""

_DIED, _NO_BATCH_YET = "DataLoader worker (pid", "DataLoader timed out"
"""Errors of torch's loader: a process died; none did within the time that a batch was awaited."""


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
        timeout_s: float = 0.0,
    ) -> None:
        """Start loading.

        Args:
            load_from: (batch, num_workers) to an iterator over the batches from there on, by torch's loader
                with a timeout of `POLL_SECONDS` or less.
            start: number of the first batch.
            num_workers: worker processes; 0 loads in this one.
            describe: a batch's number to what is in it, for messages.
            timeout_s: seconds that a batch may take before its processes are restarted; 0 for no limit.

        Raises:
            YoloflowError: see `refuse_to_start_twice`.
        """
        if num_workers:
            refuse_to_start_twice()
        self._load_from, self._num_workers, self._describe = load_from, num_workers, describe
        self._next, self._lost_at, self._timeout_s = start, -1, timeout_s
        self._batches = self._open()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next batch.

        Raises:
            YoloflowError: its worker was lost twice, or workers cannot start at all.
        """
        since = time.monotonic()
        while True:
            try:
                batch = next(self._batches)
            except RuntimeError as error:
                waited_s = time.monotonic() - since
                if str(error).startswith(_DIED):
                    self._refuse_without_guard()
                    self._restart(str(error))
                elif not str(error).startswith(_NO_BATCH_YET):
                    raise
                elif self._timeout_s and waited_s >= self._timeout_s:
                    self._restart(f"loading timed out after {self._timeout_s:g} s (data.load_timeout)")
                else:
                    continue
                since = time.monotonic()
            except (KeyboardInterrupt, SystemExit):
                # Else torch waits 5 s for each process that hangs.
                self._end_processes()
                raise
            else:
                self._next += 1
                return batch

    def _restart(self, loss: str) -> None:
        what = f"{loss} at {self._describe(self._next)}"
        self._end_processes()
        if self._lost_at == self._next:
            raise YoloflowError(
                f"{what}: for the second time; is memory short, does the storage hang, or is a file damaged? "
                "Fewer data.num_parallel_workers need less memory; resume=auto goes on"
            )
        logger.warning("%s: its processes are started anew, no image is lost", what)
        self._lost_at = self._next
        del self._batches
        self._batches = self._open()

    def _processes(self) -> list[BaseProcess]:
        """The worker processes of torch's loader."""
        return list(getattr(self._batches, "_workers", []))

    def _end_processes(self) -> None:
        """Kill processes that may hang or be stopped; nothing that they are at is used."""
        for process in self._processes():
            process.kill()

    def _refuse_without_guard(self) -> None:
        """Say that no process can start, where each of them ends as it runs the script once more.

        Raises:
            YoloflowError: they end so.
        """
        # Python's exit code for an error; of a process that is killed it is a signal's number below 0.
        is_spawned = multiprocessing.get_start_method() != "fork"
        if is_spawned and self._next == self._opened_at and 1 in (p.exitcode for p in self._processes()):
            raise YoloflowError(missing_guard())

    def _open(self) -> Iterator[T]:
        self._opened_at = self._next
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
        try:
            with _without_sigchld_handler():
                return self._load_from(self._next, self._num_workers)
        except (EOFError, ConnectionError) as error:
            # The server that should fork them ended as it ran the script once more.
            if multiprocessing.get_start_method() != "forkserver":
                raise
            raise YoloflowError(missing_guard()) from error


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
