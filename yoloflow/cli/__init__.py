"""The `yoloflow` command. Heavy imports wait until a command needs them, so that `--help` is instant."""

from __future__ import annotations

import os
import signal
from types import FrameType

import typer

from yoloflow.cli.console import app

# isort: split
# Each registers its commands, which the help lists in this order.
from yoloflow.cli import training

# isort: split
from yoloflow.cli import data, evaluation, export, predict, report, watch, weights

__all__ = ["app", "data", "evaluation", "export", "main", "predict", "report", "training", "watch", "weights"]

EXIT_USER_ERROR = 2
_IMPORTING = "<frozen importlib._bootstrap>"

_QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
# They print without the name of the file; our own messages have it.


def main() -> None:
    """Runs the command; a user's mistake ends with one message and exit code 2."""
    for name, level in _QUIET.items():
        os.environ.setdefault(name, level)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except ValueError as error:
        from yoloflow.structures import YoloflowError

        if not isinstance(error, YoloflowError):
            raise
        typer.echo(f"yoloflow: {error}", err=True)
        raise SystemExit(EXIT_USER_ERROR) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ends the process at Ctrl-C while modules are imported, else raises KeyboardInterrupt.

    Libraries in the middle of their import catch that exception, or fail later because of it.
    """
    outer = frame
    while outer is not None:
        if outer.f_code.co_filename == _IMPORTING:
            os._exit(128 + number)
        outer = outer.f_back
    signal.default_int_handler(number, frame)
