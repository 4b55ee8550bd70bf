"""The command report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Command, app, show_path


@app.command("report", cls=Command)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders, finished or not")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="file to write (default: report.html in the run; of several compare.html in the first)"
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option(help="evaluate the best weights of a run that has no diagnostics of them")
    ] = True,
) -> None:
    """Write a page about a run, or several side by side: one HTML file that needs no network."""
    from yoloflow.run_report import write_report

    show_path(write_report(runs, out, evaluate=evaluate))
