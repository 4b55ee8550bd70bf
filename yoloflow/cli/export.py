"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Command, Overrides, Recipe, app


@app.command("export", cls=Command)
def export_network(
    run_or_recipe: Recipe,
    overrides: Overrides = None,
    weight: Annotated[str | None, typer.Option(help="weights file (default: the run's best)")] = None,
    out: Annotated[Path | None, typer.Option(help="the file (default: beside the weights)")] = None,
    img_size: Annotated[
        int | None, typer.Option(min=1, help="side of the network input (default: the run's)")
    ] = None,
) -> None:
    """Write a network as an ONNX file that says how to use it, and check it against torch."""
    from yoloflow.export import export

    done = export(run_or_recipe, overrides or [], weight=weight, out=out, img_size=img_size)
    typer.echo(done.path)
