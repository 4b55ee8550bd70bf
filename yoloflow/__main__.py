"""The `yoloflow` command, also as `python -m yoloflow`: answers Ctrl-C before anything heavy is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

_IMPORTING = "<frozen importlib._bootstrap>"


def main() -> None:
    """Runs the command; Ctrl-C ends it with one line and exit code 130 from the first moment on."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from yoloflow.cli import main as run

        run()
    except KeyboardInterrupt:
        _leave(signal.SIGINT)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the process at Ctrl-C while modules are imported, else raises KeyboardInterrupt.

    Libraries in the middle of their import catch that exception, or fail later because of it.
    """
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename == _IMPORTING:
            _leave(number)
        outer = outer.f_back
    signal.default_int_handler(number, frame)


def _leave(number: int) -> None:
    sys.stderr.write("yoloflow: interrupted\n")
    sys.stderr.flush()
    os._exit(128 + number)


if __name__ == "__main__":
    main()
