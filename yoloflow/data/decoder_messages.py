"""Gives what libraries in C print while they decode to the image that it is about."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

from yoloflow.data.image_files import decode_image
from yoloflow.data.threads import Progress, map_in_threads
from yoloflow.structures import Uint8Array, YoloflowError

logger = logging.getLogger("yoloflow")

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
        with _scratch_file() as file:
            os.dup2(file.fileno(), _STDERR)
            try:
                yield lines
            finally:
                os.dup2(before, _STDERR)
                os.close(before)
                file.seek(0)
                printed = file.read().decode(errors="replace").splitlines()
                lines += (_OPENCV_TIME.sub("", line) for line in printed)


def _scratch_file() -> BinaryIO:
    """Returns a file without a name; in memory where the system has that, which takes a fifth of the time."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("yoloflow"), "w+b")
    return tempfile.TemporaryFile()


def decode_named(path: str) -> Uint8Array:
    """Pixels of an image file as `decode_image` gives them; what its decoder prints is logged with its name.

    Raises:
        YoloflowError: as `decode_image`.
    """
    remarks = DecoderRemarks()
    with remarks.listening(path):
        image = decode_image(path)
    remarks.say(remarks.take())
    return image


def decode_again(path: str) -> Uint8Array:
    """Pixels of an image file that was decoded before, without what its decoder prints: that was told then.

    Raises:
        YoloflowError: as `decode_image`.
    """
    with collected_standard_error():
        return decode_image(path)


class DecoderRemarks:
    """Names the files of a data set whose decoder prints something, each once.

    Worker processes listen and hand over what they heard with their batches; the training process says it.
    """

    def __init__(self) -> None:
        self._heard: list[str] = []
        self._said: set[str] = set()

    @contextmanager
    def listening(self, path: str) -> Iterator[None]:
        """Hears what is printed while a file is decoded; in a thread beside others, nothing is heard."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        printed: list[str] = []
        try:
            with collected_standard_error() as printed:
                yield
        except YoloflowError as error:
            # The image is not used: that and what was printed are one message.
            said, printed = "; ".join(dict.fromkeys(printed)), []
            raise YoloflowError(f"{error} (its decoder says: {said})" if said else str(error)) from error
        finally:
            self._heard += (f"{path}: {line}" for line in dict.fromkeys(printed))

    def take(self) -> list[str]:
        """Returns what was heard, and begins anew."""
        taken, self._heard = self._heard, []
        return taken

    def say(self, remarks: Iterable[str]) -> None:
        """Logs what was not said before."""
        for remark in remarks:
            if remark not in self._said:
                self._said.add(remark)
                logger.warning("%s (printed by its decoder; the pixels are used as decoded)", remark)
