"""The curves of a training as a plot, `plots/curves.png`."""

from __future__ import annotations

import io
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from yoloflow.files import write_atomically
from yoloflow.report.metrics import (
    NO_OBJECTS,
    Metrics,
    TrainingCurves,
    curves_of,
    known_points,
    read_metrics,
    smooth,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito 2008), darkest first.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
INK, MUTED, _LIGHT = "#222222", "#777777", "#e4e4e4"
_STRIP = 0.14
"""Part of the height that names of stages need."""


def plot_curves(metrics_path: str | Path, plot_path: str | Path) -> None:
    """Draws losses, learning rates and AP over epochs, with stage borders.

    Args:
        metrics_path: `metrics.jsonl` of a run folder; it may end in the middle of a line.
        plot_path: PNG to write.
    """
    figure = draw_curves(read_metrics(metrics_path))
    Path(plot_path).parent.mkdir(parents=True, exist_ok=True)
    write_png(figure, Path(plot_path))


def three_panels(height: float, dpi: int) -> tuple[Figure, Sequence[Axes]]:
    """Returns an empty figure of three plots side by side, `height` inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, 3)


def style_panel(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Gives a plot its title and the labels of its axes, which have lines on two sides only."""
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold")
    axes.set_xlabel(x, color=MUTED, fontsize=9)
    axes.set_ylabel(y, color=MUTED, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=9)


def write_png(figure: Figure, path: Path) -> None:
    """Writes a figure in one move, so that a viewer never sees half of it."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


def draw_curves(metrics: Metrics) -> Figure:
    """Draws the curves of a training side by side."""
    curves = curves_of(metrics)
    figure, (loss_axes, rate_axes, ap_axes) = three_panels(4, dpi=120)
    _plot_losses(loss_axes, curves)
    _plot_rates(rate_axes, curves)
    _plot_ap(ap_axes, curves, NO_OBJECTS if metrics.has_no_objects else "not evaluated yet")
    for axes, title in (
        (loss_axes, "Loss" if curves.val_losses else "Training loss"),
        (rate_axes, "Learning rate"),
        (ap_axes, "Validation AP"),
    ):
        style_panel(axes, title, "epochs")
        axes.set_xlim(left=0)
        axes.grid(visible=True, color=_LIGHT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.locator_params(axis="x", integer=True)
        _mark_stages(axes, curves)
    return figure


def _plot_losses(axes: Axes, curves: TrainingCurves) -> None:
    for k, (name, column) in enumerate(curves.losses.items()):
        epochs, values = known_points(curves.epochs, column)
        colour = INK if k == 0 else _COLOURS[(k - 1) % len(_COLOURS)]
        noisy = len(values) > 20
        if noisy:
            axes.plot(epochs, values, color=colour, linewidth=0.8, alpha=0.25)
        shown = smooth(values) if noisy else values
        axes.plot(epochs, shown, color=colour, linewidth=1.8, marker=_marker(values), label=name)
        validation = known_points(curves.evaluated, curves.val_losses.get(name, []))
        axes.plot(*validation, color=colour, linewidth=1.4, linestyle="--")
    if curves.val_losses:
        axes.plot([], [], color=MUTED, linewidth=1.4, linestyle="--", label="of the validation set")
    _finish(axes, "no steps logged yet")


def _plot_rates(axes: Axes, curves: TrainingCurves) -> None:
    for k, (label, column) in enumerate(curves.rates.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        epochs, rates = known_points(curves.epochs, column)
        axes.plot(epochs, rates, color=colour, linewidth=1.8, marker=_marker(rates), label=label)
    _finish(axes, "no steps logged yet")


def _marker(values: Sized) -> str | None:
    """Returns the mark of a curve's points: one alone would not be seen as a line."""
    return "o" if len(values) == 1 else None


def _plot_ap(axes: Axes, curves: TrainingCurves, if_empty: str) -> None:
    columns = (curves.ap50, curves.ap, curves.mask_ap50, curves.mask_ap)
    names = ("AP50", "AP", "mask AP50", "mask AP")
    for name, column, colour in zip(names, columns, (_COLOURS[k] for k in (1, 0, 5, 4)), strict=True):
        epochs, values = known_points(curves.evaluated, column)
        if not epochs:
            continue
        marker = "o" if len(values) <= 30 else None
        best = int(np.argmax(values))
        label = f"{name}, best {values[best]:.3f}"
        axes.plot(epochs, values, color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=label)
        axes.plot(epochs[best], values[best], "o", color=colour, markersize=8, fillstyle="none")
    _finish(axes, if_empty, top=1.02)


def _finish(axes: Axes, if_empty: str, top: float | None = None) -> None:
    """Adds the legend, and starts the y axis at 0; a plot without curves says why there are none."""
    if axes.lines:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
        axes.set_ylim(0, top)
    else:
        axes.text(
            0.5, 0.5, if_empty, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=10
        )
        axes.set_xlim(0, 1)


def _mark_stages(axes: Axes, curves: TrainingCurves) -> None:
    """Draws a dashed line where each stage but the first begins, its name in a strip above the curves."""
    if curves.stages:
        axes.set_ylim(top=axes.get_ylim()[1] / (1 - _STRIP))
    for number, epoch in curves.stages:
        axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"stage {number}",
            (epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -1),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            color=MUTED,
            fontsize=8,
        )
