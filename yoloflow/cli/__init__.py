"""The `yoloflow` command. Heavy imports wait until a command needs them, so that `--help` is instant."""

from __future__ import annotations

import os

from yoloflow.cli.console import app, show

# isort: split
# Each registers its commands, which the help lists in this order.
from yoloflow.cli import training

# isort: split
from yoloflow.cli import data, evaluation, export, predict, report, watch, weights

__all__ = ["app", "data", "evaluation", "export", "main", "predict", "report", "training", "watch", "weights"]

EXIT_USER_ERROR = 2

_QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}
# They print without the name of the file; our own messages have it.


def main() -> None:
    """Runs the command; a user's mistake ends with one message and exit code 2."""
    for name, level in _QUIET.items():
        os.environ.setdefault(name, level)
    try:
        app()
    except ValueError as error:
        from yoloflow.structures import YoloflowError

        if not isinstance(error, YoloflowError):
            raise
        show(f"yoloflow: {error}", err=True)
        raise SystemExit(EXIT_USER_ERROR) from None
