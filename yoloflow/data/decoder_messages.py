"""Decoding in threads, with what libraries in C print meanwhile given to the image that it is about."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from yoloflow.data.threads import Progress, map_in_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

_LISTENED_AT_A_TIME = 256
_DECODED_AT_A_TIME = 8
_STDERR = 2
_lock = threading.RLock()
# Its threads and milliseconds make the same message another one each time.
_OPENCV_TIME = re.compile(r"^\[ *[A-Z]+:\d+@[\d.]+\] (global )?")


def map_with_messages(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None = None
) -> list[tuple[Result, list[str]]]:
    """`[function(item) for item in items]` in threads, each with what was printed on standard error.

    Libraries print without a word on the file. Where anything was printed, the items of that time are done
    once more, one after the other; what comes from none of them is printed after all.

    Args:
        function: what is done, the same each time.
        items: to what.
        progress: told how many are done.
    """
    outcomes: list[tuple[Result, list[str]]] = []
    for start in range(0, len(items), _LISTENED_AT_A_TIME):
        chunk = items[start : start + _LISTENED_AT_A_TIME]
        with collected_standard_error() as printed:
            results = map_in_threads(function, chunk, _DECODED_AT_A_TIME)
        messages: list[list[str]] = [[] for _ in chunk]
        if printed:
            messages = [_messages_of(function, item) for item in chunk]
            known = {line for lines in messages for line in lines}
            for line in printed:
                if line not in known:
                    sys.stderr.write(f"{line}\n")
        outcomes += zip(results, messages, strict=True)
        if progress is not None:
            progress(len(outcomes), len(items))
    return outcomes


def _messages_of(function: Callable[[Item], object], item: Item) -> list[str]:
    with collected_standard_error() as printed:
        function(item)
    return list(dict.fromkeys(printed))


@contextmanager
def collected_standard_error() -> Iterator[list[str]]:
    """Collects the lines that the process prints on standard error; they are there at the end."""
    lines: list[str] = []
    # The descriptor is the process's: a thread that put back what another one had set would lose all that
    # is printed from then on.
    with _lock:
        try:
            before = os.dup(_STDERR)
        except OSError:  # the process has no standard error
            yield lines
            return
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), _STDERR)
            try:
                yield lines
            finally:
                os.dup2(before, _STDERR)
                os.close(before)
                file.seek(0)
                printed = file.read().decode(errors="replace").splitlines()
                lines += (_OPENCV_TIME.sub("", line) for line in printed)
