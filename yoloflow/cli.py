"""The `yoloflow` command. Heavy imports wait until a command needs them, so that `--help` is instant."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from yoloflow.evaluation.coco import CocoResult
    from yoloflow.structures import YoloflowError

EXIT_ERRORS_IN_DATA = 1
EXIT_USER_ERROR = 2
CLASS_FIGURES = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "AR100": "ar100"}

app = typer.Typer(
    name="yoloflow",
    help="Train and evaluate YOLO detectors in eight visible steps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


data_app = typer.Typer(
    help="Check data sets, convert them, and look at what training sees.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

_PICTURES = (".png", ".jpg")


class SettingsCommand(TyperCommand):
    """A command whose help also lists every setting of a recipe."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the settings (pydantic is imported only now)."""
        super().format_help(ctx, formatter)
        from yoloflow.config.validation import describe_keys

        typer.echo("Settings (KEY=VALUE, any of a recipe's keys):\n")
        for key, kind, default, description in describe_keys():
            typer.echo(f"  {key} ({kind}; {default})\n      {description}")


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="a recipe's name (see `yoloflow recipes`), a YAML file or a run folder"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="settings over the recipe's, such as optimizer.lr_init=0.02"),
]


@app.callback()
def _configure(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
) -> None:
    levels = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}
    if log_level.lower() not in levels:
        raise _mistake(f"--log-level {log_level}: known are debug, info, warning and error")
    _show_messages(levels[log_level.lower()])


def _show_messages(level: int) -> None:
    """Send the library's messages to stderr, a line each (around the progress bar on a terminal)."""
    logger = logging.getLogger("yoloflow")
    if not logger.handlers:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.logging import RichHandler

            handler: logging.Handler = RichHandler(
                console=Console(stderr=True), show_time=False, show_path=False, show_level=False
            )
        else:
            handler = logging.StreamHandler()
        logger.addHandler(handler)
    logger.setLevel(level)


@app.command(cls=SettingsCommand)
def train(recipe: Recipe, overrides: Overrides = None) -> None:
    """Train a recipe: `yoloflow train yolov8n data=coco.yaml epochs=100 name=first`."""
    from yoloflow import flow
    from yoloflow.config.reader import load_config
    from yoloflow.engine.stop import TrainingStopped

    try:
        flow.train(load_config(recipe, overrides or []))
    except TrainingStopped as stopped:
        raise typer.Exit(stopped.exit_code) from None


@app.command("test")
def evaluate(
    run_or_recipe: Annotated[
        str | None, typer.Argument(metavar="[RUN|RECIPE]", help="a run folder or a recipe")
    ] = None,
    overrides: Overrides = None,
    weight: Annotated[str | None, typer.Option(help="weights file (default: the run's best)")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="COCO results json to evaluate instead of a network")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO ground truth json for --predictions")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(help="write the detections here, as a COCO results file")
    ] = None,
) -> None:
    """Evaluate a run or weights on its validation set, or a file of predictions (COCO AP)."""
    if predictions is not None or annotations is not None:
        if predictions is None or annotations is None or run_or_recipe is not None:
            raise _mistake("test: --predictions and --annotations go together, without a run or recipe")
        from yoloflow.evaluation.coco import evaluate_coco

        result = evaluate_coco(annotations, predictions)
    elif run_or_recipe is not None:
        from yoloflow.flow import evaluate_run

        result = evaluate_run(run_or_recipe, overrides or [], weight, save_predictions).coco
    else:
        raise _mistake("test: give a run or recipe, or --predictions FILE --annotations FILE")
    _show_result(result)
    if json_file is not None:
        _write_json(json_file, result.to_json())


@app.command("predict")
def detect(
    weights: Annotated[
        str, typer.Argument(metavar="RUN|WEIGHTS", help="a run folder, or a weights file inside one")
    ],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="pictures, videos, folders or globs")
    ],
    save_dir: Annotated[
        Path | None,
        typer.Option(help="folder for the results (default: predictions in the run folder, numbered)"),
    ] = None,
    conf_thres: Annotated[float, typer.Option(min=0, max=1, help="lowest score of a detection")] = 0.25,
    iou_thres: Annotated[float, typer.Option(min=0, max=1, help="largest overlap of two of a class")] = 0.7,
    img_size: Annotated[
        int | None, typer.Option(min=1, help="side of the network input (default: the run's)")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="name or number of a class to report; may be repeated")
    ] = None,
    device: Annotated[str, typer.Option(help="auto or torch's name of one")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="pictures at a time")] = 8,
    save_images: Annotated[bool, typer.Option(help="draw pictures and videos too")] = True,
) -> None:
    """Detect objects in pictures and videos: JSON and drawn pictures."""
    from yoloflow.predict import predict

    done = predict(
        weights,
        sources,
        save_dir=save_dir,
        conf_thres=conf_thres,
        iou_thres=iou_thres,
        img_size=img_size,
        classes=classes,
        device=device,
        batch_size=batch_size,
        save_images=save_images,
    )
    typer.echo(done.json_path)


