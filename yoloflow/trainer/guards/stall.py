"""The guard against waiting for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from yoloflow.runtime.rank_failures import describe_rank_failure, is_rank_failure
from yoloflow.structures import YoloflowError
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.guards.guard import Guard

logger = logging.getLogger("yoloflow")


class StallWatchdog(Guard):
    """Warns once where something takes suspiciously long, and explains a wait in vain for other ranks.

    Attributes:
        patience_s: seconds after which a step, a batch or a callback is worth a warning.
    """

    def __init__(self, activity: Activity, patience_s: float = 300.0) -> None:
        self._activity, self.patience_s = activity, patience_s

    @contextmanager
    def running(self) -> Iterator[None]:
        """Looks now and then, from a thread."""
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,), daemon=True, name="yoloflow-stall")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        warned_of: float | None = None
        while not done.wait(self.patience_s / 10):
            started, seconds = self._activity.started, self._activity.seconds
            if seconds > self.patience_s and warned_of != started:
                warned_of = started
                logger.warning("%s for %d s and not done yet", str(self._activity), seconds)

    def explain(self, error: BaseException) -> YoloflowError | None:
        """Explains that the other ranks did not answer."""
        if self._activity.ranks.world_size == 1 or not is_rank_failure(error):
            return None
        message = describe_rank_failure(str(self._activity), self._activity.seconds, error)
        return YoloflowError(f"{message}. The newest good state is untouched: resume=auto goes on")
