"""The commands on data sets: check, convert, show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Command, Overrides, Recipe, SettingsCommand, app, mistake, write, write_json

EXIT_ERRORS_IN_DATA = 1
_IMAGE_SUFFIXES = (".png", ".jpg")

data_app = typer.Typer(
    help="Check data sets, convert them, and look at what training sees.", no_args_is_help=True
)
app.add_typer(data_app, name="data")


@data_app.command("check", cls=SettingsCommand)
def check_data(
    recipe: Recipe,
    overrides: Overrides = None,
    report: Annotated[Path, typer.Option(help="file for every finding (JSON)")] = Path("data_check.json"),
) -> None:
    """Look at all data once, before any training; exit code 1 if it has what data.problems does not allow."""
    from rich.console import Console
    from rich.progress import Progress

    from yoloflow.check import check_data
    from yoloflow.config.reader import load_config

    config = load_config(recipe, overrides or [])
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading")
        done = check_data(
            config,
            lambda count, total: bar.update(task, completed=count, total=total, description="decoding"),
        )
    typer.echo(done.describe())
    write_json(report, done.to_json())
    typer.echo(f"written: {report}")
    if done.errors:
        raise typer.Exit(EXIT_ERRORS_IN_DATA)


@data_app.command("convert", cls=Command)
def convert_data(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="data sets to join, or one data set file (.yaml)")
    ],
    to: Annotated[str, typer.Option(help="coco, voc or yolo")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
    split: Annotated[str, typer.Option(help="name of the set that is written")] = "train",
    name: Annotated[
        list[str] | None, typer.Option(help="a class name; repeat it for all, in class order")
    ] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="number of classes of labels without names")] = None,
    image_folder: Annotated[str | None, typer.Option(help="where the images lie")] = None,
    link: Annotated[bool, typer.Option(help="link to the images instead of copying them")] = False,
    outlines: Annotated[bool, typer.Option(help="write outlines and masks, not boxes only")] = True,
) -> None:
    """Write data sets in another format, and say what was repaired and what the format cannot hold."""
    from yoloflow.convert import Reading, convert

    reading = Reading(name, nc, image_folder=image_folder)
    for line in convert(sources, to, out, split, reading=reading, link=link, with_outlines=outlines):
        typer.echo(line)


@data_app.command("show", cls=SettingsCommand)
def show_data(
    recipe: Recipe,
    overrides: Overrides = None,
    epoch: Annotated[int, typer.Option(help="epoch, from 1")] = 1,
    index: Annotated[int | None, typer.Option(help="an image of the training set, from 0")] = None,
    batch: Annotated[int | None, typer.Option(help="a batch of the epoch instead, from 1")] = None,
    out: Annotated[Path, typer.Option(help="image to write")] = Path("sample.png"),
) -> None:
    """Draw exactly what training sees: a sample after each transform, or a whole batch."""
    import cv2

    from yoloflow.config.reader import load_config
    from yoloflow.replay import Replay

    if index is not None and batch is not None:
        raise mistake("data show: give --index or --batch, not both")
    if out.suffix not in _IMAGE_SUFFIXES:
        raise mistake(f"--out {out}: must end in {' or '.join(_IMAGE_SUFFIXES)}")
    replay = Replay(load_config(recipe, overrides or []))
    image = replay.draw_sample(epoch, index or 0) if batch is None else replay.draw_batch(epoch, batch)
    write(out, cv2.imencode(out.suffix, image)[1].tobytes())
    typer.echo(f"written: {out}")
