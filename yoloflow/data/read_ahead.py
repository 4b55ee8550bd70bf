"""Reads frames of the sources to predict on, in threads while the network is busy."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, Full, Queue

from yoloflow.data.sources import Camera, Frame, Source, readings
from yoloflow.structures import Problem

logger = logging.getLogger("yoloflow")

_MAX_THREADS = 8
_POLL_SECONDS = 0.1


def read_frames(sources: Sequence[Source], problems: list[Problem], ahead: int = 0) -> Iterator[Frame]:
    """Yield images and video frames one after the other, in order and in constant memory.

    A file that cannot be read is logged, appended to `problems` and passed over; so is a video that ends
    before the number of frames that it announces, whose frames are kept. A camera's frames are never read
    ahead: they would be old when their turn comes.

    Args:
        sources: of `open_sources`.
        problems: takes what was found wrong.
        ahead: frames that may be read before they are asked for; 0 for none, without threads.
    """
    is_live = any(isinstance(source, Camera) for source in sources)
    found = _Reader(sources, ahead) if ahead and not is_live else (read() for read in readings(sources))
    for frame in found:
        if isinstance(frame, Problem):
            logger.warning("%s", frame)
            problems.append(frame)
        else:
            yield frame


class _Reader:
    """Iterates over the results of `readings`, of which a few are computed ahead.

    One thread goes through the sources (it waits where a list has no line yet) and hands images to a pool;
    their results wait in a queue of bounded length.
    """

    def __init__(self, sources: Sequence[Source], ahead: int) -> None:
        self._sources = sources
        self._pool = ThreadPoolExecutor(min(_MAX_THREADS, ahead, os.cpu_count() or 1))
        self._queue: Queue[Future[Frame | Problem] | None] = Queue(ahead)
        self._is_over = threading.Event()
        self._error: BaseException | None = None
        # A daemon: it may wait for a line of standard input that never comes.
        self._thread = threading.Thread(target=self._fill, name="read-ahead", daemon=True)

    def __iter__(self) -> Iterator[Frame | Problem]:
        self._thread.start()
        try:
            while (future := self._queue.get()) is not None:
                yield future.result()
            if self._error is not None:
                raise self._error
        finally:
            self._is_over.set()
            with suppress(Empty):
                while True:
                    self._queue.get_nowait()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        try:
            for reading in readings(self._sources):
                if not self._put(self._pool.submit(reading)):
                    return
        except BaseException as error:
            self._error = error  # raised where the frames are asked for
        self._put(None)

    def _put(self, future: Future[Frame | Problem] | None) -> bool:
        """Wait for room; False where nobody asks any more."""
        while not self._is_over.is_set():
            try:
                self._queue.put(future, timeout=_POLL_SECONDS)
            except Full:
                continue
            return True
        return False
