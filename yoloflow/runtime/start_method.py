"""Processes that run the user's script once more as they start: those of "spawn" and "forkserver"."""

from __future__ import annotations

import multiprocessing
import sys

from yoloflow.structures import YoloflowError


def refuse_to_start_twice() -> None:
    """Refuses to go on in a process that runs the user's script only to start.

    Raises:
        YoloflowError: this is such a process; the script lacks its guard.
    """
    # Set by multiprocessing until the script has run; it refuses further processes by it too.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise YoloflowError(f"a process that should load images trains or loads itself: {missing_guard()}")


def missing_guard() -> str:
    """Returns what is wrong where such processes end as they start, and what to do."""
    script = getattr(sys.modules["__main__"], "__file__", None) or "the script"
    return (
        f"loading processes cannot start. With the start method {multiprocessing.get_start_method()!r} each "
        f"of them first runs {script} once more, and one ended there with an error, which it printed. Mostly "
        'the guard is missing: put what trains or loads under `if __name__ == "__main__":`; or set '
        "data.num_parallel_workers=0"
    )
