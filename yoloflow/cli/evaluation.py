"""The command test."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from yoloflow.cli.console import KeyValueCommand, Overrides, app, make_place, mistake, show, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from yoloflow.evaluation.coco import CocoResult
    from yoloflow.evaluation.coco_truth import GroundTruth
    from yoloflow.evaluation.diagnostics import Comparison, Diagnostics

CLASS_FIGURES = {
    "AP": "ap",
    "AP50": "ap50",
    "AP75": "ap75",
    "AP small": "ap_small",
    "AP medium": "ap_medium",
    "AP large": "ap_large",
    "AR100": "ar100",
}
_BY_SIZE = ("ap_small", "ap_medium", "ap_large")


@app.command("test", cls=KeyValueCommand)
def evaluate(
    run_or_recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|FILE|RECIPE",
            help="a run folder, a weights file inside one, an exported file, or a recipe with weight=FILE",
        ),
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
    diagnostics: Annotated[
        Path | None, typer.Option(help="write curves, confusion matrix, error kinds, ... here, as json")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="other predictions: is --predictions better, and how sure is that?")
    ] = None,
) -> None:
    """Evaluate a run, weights or an exported file on a validation set, or a file of predictions (COCO AP).

    Masks are evaluated too where the network predicts them, or where each prediction of the file has one.
    """
    for path in (json_file, save_predictions, diagnostics):
        if path is not None:
            make_place(path)
    if predictions is None and annotations is None and against is None:
        if run_or_recipe is None:
            raise mistake("test: give a run or recipe, or --predictions FILE --annotations FILE")
        outcome = _test_network(run_or_recipe, overrides, weight, save_predictions, diagnostics is not None)
    else:
        if predictions is None or annotations is None:
            raise mistake("test: --predictions and --annotations go together, and --against needs both")
        if run_or_recipe is not None or weight is not None or save_predictions is not None:
            raise mistake(
                "test: --predictions are evaluated without a run or recipe, --weight and --save-predictions"
            )
        if against is not None:
            if diagnostics is not None:
                raise mistake("test: --diagnostics is of one set of predictions, without --against")
            _compare(annotations, predictions, against, json_file)
            return
        outcome = _test_file(annotations, predictions, diagnostics is not None)
    if os.environ.get("RANK", "0") == "0":  # the first rank speaks for all
        _tell(outcome, json_file, diagnostics)


class Outcome(NamedTuple):
    """Figures of boxes and masks, the content of a file, remarks on how it came about, and diagnostics."""

    result: CocoResult
    masks: CocoResult | None
    content: dict[str, Any]
    remarks: list[str]
    found: Diagnostics | None


def _test_network(
    run_or_recipe: str,
    overrides: Overrides,
    weight: str | None,
    save_predictions: Path | None,
    with_diagnostics: bool,
) -> Outcome:
    from yoloflow.evaluate import evaluate_run
    from yoloflow.evaluation.coco_arrays import ground_truth_of
    from yoloflow.evaluation.hints import crowding_hint

    evaluated = evaluate_run(run_or_recipe, overrides or [], weight, save_predictions)
    found = None
    if with_diagnostics:
        from yoloflow.evaluation.run_diagnostics import diagnose_result

        found = diagnose_result(evaluated, evaluated.index, weight or run_or_recipe)
    metrics = [f"{name} {value:.4f}" for name, value in evaluated.metrics.items()]
    losses = [f"val_loss {name} {value:.4f}" for name, value in evaluated.losses.items()]
    hints = crowding_hint(ground_truth_of(evaluated.index))
    remarks = [*metrics, *losses, evaluated.settings_line, evaluated.speed, *_as_remarks(hints)]
    content = {**evaluated.to_json(), "hints": hints}
    return Outcome(evaluated.coco, evaluated.masks, content, remarks, found)


def _test_file(annotations: Path, predictions: Path, with_diagnostics: bool) -> Outcome:
    from yoloflow.evaluation.coco import evaluate_read
    from yoloflow.evaluation.coco_reader import count_masks, read_detections
    from yoloflow.evaluation.coco_truth import describe_filled, read_ground_truth
    from yoloflow.evaluation.hints import find_hints
    from yoloflow.evaluation.result import figures_json

    num_masks, number = count_masks(predictions)
    with_masks = 0 < num_masks == number
    truth = read_ground_truth(annotations, with_masks=with_masks)
    read = read_detections(predictions, truth, with_masks=with_masks)
    result = evaluate_read(truth, read, None)
    masks = evaluate_read(truth, read, None, "segm") if with_masks else None
    found = None
    if with_diagnostics:
        from yoloflow.evaluation.diagnostics import diagnose

        found = diagnose(truth, predictions, what=str(predictions))
    hints = find_hints(truth, predictions, result)
    if num_masks and not with_masks:
        hints.append(f"{num_masks} of {number} detections have masks, which count only where all have one")
    if truth.num_filled:
        hints.append(describe_filled(truth))
    content = {
        **figures_json(result, masks),
        "settings": {"predictions": str(predictions), "annotations": str(annotations)},
        "data_problems": {"annotations": truth.account()},
        "hints": hints,
    }
    remarks = [*_account(truth), f"{predictions} as it is, against {annotations}", *_as_remarks(hints)]
    return Outcome(result, masks, content, remarks, found)


def _account(truth: GroundTruth) -> list[str]:
    """Returns what was left out of a file of ground truth; nothing where all of it is used."""
    from yoloflow.data.problems import describe_account

    if not truth.problems:
        return []
    return [truth.source, *(f"  {line}" for line in describe_account(truth.account(), truth.problems))]


def _as_remarks(hints: list[str]) -> list[str]:
    return [f"hint: {hint}" for hint in hints]


def _tell(outcome: Outcome, json_file: Path | None, diagnostics: Path | None) -> None:
    """Writes the files, then prints: files are kept, whatever becomes of the terminal."""
    if json_file is not None:
        write_json(json_file, outcome.content)
    if outcome.found is not None and diagnostics is not None:
        write_json(diagnostics, outcome.found.to_json())
    _show_result(outcome.result, outcome.masks, outcome.remarks)
    if outcome.found is not None:
        _show_diagnostics(outcome.found)


def _compare(annotations: Path, predictions: Path, against: Path, json_file: Path | None) -> None:
    """Shows AP of both and by how much the first is better, with its interval; then each class."""
    from yoloflow.evaluation.coco_truth import read_ground_truth
    from yoloflow.evaluation.diagnostics import compare

    truth = read_ground_truth(annotations)
    found = compare(truth, predictions, against)
    if json_file is not None:
        write_json(json_file, {**found.to_json(), "data_problems": {"annotations": truth.account()}})
    _show_comparison(found, predictions.name, against.name)
    for line in _account(truth):
        show(line)


def _show_result(result: CocoResult, masks: CocoResult | None, remarks: list[str]) -> None:
    """Prints COCO's twelve figures, then a line for each class, those of masks too, then the remarks."""
    from yoloflow.evaluation.coco import STAT_NAMES
    from yoloflow.structures import plural

    results = {"all classes": result} if masks is None else {"boxes": result, "masks": masks}
    figures = _table(plural(result.num_images, "image"), *results)
    for k, name in enumerate(STAT_NAMES):
        figures.add_row(name, *(_figure(one.stats[k]) for one in results.values()))
    console = _console()
    console.print(figures)
    for title, one in results.items():
        _show_classes(console, "class" if masks is None else f"{title} of class", one)
    for remark in remarks:
        show(remark)


