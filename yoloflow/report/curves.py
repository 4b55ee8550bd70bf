"""Curves of a training, from its `metrics.jsonl`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.files import NUMBER, wrong_places

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("yoloflow")

# What a step record holds beside its loss items.
_STEP_KEYS = {"kind", "epoch", "step", "update", "lr", "momentum", "images_per_second", "time"}
# What is read of each kind of record; see `json_files.wrong_places`.
_FORMS: dict[str, dict[str, object]] = {
    "step": {"epoch": int, "step": int, "lr?": [NUMBER], "time?": NUMBER},
    "evaluation": {"epoch": int, "step": int, "time?": NUMBER},
    "stage": {"epoch": int, "stage": int, "step": int, "steps_per_epoch?": NUMBER, "time?": NUMBER},
    "loading": {"waited_share?": NUMBER},
}
NO_OBJECTS = "no objects in the validation set"
"""Said where COCO's figures are -1: there is nothing that could be found."""
# Colour-blind safe (Okabe and Ito 2008), darkest first.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_INK, _MUTED, _LIGHT = "#222222", "#777777", "#e4e4e4"


@dataclass(slots=True)
class Metrics:
    """The records of a metrics file by kind, in file order."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    loading: list[dict[str, Any]] = field(default_factory=list)

    @property
    def loss_names(self) -> list[str]:
        """Loss items of the step records, in order of first appearance."""
        return list(dict.fromkeys(key for record in self.steps for key in record if key not in _STEP_KEYS))

    @property
    def valued_evaluations(self) -> list[dict[str, Any]]:
        """Evaluations with an AP: finite, and not the -1 of a validation set without objects."""
        return [row for row in self.evaluations if has_ap(row)]

    @property
    def has_no_objects(self) -> bool:
        """Whether the newest evaluation found no object that could be found."""
        newest = self.evaluations[-1].get("map") if self.evaluations else None
        return newest is not None and _is_number(newest) and newest < 0

    def epochs_at(self, records: Sequence[Mapping[str, Any]]) -> list[float]:
        """Where records lie on the axis of epochs done: 1.5 is the middle of the second epoch."""
        steps_per_epoch = self.steps_per_epoch
        if steps_per_epoch is None:
            return [float(record["epoch"]) for record in records]
        return [record["step"] / steps_per_epoch for record in records]

    @property
    def steps_per_epoch(self) -> float | None:
        """As the newest stage record states it, else the last step logged in an epoch is its last step."""
        if self.stages and (stated := self.stages[-1].get("steps_per_epoch")):
            return float(stated)
        records = [*self.steps, *self.evaluations]
        if not records:
            return None
        last_steps: dict[int, int] = {}
        for record in records:
            last_steps[record["epoch"]] = max(record["step"], last_steps.get(record["epoch"], 0))
        # The newest epoch may be in progress; an earlier one, or an evaluated one, is whole.
        whole = {record["epoch"] for record in self.evaluations} | set(sorted(last_steps)[:-1])
        epoch = max(whole or last_steps)
        return last_steps[epoch] / epoch or None if epoch > 0 else None


def has_ap(figures: Mapping[str, Any]) -> bool:
    """Whether `map` and `map50` are figures; COCO's -1 says that there was no object."""
    values = (figures.get(key, -1.0) for key in ("map", "map50"))
    return all(_is_number(value) and value >= 0 for value in values)


def read_metrics(path: str | Path, *, is_growing: bool = False) -> Metrics:
    """Read a metrics file.

    A line that is no JSON object (the last one of a killed run), or an object without what its kind has,
    is left out with a warning.

    Args:
        path: `metrics.jsonl` of a run folder.
        is_growing: somebody may be writing it, and a last line without an end is no fault.
    """
    metrics = Metrics()
    homes = {
        "step": metrics.steps,
        "evaluation": metrics.evaluations,
        "stage": metrics.stages,
        "loading": metrics.loading,
    }
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                if is_growing and not line.endswith("\n"):
                    break
                logger.warning("%s:%d: not a JSON object, left out: %.40r", path, number, line)
                continue
            kind = record.get("kind")
            if not isinstance(kind, str) or kind not in homes:
                continue
            if wrong := next(wrong_places(record, _FORMS[kind]), None):
                logger.warning("%s:%d: a record of kind %r is left out: %s", path, number, kind, wrong)
                continue
            homes[kind].append(record)
    return metrics


