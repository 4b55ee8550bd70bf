"""Stopping on SIGTERM and SIGINT where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import cast

import torch
import torch.distributed as dist

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingStopped(BaseException):
    """A training ended early because it was asked to; its state is saved.

    Like KeyboardInterrupt no Exception, so that nobody takes it for a fault and goes on.

    Attributes:
        signal_number: of the signal that asked.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """As shells give it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal_number


class StopRequest:
    """Notes a signal, for the trainer to ask at the next step boundary; a second SIGINT ends at once.

    In a block of `at_once` the signal raises `TrainingStopped` right there: for work that takes long and can
    be done again. With several ranks it waits for the end of the block, since the others wait for each other.
    """

    def __init__(self, rank_size: int = 1) -> None:
        """Prepare; signals are caught from `listen` on.

        Args:
            rank_size: processes that stop together.
        """
        self._rank_size = rank_size
        self._signal_number: int | None = None
        self._raises = False
        self._agreement: dist.ProcessGroup | None = None
        if rank_size > 1:
            self._agreement = cast(dist.ProcessGroup, dist.new_group(backend="gloo"))

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Catch the signals inside; elsewhere, and outside the main thread, they do what they did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        owner = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == owner:
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `TrainingStopped` inside as soon as a signal comes; one that came before raises here."""
        self._raises = self._rank_size == 1
        try:
            if self._raises and self._signal_number is not None:
                raise TrainingStopped(self._signal_number)
            yield
        finally:
            self._raises = False

    def signal_of_any_rank(self) -> int | None:
        """The signal that this or another rank was sent; all ranks must ask at the same step."""
        if self._agreement is None:
            return self._signal_number
        number = torch.tensor(self._signal_number or 0)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._agreement)
        return int(number) or None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signal_number = number
        # Whoever asks twice does not want to wait.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._raises:
            self._raises = False
            raise TrainingStopped(number)
