"""Reads many small files at once, which helps on network disks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# One task per chunk: a task per file would cost as much as reading a small file.
_CHUNK = 128


Progress = Callable[[int, int], None]
"""Called with how many of how many items are done."""


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    chunk_size: int = _CHUNK,
    progress: Progress | None = None,
) -> list[Result]:
    """`[function(item) for item in items]`, chunks of it side by side; the first exception is raised.

    Args:
        function: what is done.
        items: to what.
        chunk_size: items of a task.
        progress: told after each task.
    """
    chunks = [items[start : start + chunk_size] for start in range(0, len(items), chunk_size)]

    def run(chunk: Sequence[Item]) -> list[Result]:
        return [function(item) for item in chunk]

    results: list[Result] = []
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        # A single chunk is done here: starting a thread would cost more.
        for done in map(run, chunks) if len(chunks) < 2 else pool.map(run, chunks):
            results += done
            if progress is not None:
                progress(len(results), len(items))
    return results