@app.command()
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(min=1, help="micro-batches in an epoch (default: counted in data.train_set)")
    ] = None,
    rank_size: Annotated[int, typer.Option(min=1, help="devices that train together")] = 1,
    out: Annotated[Path, typer.Option(help="folder for plan.png and plan.json")] = Path("plan"),
) -> None:
    """Show learning rates, momentum, EMA decay, accumulation and stages before anything is trained."""
    from yoloflow.config.reader import load_config
    from yoloflow.plan import count_steps_per_epoch, draw_plan, make_plan

    config = load_config(recipe, overrides or [])
    steps = steps_per_epoch or count_steps_per_epoch(config, rank_size)
    planned = make_plan(config, steps, rank_size)
    typer.echo(planned.describe())
    _write_json(out / "plan.json", planned.to_json())
    draw_plan(planned, out / "plan.png")
    typer.echo(f"written: {out / 'plan.json'}, {out / 'plan.png'}")


@app.command()
def recipes(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="print this one, resolved")] = None,
    overrides: Overrides = None,
) -> None:
    """List the recipes, or print one with all its settings."""
    if recipe is not None:
        from yoloflow.config.reader import dump_config, load_config

        typer.echo(dump_config(load_config(recipe, overrides or [])), nl=False)
        return
    from yoloflow.config.catalog import list_recipes

    found = list_recipes()
    width = max(len(info.name) for info in found)
    for info in found:
        typer.echo(f"{info.name:{width}}  {info.summary}")


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
    _write_json(report, done.to_json())
    typer.echo(f"written: {report}")
    if done.errors:
        raise typer.Exit(EXIT_ERRORS_IN_DATA)


@data_app.command("convert")
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
    image_folder: Annotated[str | None, typer.Option(help="where the pictures lie")] = None,
    link: Annotated[bool, typer.Option(help="link to the pictures instead of copying them")] = False,
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
    out: Annotated[Path, typer.Option(help="picture to write")] = Path("sample.png"),
) -> None:
    """Draw exactly what training sees: a sample after each transform, or a whole batch."""
    import cv2

    from yoloflow.config.reader import load_config
    from yoloflow.replay import Replay

    if index is not None and batch is not None:
        raise _mistake("data show: give --index or --batch, not both")
    if out.suffix not in _PICTURES:
        raise _mistake(f"--out {out}: must end in {' or '.join(_PICTURES)}")
    replay = Replay(load_config(recipe, overrides or []))
    picture = replay.draw_sample(epoch, index or 0) if batch is None else replay.draw_batch(epoch, batch)
    _write(out, cv2.imencode(out.suffix, picture)[1].tobytes())
    typer.echo(f"written: {out}")


def _show_result(result: CocoResult) -> None:
    """COCO's twelve figures, then a line for each class."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from yoloflow.evaluation.coco import STAT_NAMES

    figures = Table(box=box.SIMPLE_HEAD)
    figures.add_column(f"{result.num_images} images")
    figures.add_column("all classes", justify="right")
    for name, value in zip(STAT_NAMES, result.stats, strict=True):
        figures.add_row(name, _figure(value))
    classes = Table(box=box.SIMPLE_HEAD)
    classes.add_column("class")
    for name in ("objects", *CLASS_FIGURES):
        classes.add_column(name, justify="right")
    for row in result.per_class:
        values = [_figure(getattr(row, key)) for key in CLASS_FIGURES.values()]
        classes.add_row(row.name, str(row.num_objects), *values)
    # Piped output keeps its columns whatever the width of the caller's terminal.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(figures, classes)


def _figure(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write(path, (json.dumps(content, indent=1) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise _mistake(f"{path}: cannot be written ({error.strerror})") from error


def _mistake(message: str) -> YoloflowError:
    # Imported only now: it brings numpy, half of what `--help` would cost.
    from yoloflow.structures import YoloflowError

    return YoloflowError(message)


def main() -> None:
    """Run the command; a user's mistake ends with one message and exit code 2."""
    try:
        app()
    except ValueError as error:
        from yoloflow.structures import YoloflowError

        if not isinstance(error, YoloflowError):
            raise
        typer.echo(f"yoloflow: {error}", err=True)
        raise SystemExit(EXIT_USER_ERROR) from None
    finally:
        # Only a command that has imported it can have joined.
        if "yoloflow.runtime" in sys.modules:
            sys.modules["yoloflow.runtime"].leave_ranks()
