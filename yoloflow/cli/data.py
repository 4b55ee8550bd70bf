"""The commands on data sets: check, convert, split, show."""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import Overrides, Recipe, SettingsCommand, app, mistake, show, write, write_json
from yoloflow.cli.data_options import SourcesCommand, in_options

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
    """Look at all data once, before any training; exit code 1 if no training would start."""
    from rich.console import Console
    from rich.progress import Progress

    from yoloflow.check import check_data
    from yoloflow.config.reader import load_config

    config = load_config(recipe, overrides or [])
    # A duplicate, as what is printed on the original meanwhile is taken for messages of image decoders.
    terminal = os.fdopen(os.dup(sys.__stderr__.fileno()), "w") if sys.__stderr__ else None
    with terminal or nullcontext(), Progress(console=Console(file=terminal), transient=True) as bar:
        task = bar.add_task("reading")
        done = check_data(
            config,
            lambda count, total: bar.update(task, completed=count, total=total, description="decoding"),
        )
    show(done.describe())
    write_json(report, done.to_json())
    show(f"written: {report}")
    if not done.can_train:
        raise typer.Exit(EXIT_ERRORS_IN_DATA)


Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE", help="data sets to join, or one data set file (.yaml)")
]
Names = Annotated[
    list[str] | None, typer.Option("--name", help="a class name; repeat it for all, in class order")
]
ClassCount = Annotated[int | None, typer.Option(min=1, help="number of classes of labels without names")]
ImageFolder = Annotated[str | None, typer.Option(help="where the images lie")]
ImageFolders = Annotated[
    list[str] | None,
    typer.Option(
        "--image-folder", help="where the images lie, or SPLIT=FOLDER for each split of a data set file"
    ),
]
Link = Annotated[bool, typer.Option(help="link to the images instead of copying them")]
Outlines = Annotated[bool, typer.Option(help="write outlines and masks, not boxes only")]
Problems = Annotated[
    str, typer.Option(help="as data.problems: repair, error, or {KIND: ACTION, ...} (docs/data.md)")
]


@data_app.command("convert", cls=SourcesCommand)
def convert_data(
    sources: Sources,
    to: Annotated[str, typer.Option(help="coco, voc or yolo")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
    split: Annotated[str, typer.Option(help="name of the set that is written")] = "train",
    name: Names = None,
    nc: ClassCount = None,
    image_folder: ImageFolders = None,
    link: Link = False,
    problems: Problems = "repair",
    outlines: Outlines = True,
) -> None:
    """Write data sets in another format, and say what was repaired and what the format cannot hold."""
    from yoloflow.convert import Reading, convert

    reading = Reading(name, nc, _policy(problems), _by_split(image_folder or []))
    for line in convert(sources, to, out, split, reading=reading, link=link, with_outlines=outlines):
        show(in_options(line))


@data_app.command("split", cls=SourcesCommand)
def split_data(  # noqa: PLR0913  one parameter for each option
    sources: Sources,
    out: Annotated[Path, typer.Option(help="folder to write to")],
    val: Annotated[float, typer.Option(help="share of the images for validation")] = 0.2,
    test: Annotated[float, typer.Option(help="share of the images for a test set")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="other seeds give other parts")] = 0,
    to: Annotated[str | None, typer.Option(help="coco, voc or yolo (default: as the sources)")] = None,
    name: Names = None,
    nc: ClassCount = None,
    image_folder: ImageFolder = None,
    link: Link = False,
    problems: Problems = "repair",
) -> None:
    """Split a data set into training and validation images, with alike shares of each class."""
    from yoloflow.convert import Reading, split_data

    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise mistake(f"--val {val} --test {test}: must be shares of the images that leave some to train on")
    shares = {"train": 1 - val - test, "val": val} | ({"test": test} if test else {})
    reading = Reading(name, nc, _policy(problems), image_folder)
    for line in split_data(sources, out, shares, to, seed=seed, reading=reading, link=link):
        show(in_options(line))


def _policy(text: str) -> str | dict[str, str]:
    from yoloflow.config.document import read_value

    policy: object = read_value(text, "--problems").plain()
    if not isinstance(policy, str | dict):
        raise mistake(f"--problems {text}: must be repair, error, or {{KIND: ACTION, ...}}")
    return policy


def _by_split(folders: list[str]) -> str | dict[str, str] | None:
    """Returns SPLIT=FOLDER texts as a dictionary; one folder without a split is that of all."""
    parted = [re.fullmatch(r"(\w+)=(.*)", folder) for folder in folders]
    if not all(parted):
        return folders[0] if len(folders) == 1 else None
    return {match[1]: match[2] for match in parted if match} or None


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
