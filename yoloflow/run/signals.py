"""SIGTERM and SIGINT stop a training where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import cast

import torch
import torch.distributed as dist

from yoloflow.runtime.ranks import Ranks

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ECHO_SECONDS = 1.0


class TrainingStopped(SystemExit):
    """A training ended early by a signal; its state is saved.

    Where nobody catches it Python ends, without a traceback and with `exit_code`. SIGINT raises the subclass
    `TrainingInterrupted`, so that `except KeyboardInterrupt` sees Ctrl-C.

    Attributes:
        signal_number: of the signal that asked.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number
        self.code = self.exit_code

    @classmethod
    def by(cls, signal_number: int) -> TrainingStopped:
        """Returns the exception of a signal."""
        return TrainingInterrupted(signal_number) if signal_number == signal.SIGINT else cls(signal_number)

    @property
    def exit_code(self) -> int:
        """Exit code as shells give it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal_number


class TrainingInterrupted(TrainingStopped, KeyboardInterrupt):
    """A training ended early by SIGINT, which is Ctrl-C; its state is saved."""


class StopRequest:
    """Notes a signal, for the trainer to ask at the next step boundary; a second SIGINT ends at once.

    In a block of `at_once` the signal raises `TrainingStopped` right there: for work that takes long and can
    be done again. With several ranks it waits for the end of the block, since the others wait for each other.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        """Prepares to catch signals from `listen` on.

        Args:
            ranks: the processes that stop together; None: this one.
        """
        ranks = ranks or Ranks()
        self._world_size = ranks.world_size
        self._signal_number: int | None = None
        self._raises = False
        self._agreement: dist.ProcessGroup | None = None
        if ranks.world_size > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=ranks.timeout_s))
            self._agreement = cast(dist.ProcessGroup, group)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Catches the signals in a block; outside the main thread they do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        owner = os.getpid()
        try:
            # A launcher passes on the SIGINT that the terminal has sent to all: that is no second one.
            with leave_at_second_interrupt(_ECHO_SECONDS if self._world_size > 1 else 0.0):
                yield
        finally:
            if os.getpid() == owner:
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raises `TrainingStopped` in a block as soon as a signal comes; one that came before raises here."""
        self._raises = self._world_size == 1
        try:
            if self._raises and self._signal_number is not None:
                raise TrainingStopped.by(self._signal_number)
            yield
        finally:
            self._raises = False

    def agree(self, wants_state: bool = False) -> tuple[int | None, bool]:
        """Returns the signal that a rank was sent (or None), and whether a rank wants a state written.

        Args:
            wants_state: whether this one does. All ranks must ask at the same step.
        """
        if self._agreement is None:
            return self._signal_number, wants_state
        numbers = torch.tensor([self._signal_number or 0, int(wants_state)])
        dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._agreement)
        number, is_wanted = numbers.tolist()
        return number or None, bool(is_wanted)

    def raise_if_asked(self) -> None:
        """Raises `TrainingStopped` on all ranks if one of them was sent a signal; all must call it."""
        number, _ = self.agree()
        if number is not None:
            raise TrainingStopped.by(number)

    def wait_for_all(self) -> None:
        """Waits for all ranks."""
        if self._agreement is not None:
            dist.barrier(self._agreement)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signal_number = number
        if self._raises:
            self._raises = False
            raise TrainingStopped.by(number)


@contextmanager
def leave_at_second_interrupt(echo_seconds: float) -> Iterator[None]:
    """Ends the process at once at a second SIGINT within a block.

    Python's own handlers wait for the main thread, which may be in a collective or a kernel; so a thread
    reads the numbers that the interpreter writes to a pipe as soon as a signal comes.

    Args:
        echo_seconds: a SIGINT so soon after the first signal does not count.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_count_signals, args=(reading, echo_seconds), daemon=True)
    thread.start()
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            signal.set_wakeup_fd(before)
            os.write(writing, b"\0")  # ends the thread
            thread.join()
            os.close(reading)
            os.close(writing)


def _count_signals(reading: int, echo_seconds: float) -> None:
    first: float | None = None
    while number := os.read(reading, 1)[0]:
        if number not in _SIGNALS:
            continue
        if first is None:
            first = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - first >= echo_seconds:
            os._exit(128 + signal.SIGINT)


# A loading process has the pipe too, and must not write to it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
