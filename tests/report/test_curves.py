"""Curves of a training: its metrics file read by kind, and the plot of it."""

import json
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401  here, so that no test's time holds it
import numpy as np
import pytest

from tests.support.tiny_run import read_image
from yoloflow.report.curves_plot import draw_curves, plot_curves
from yoloflow.report.metrics import curves_of, read_metrics


def records() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"kind": "stage", "epoch": 1, "stage": 0, "step": 0}]
    for epoch in (1, 2, 3):
        if epoch == 3:
            rows.append({"kind": "stage", "epoch": 3, "stage": 1, "step": 8})
        for step in (2, 4):
            done = (epoch - 1) * 4 + step
            items = {"loss": 9.0 / done, "lbox": 3.0 / done, "lcls": 4.0 / done, "dfl": 2.0 / done}
            rows.append(
                {"kind": "step", "epoch": epoch, "step": done, "update": done, **items}
                | {"lr": [0.01, 0.01, 0.1 / done], "momentum": 0.9, "images_per_second": 10.0}
            )
        rows.append(
            {"kind": "evaluation", "epoch": epoch, "step": epoch * 4, "map": 0.1 * epoch}
            | {"map50": 0.2 * epoch, "stats": [0.0] * 12, "per_class": {}}
        )
    return rows


def write(path: Path, rows: list[dict[str, object]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_a_metrics_file_is_read_by_kind(tmp_path: Path) -> None:
    metrics = read_metrics(write(tmp_path / "metrics.jsonl", records()))
    assert (len(metrics.steps), len(metrics.evaluations), len(metrics.stages)) == (6, 3, 2)
    assert metrics.loss_names == ["loss", "lbox", "lcls", "dfl"]
    curves = curves_of(metrics)
    assert curves.epochs == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert curves.evaluated == [1.0, 2.0, 3.0]
    assert curves.stages == [(2, 2.0)]
    assert list(curves.rates) == ["groups 0, 1", "group 2"], "equal ones are one curve"


def test_a_killed_runs_last_line_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "metrics.jsonl", records(), tail='{"kind": "step", "epo')
    metrics = read_metrics(path)
    assert len(metrics.steps) == 6
    assert "metrics.jsonl:12: not a JSON object" in caplog.text
    plot_curves(path, tmp_path / "curves.png")


def test_the_curves_are_an_image_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", records())
    plot_curves(path, tmp_path / "plots" / "curves.png")
    image = read_image(tmp_path / "plots" / "curves.png")
    assert image.shape == (480, 1560, 3)
    assert len(np.unique(image.astype(np.int64) @ [65536, 256, 1])) > 50
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["curves.png"]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_curves_of_a_run_that_has_just_begun_are_drawn(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "metrics.jsonl", records()[:count])
    plot_curves(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_no_name_of_a_stage_or_figure_of_an_ap_lies_on_a_curve(tmp_path: Path) -> None:
    rows = records()
    for row in rows[-3:]:
        row |= {"map": 1.0, "map50": 1.0} if row["kind"] == "evaluation" else {"loss": 9.0}
    figure = draw_curves(read_metrics(write(tmp_path / "metrics.jsonl", rows)))
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["stage 2"]
        highest = max(
            float(np.max(line.get_ydata()))
            for line in axes.lines
            if not str(line.get_label()).startswith("_")
        )
        assert highest <= axes.get_ylim()[1] * 0.86 * 1.001
    legend = figure.axes[2].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["AP50, best 1.000", "AP, best 1.000"]


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    rows = records()
    rows[2] |= {"loss": float("nan"), "lbox": float("inf")}
    rows[3] |= {"map": None}
    plot_curves(write(tmp_path / "metrics.jsonl", rows), tmp_path / "curves.png")
    assert read_image(tmp_path / "curves.png").size
