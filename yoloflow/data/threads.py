"""Reads many small files at once, which helps on network disks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# One task per chunk: a task per file would cost as much as reading a small file.
_CHUNK = 128

# A thread that works for less than this part of its time waits for storage (or for a busy machine).
_BUSY_SHARE = 0.25


Progress = Callable[[int, int], None]
"""Called with how many of how many items are done."""


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    chunk_size: int = _CHUNK,
    *,
    is_python: bool = False,
) -> list[Result]:
    """`[function(item) for item in items]`, chunks of it side by side; the first exception is raised.

    Args:
        function: what is done.
        items: to what.
        chunk_size: items of a task.
        is_python: the function is Python but for its waiting, so threads are in each other's way unless
            storage is slow: the first task shows which it is.
    """
    chunks = [items[start : start + chunk_size] for start in range(0, len(items), chunk_size)]

    def run(chunk: Sequence[Item]) -> list[Result]:
        return [function(item) for item in chunk]

    results: list[Result] = []
    if is_python and chunks:
        started, worked = time.perf_counter(), time.thread_time()
        results = run(chunks.pop(0))
        if time.thread_time() - worked > (time.perf_counter() - started) * _BUSY_SHARE:
            return results + [function(item) for chunk in chunks for item in chunk]
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        # A single chunk is done here: starting a thread would cost more.
        for done in map(run, chunks) if len(chunks) < 2 else pool.map(run, chunks):
            results += done
    return results
