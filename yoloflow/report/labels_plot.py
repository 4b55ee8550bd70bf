"""The labels of a data set as a plot, `plots/labels.png`: objects by class, centres and sizes of boxes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yoloflow.report.curves_plot import INK, MUTED, style_panel, three_panels, write_png
from yoloflow.report.plot_fonts import families_for
from yoloflow.structures import DatasetIndex

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("yoloflow")

_BAR = "#0072b2"
_MOST_CLASSES = 25
_LEAST_ROWS = 8
_LONGEST_NAME = 24
_CELLS = 40


def plot_labels(index: DatasetIndex, path: Path) -> None:
    """Draws how many objects each class has, and where boxes lie and how large they are in their images.

    Crowd regions are left out. A file that cannot be written is a warning.

    Args:
        index: the data set.
        path: PNG to write; its folder is there.
    """
    trained = ~index.is_crowd
    images = np.repeat(np.arange(len(index)), np.diff(index.box_offsets))
    sides_wh = index.sizes_hw[images][:, ::-1]
    corners = (index.boxes_xyxy / np.tile(sides_wh, 2))[trained]
    figure, (class_axes, centre_axes, size_axes) = three_panels(4.2, dpi=100)
    _plot_classes(class_axes, index.names, np.bincount(index.classes[trained], minlength=len(index.names)))
    _plot_density(centre_axes, (corners[:, :2] + corners[:, 2:]) / 2)
    centre_axes.invert_yaxis()  # as in the image
    _plot_density(size_axes, corners[:, 2:] - corners[:, :2])
    style_panel(class_axes, f"{int(trained.sum()):,} objects by class", "objects")
    style_panel(centre_axes, "Centres of the boxes", "x / width of the image", "y / height of the image")
    style_panel(size_axes, "Sizes of the boxes", "width / width of the image", "height / height of the image")
    try:
        write_png(figure, path)
    except OSError as error:
        logger.warning("%s: cannot be written (%s); the training goes on", path, error.strerror)


def _plot_classes(axes: Axes, names: list[str], counts: NDArray[np.int64]) -> None:
    order = np.argsort(-counts, kind="stable")[:_MOST_CLASSES]
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    families, missing = families_for(shown[number] for number in order)
    # Names are no formulas, whatever dollar signs they have; letters that no font has would be empty boxes.
    labels = [
        f"class {number}" if missing & {*shown[number]} else shown[number].replace("$", r"\$")
        for number in order
    ]
    places = np.arange(len(order))
    axes.barh(places, counts[order], color=_BAR, height=0.75)
    axes.set_yticks(places, labels, fontfamily=families)
    axes.set_ylim(max(len(order), _LEAST_ROWS) - 0.5, -0.5)
    for place, number in zip(places, order, strict=True):
        axes.annotate(
            f"{counts[number]:,}",
            (counts[number], place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.margins(x=0.15)
    if (left := len(names) - len(order)) > 0:
        axes.text(
            *(1, 0, f"and {left} more classes"),
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            color=MUTED,
            fontsize=9,
        )


def _plot_density(axes: Axes, points: NDArray[np.float64]) -> None:
    """Draws (M, 2) points in 0..1 as cells, darker where more of them lie, and a key of the colours."""
    from matplotlib.colors import LogNorm

    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=_CELLS, range=[[0, 1], [0, 1]])
    most = int(counts.max(initial=0))
    shades = axes.imshow(
        np.ma.masked_equal(counts.T, 0),
        origin="lower",
        extent=(0, 1, 0, 1),
        cmap="viridis_r",
        aspect="auto",
        norm=LogNorm(1, max(most, 2)),
    )
    figure = axes.get_figure()
    if figure is None or not most:
        return
    ticks = np.unique(np.geomspace(1, max(most, 2), 4).round().astype(int))
    key = figure.colorbar(shades, ax=axes, ticks=ticks, format="%d", fraction=0.05, pad=0.02)
    key.set_label("boxes in a cell", color=MUTED, fontsize=9)
    key.minorticks_off()
    key.ax.tick_params(colors=MUTED, labelsize=9)
