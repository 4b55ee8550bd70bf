"""The commands on weights files: list, get, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Command, Overrides, app, show

weights_app = typer.Typer(
    help="List and download published weights, and convert weights files.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")


@weights_app.command("list", cls=Command)
def list_weights() -> None:
    """List the published weights, with the AP on COCO val2017 that their publisher states."""
    from yoloflow.weights.published import LICENCE, SOURCE, list_published, weights_folder

    rows = list_published()
    width = max(len(row.recipe) for row in rows)
    show(f"  {'recipe':{width}} size     AP  file (its name ends in the SHA-256 prefix)")
    for row in rows:
        there = "*" if (weights_folder() / row.file_name).is_file() else " "
        masks = "" if row.mask_ap is None else f" (masks {row.mask_ap:.3f})"
        show(f"{there} {row.recipe:{width}} {row.img_size:4}  {row.ap:.3f}  {row.file_name}{masks}")
    show(
        f"\nFrom {SOURCE}, licence {LICENCE}; it states no AP50.\nsize: pixels. *: downloaded, "
        f"in {weights_folder()}\nDownload one: yoloflow weights get RECIPE (or FILE)"
    )


@weights_app.command("get", cls=Command)
def get_weights(
    name: Annotated[
        str, typer.Argument(metavar="RECIPE|FILE", help="a recipe, or a file's name of `weights list`")
    ],
    folder: Annotated[Path | None, typer.Option(help="where to put it (default: the cache folder)")] = None,
    mirror: Annotated[
        str | None, typer.Option(help="address of a folder that has the file, instead of the publisher's")
    ] = None,
) -> None:
    """Download published weights; `yoloflow train RECIPE weight=published` then starts from them."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from yoloflow.runtime.messages import stderr_console
    from yoloflow.weights.download import download
    from yoloflow.weights.published import find_published, weights_folder

    row = find_published(name)
    target = (folder or weights_folder()) / row.file_name
    url = row.url if mirror is None else f"{mirror.rstrip('/')}/{row.file_name}"
    columns = (*Progress.get_default_columns()[:3], DownloadColumn(), TransferSpeedColumn())
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(row.recipe, total=None)
        download(
            url, target, row.sha256_prefix, lambda done, total: bar.update(task, completed=done, total=total)
        )
    typer.echo(target)


@weights_app.command("convert", cls=Command)
def convert_weights(
    target: Annotated[
        str,
        typer.Argument(metavar="RUN|FILE|RECIPE", help="a run, a weights file, or a recipe with weight=FILE"),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="a file: .ckpt for MindSpore, or .safetensors for yoloflow")
    ],
    overrides: Overrides = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="images on which BatchNorm's statistics are measured, for weights in which it is folded "
            "(ONNX): a training can then start from them",
        ),
    ] = None,
) -> None:
    """Write weights in another format: `yoloflow weights convert runs/pets pets.ckpt` for MindYOLO."""
    from yoloflow.convert_weights import convert_weights

    convert_weights(target, out, overrides or [], images)
    typer.echo(out)
