"""The command watch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Command, app


@app.command(cls=Command)
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, such as runs/pets")],
    once: Annotated[bool, typer.Option("--once", help="print once and end")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two looks at the files")] = 2.0,
) -> None:
    """Show a run in the terminal while it trains, or afterwards: progress, figures, curves.

    It reads the run's files only, so it may be started, ended (Ctrl-C) and started again at any time, on
    another machine too. It ends by itself when the run has finished. Where the output is no terminal it
    prints once.
    """
    from rich.console import Console
    from rich.live import Live

    from yoloflow.report.live.progress import ProgressReader
    from yoloflow.report.live.view import RunView

    files = ProgressReader(run)
    progress = files.read()
    console = Console()
    if not console.is_terminal:
        console = Console(width=80)  # what shows it in the end has that many
    elif not once and not progress.is_finished:
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while not progress.is_finished:
                    live.update(RunView(progress, console.height), refresh=True)
                    time.sleep(interval)
                    progress = files.read()
        except KeyboardInterrupt:
            pass  # what the screen showed is printed once more, to stay
    console.print(RunView(progress))