def _show_classes(console: Console, title: str, result: CocoResult) -> None:
    """Prints a line for each class; what does not fit beside whole names is left out, and said."""
    shown = CLASS_FIGURES
    needed = _keep_names(console, classes := _class_table(title, result, shown))
    if needed > console.width:
        shown = {name: key for name, key in CLASS_FIGURES.items() if key not in _BY_SIZE}
        _keep_names(console, classes := _class_table(title, result, shown))
    console.print(classes)
    if shown is not CLASS_FIGURES:
        show(f"AP of small, medium and large objects: in a terminal of {needed} columns, or with --json FILE")


def _class_table(title: str, result: CocoResult, figures: Mapping[str, str]) -> Table:
    table = _table(title, "objects", *figures)
    for row in result.per_class:
        values = [_figure(getattr(row, key)) for key in figures.values()]
        table.add_row(row.name, str(row.num_objects), *values)
    return table


def _keep_names(console: Console, table: Table) -> int:
    """Keeps the names in the first column whole where they fit; returns the columns that this needs."""
    from rich.measure import Measurement

    options = console.options.update(max_width=sys.maxsize)
    table.columns[0].no_wrap = True
    needed = Measurement.get(console, options, table).minimum
    table.columns[0].no_wrap = needed <= console.width
    return needed


def _show_diagnostics(found: Diagnostics) -> None:
    """Prints the kinds of error with their cost, and the interval of AP; the file has the rest."""
    from yoloflow.evaluation.diagnostics.errors import KINDS

    cost = f"cost in AP at IoU {found.iou_thres:g}"
    table = _table(f"errors from a score of {found.conf_thres:g} on", "number", cost)
    for kind, number, points in zip(KINDS, found.errors.counts, found.errors.ap_costs, strict=True):
        table.add_row(kind, str(number), f"{points:.4f}")
    console = _console()
    console.print(table)
    if found.intervals is not None:
        low, high = found.intervals.ap
        console.print(f"  AP lies between {low:.4f} and {high:.4f} ({found.intervals.level:.0%} interval)")


def _show_comparison(found: Comparison, name: str, other: str) -> None:
    """Prints AP and AP50 of both with the difference, then each class, the largest gain first."""
    from yoloflow.evaluation.diagnostics.intervals import LEVEL
    from yoloflow.structures import plural

    titles = (name, other, "difference", f"{LEVEL:.0%} interval", "samples in which it is better")
    figures = _table(plural(found.a.num_images, "image"), *titles)
    for title, row in (("AP", found.ap), ("AP50", found.ap50)):
        ends = "-" if row.interval is None else "{:+.4f} to {:+.4f}".format(*row.interval)
        share = "-" if row.share_better is None else f"{row.share_better:.1%}"
        figures.add_row(title, _figure(row.a), _figure(row.b), f"{row.difference:+.4f}", ends, share)
    classes = _table("class", "objects", f"AP {name}", f"AP {other}", "difference", "difference of AP50")
    for gain in sorted(found.per_class, key=lambda row: -(row.ap_difference or 0)):
        differences = [
            "-" if value is None else f"{value:+.4f}" for value in (gain.ap_difference, gain.ap50_difference)
        ]
        values = [_figure(gain.ap_a), _figure(gain.ap_b), *differences]
        classes.add_row(gain.name, str(gain.num_objects), *values)
    console = _console()
    _keep_names(console, classes)
    console.print(figures, classes)


def _table(first: str, *titles: str) -> Table:
    """Returns an empty table; all columns but the first hold figures."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for title in titles:
        # In a narrow terminal titles are broken into lines, then names; no figure is cut.
        table.add_column(title, justify="right", min_width=max(map(len, (*title.split(), "0.0000"))))
    return table


def _console() -> Console:
    """Returns a console without markup; piped output has 120 columns whatever the caller's terminal has."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)


def _figure(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{value:.4f}"