def plot_curves(metrics_path: str | Path, picture_path: str | Path) -> None:
    """Draw losses, learning rates and AP over epochs, with stage borders.

    The picture is replaced in one move, so that a viewer never sees half of one.

    Args:
        metrics_path: `metrics.jsonl` of a run folder; it may end in the middle of a line.
        picture_path: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = read_metrics(metrics_path)
    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, rate_axes, ap_axes = figure.subplots(1, 3)
    _plot_losses(loss_axes, metrics)
    _plot_rates(rate_axes, metrics)
    _plot_ap(ap_axes, metrics)
    for axes in (loss_axes, rate_axes, ap_axes):
        _style(axes)
        # Curves of AP rise into the upper right corner, the others fall away from it.
        _mark_stages(axes, metrics, at_top=axes is not ap_axes)
    target = Path(picture_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        figure.savefig(file, format="png")
    unfinished.replace(target)


def _plot_losses(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("Training loss", loc="left", color=_INK, fontsize=11, fontweight="bold")
    names = metrics.loss_names
    for k, name in enumerate(names):
        records = [record for record in metrics.steps if _is_number(record.get(name))]
        values = np.array([record[name] for record in records], np.float64)
        colour = _INK if k == 0 else _COLOURS[(k - 1) % len(_COLOURS)]
        epochs = metrics.epochs_at(records)
        noisy = len(values) > 20
        if noisy:
            axes.plot(epochs, values, color=colour, linewidth=0.8, alpha=0.25)
        axes.plot(epochs, smooth(values) if noisy else values, color=colour, linewidth=1.8, label=name)
    if names:
        _legend(axes)
        axes.set_ylim(bottom=0)
    else:
        _say_empty(axes, "no steps logged yet")


def _plot_rates(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("Learning rate", loc="left", color=_INK, fontsize=11, fontweight="bold")
    num_groups = len(metrics.steps[-1].get("lr", ())) if metrics.steps else 0
    records = [record for record in metrics.steps if len(record.get("lr", ())) == num_groups]
    if not num_groups:
        _say_empty(axes, "no steps logged yet")
        return
    epochs = metrics.epochs_at(records)
    rates = np.array([record["lr"] for record in records], float)
    # Groups often share one curve: equal ones are drawn once and named together.
    curves: dict[bytes, list[int]] = {}
    for group in range(rates.shape[1]):
        curves.setdefault(rates[:, group].tobytes(), []).append(group)
    for k, groups in enumerate(curves.values()):
        label = f"group{'s' if len(groups) > 1 else ''} {', '.join(map(str, groups))}"
        axes.plot(epochs, rates[:, groups[0]], color=_COLOURS[k % len(_COLOURS)], linewidth=1.8, label=label)
    _legend(axes)
    axes.set_ylim(bottom=0)


def _plot_ap(axes: Axes, metrics: Metrics) -> None:
    axes.set_title("Validation AP", loc="left", color=_INK, fontsize=11, fontweight="bold")
    records = metrics.valued_evaluations
    if not records:
        _say_empty(axes, NO_OBJECTS if metrics.has_no_objects else "not evaluated yet")
        return
    epochs = metrics.epochs_at(records)
    for key, name, colour in (("map50", "AP50", _COLOURS[1]), ("map", "AP", _COLOURS[0])):
        values = [float(record[key]) for record in records]
        marker = "o" if len(values) <= 30 else None
        axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=name)
        best = int(np.argmax(values))
        axes.plot(epochs[best], values[best], "o", color=colour, markersize=8, fillstyle="none")
        axes.annotate(
            f"{values[best]:.3f}",
            (epochs[best], values[best]),
            xytext=(0, -9),
            textcoords="offset points",
            ha="right" if best > len(values) / 2 else "left",
            va="top",
            color=colour,
            fontsize=9,
        )
    _legend(axes)
    axes.set_ylim(0, 1.02)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a centred window of a twentieth of the curve, shorter at its ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def _style(axes: Axes) -> None:
    axes.set_xlabel("epochs", color=_MUTED, fontsize=9)
    axes.set_xlim(left=0)
    axes.grid(visible=True, color=_LIGHT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, labelsize=9)
    axes.locator_params(axis="x", integer=True)


def _mark_stages(axes: Axes, metrics: Metrics, *, at_top: bool) -> None:
    """A dashed line where each stage but the first begins (before the first step of its epoch)."""
    for record in metrics.stages:
        if record["stage"] == 0:
            continue
        epoch = record["epoch"] - 1
        axes.axvline(epoch, color=_MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"stage {record['stage'] + 1}",
            (epoch, 1.0 if at_top else 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -2 if at_top else 4),
            textcoords="offset points",
            ha="right",
            va="top" if at_top else "bottom",
            rotation=90,
            color=_MUTED,
            fontsize=8,
        )


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK)


def _say_empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_MUTED, fontsize=10)
    axes.set_xlim(0, 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
