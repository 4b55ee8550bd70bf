"""The guard against losing work where a signal stops the training."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from yoloflow.callbacks.base import RunContext
from yoloflow.run.checkpoint import newest_step
from yoloflow.run.signals import StopRequest, TrainingStopped
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.guards.guard import Guard
from yoloflow.trainer.states import TrainingStates

logger = logging.getLogger("yoloflow")


class SignalGuard(Guard):
    """Notes SIGTERM and SIGINT for the loop, and has the state on the disk before the process ends."""

    def __init__(
        self, context: RunContext, states: TrainingStates, activity: Activity, stop: StopRequest
    ) -> None:
        self._context, self._states, self._activity, self._stop = context, states, activity, stop

    @contextmanager
    def running(self) -> Iterator[None]:
        """Catches the signals; `TrainingStopped` leaves it when all ranks have written what they have."""
        with self._stop.listen():
            try:
                yield
            except TrainingStopped as stopped:
                self._activity.begin(f"writing the state of step {self._context.step}", "states")
                self._states.wait()
                if self._context.ranks.is_main:
                    self._report(stopped)
                # A launcher ends all ranks as soon as the first one leaves.
                self._stop.wait_for_all()
                raise

    def _report(self, stopped: TrainingStopped) -> None:
        step = self._context.step
        if self._states.written == step:
            logger.info("%s: the state of step %d is saved, resume=auto goes on", stopped, step)
            return
        newest = newest_step(self._context.run.weights)
        found = "there is none before" if newest is None else f"the newest is that of step {newest}"
        logger.warning("%s: the state of step %d is not saved; %s", stopped, step, found)
