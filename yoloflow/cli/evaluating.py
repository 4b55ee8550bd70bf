"""The command test."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yoloflow.cli.console import Overrides, app, mistake, write_json

if TYPE_CHECKING:
    from yoloflow.evaluation.coco import CocoResult

CLASS_FIGURES = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "AR100": "ar100"}


@app.command("test")
def evaluate(
    run_or_recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RUN|RECIPE|FILE.onnx]", help="a run folder, a recipe or an exported file"),
    ] = None,
    overrides: Overrides = None,
    weight: Annotated[
        str | None, typer.Option(help="weights or exported file (default: the run's best)")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="COCO results json to evaluate instead of a network")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO ground truth json for --predictions")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures here too")] = None,
    save_predictions: Annotated[
        Path | None, typer.Option(help="write the detections here, as a COCO results file")
    ] = None,
) -> None:
    """Evaluate a run, weights or an exported file on a validation set, or a file of predictions (COCO AP)."""
    if predictions is not None or annotations is not None:
        if predictions is None or annotations is None or run_or_recipe is not None:
            raise mistake("test: --predictions and --annotations go together, without a run or recipe")
        from yoloflow.evaluation.coco import evaluate_coco

        result = evaluate_coco(annotations, predictions)
        content, remarks = result.to_json(), [f"{predictions} as it is, against {annotations}"]
        content["settings"] = {"predictions": str(predictions), "annotations": str(annotations)}
    elif run_or_recipe is not None:
        from yoloflow.flow import evaluate_run

        evaluated = evaluate_run(run_or_recipe, overrides or [], weight, save_predictions)
        result, content, remarks = evaluated.coco, evaluated.to_json(), [evaluated.how, evaluated.speed]
    else:
        raise mistake("test: give a run or recipe, or --predictions FILE --annotations FILE")
    if os.environ.get("RANK", "0") != "0":
        return  # the first rank speaks for all
    _show_result(result, remarks)
    if json_file is not None:
        write_json(json_file, content)


def _show_result(result: CocoResult, remarks: list[str]) -> None:
    """COCO's twelve figures, then a line for each class, then how they came about."""
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
    for remark in remarks:
        console.print(remark, highlight=False, markup=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"
