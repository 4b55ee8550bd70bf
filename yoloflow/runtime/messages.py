"""Shows the messages of the logger "yoloflow": on stderr, in a notebook on stdout."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger("yoloflow")

_lock = threading.Lock()


def is_notebook() -> bool:
    """Returns whether Python runs in a notebook's kernel (Jupyter, VS Code, Colab)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


@cache
def stderr_console() -> Console:
    """Returns the console of stderr: one for all, so that a message and a moving line know of each other."""
    from rich.console import Console

    return Console(stderr=True)


def message_handler() -> logging.Handler:
    """Returns a handler that shows each message as a line of its own."""
    if is_notebook():
        return logging.StreamHandler(sys.stdout)  # a notebook shows stderr in red
    return _TerminalHandler() if sys.stderr.isatty() else _PlainHandler()


class _PlainHandler(logging.Handler):
    """Shows messages on what stderr is at the time: callers may put another one in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201 the place for it


def fit_width(text: str, width: int, hang: int | None = None) -> str:
    """Breaks lines that are too wide at spaces. Words and commands stay whole and can be copied.

    A command is `quoted` or a line of its own that begins with yoloflow.

    Args:
        text: lines.
        width: columns of the terminal.
        hang: columns that continued lines are indented by; None: two more than the line.
    """
    from rich.cells import cell_len

    fitted = []
    for line in text.split("\n"):
        if cell_len(line) > width and not line.lstrip().startswith("yoloflow "):
            indent = len(line) - len(line.lstrip()) + 2 if hang is None else hang
            parts = [""]
            # A word is taken with the spaces before it: they keep columns apart, and vanish at a line's end.
            for space, word in re.findall(r"(\s*)(`[^`]*`\S*|\S+)", line):
                if parts[-1].strip() and cell_len(parts[-1] + space + word) > width:
                    parts.append(" " * min(indent, width // 2) + word)
                else:
                    parts[-1] += space + word
            line = "\n".join(parts)
        fitted.append(line)
    return "\n".join(fitted)


class _TerminalHandler(logging.Handler):
    """Shows messages above the line of a training; words stay whole, so that paths can be copied."""

    def emit(self, record: logging.LogRecord) -> None:
        console = stderr_console()
        text = fit_width(self.format(record), console.width)
        console.print(text, markup=False, soft_wrap=True)


class _CallHandler(logging.Handler):
    """Shows messages during calls from Python, as long as the root logger has no handler that does."""

    def __init__(self, level_before: int) -> None:
        super().__init__()
        self.level_before = level_before
        self.calls = 0
        self._shown = message_handler()

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            self._shown.handle(record)


@contextmanager
def shown_messages() -> Iterator[None]:
    """Shows what a call from Python says, and leaves logging as it was.

    A level that the logger "yoloflow" has is kept: `logging.getLogger("yoloflow").setLevel(logging.WARNING)`
    makes calls quiet. A handler of its own shows the messages instead. Calls in several threads share one.
    """
    with _lock:
        handler = next((found for found in logger.handlers if isinstance(found, _CallHandler)), None)
        if handler is None and not logger.handlers:
            handler = _CallHandler(logger.level)
            logger.addHandler(handler)
            logger.setLevel(logger.level or logging.INFO)
        if handler is not None:
            handler.calls += 1
    try:
        yield
    finally:
        with _lock:
            if handler is not None:
                handler.calls -= 1
                if handler.calls == 0:
                    logger.removeHandler(handler)
                    logger.setLevel(handler.level_before)
