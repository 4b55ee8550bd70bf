"""Boxes on pictures and curves of a training."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from yoloflow.report.box_drawing import class_colour, draw_detections, draw_grid, text_colour
from yoloflow.report.curves_plot import plot_curves
from yoloflow.report.metrics import read_metrics

NAMES = ["cat", "dog"]


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


def test_a_box_is_drawn_along_its_edge_and_the_rest_of_the_picture_stays() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    boxes = np.array([[100, 80, 180, 150]], np.float32)
    drawn = draw_detections(image, boxes, np.array([1]), np.array([0.5], np.float32), NAMES)
    assert (image == 90).all(), "the input is not drawn on"
    assert drawn.shape == image.shape
    for x, y in ((100, 110), (179, 110), (140, 149)):
        assert tuple(drawn[y, x].tolist()) == class_colour(1)
    assert (drawn[84:146, 104:176] == 90).all(), "inside"
    assert (drawn[154:] == 90).all(), "below"


def test_the_label_stands_above_the_box_or_inside_where_there_is_no_room() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    for y1, rows in ((100, slice(80, 100)), (0, slice(1, 18))):
        box = np.array([[50, y1, 250, y1 + 90]], np.float32)
        drawn = draw_detections(image, box, np.array([0]), None, NAMES)
        assert (drawn[rows, 52:70] != 0).any()


def test_boxes_over_the_border_and_unknown_classes_and_tiny_pictures_are_drawn() -> None:
    boxes = np.array([[-50, -50, 500, 500], [-9, -9, -3, -3], [np.nan, 0, 5, 5]], np.float32)
    for height, width in ((1, 1), (7, 900), (64, 64)):
        image = np.zeros((height, width, 3), np.uint8)
        drawn = draw_detections(image, boxes, np.array([0, 7, 1]), np.ones(3, np.float32), NAMES)
        assert drawn.shape == image.shape


def test_the_best_detection_lies_on_top() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[20, 40, 80, 90]] * 2, np.float32)
    drawn = draw_detections(image, boxes, np.array([0, 1]), np.array([0.9, 0.3], np.float32), NAMES)
    assert tuple(drawn[70, 20].tolist()) == class_colour(0)


def test_the_text_grows_with_the_picture() -> None:
    def label_pixels(side: int) -> int:
        image = np.zeros((side, side, 3), np.uint8)
        box = np.array([[side * 0.3, side * 0.5, side * 0.6, side * 0.8]], np.float32)
        drawn = draw_detections(image, box, np.array([0]), None, NAMES)
        return int((drawn[: side // 2 - 5] > 0).any(2).sum())

    assert label_pixels(1600) > 4 * label_pixels(400)


def test_class_colours_differ_and_their_text_contrasts() -> None:
    colours = [class_colour(number) for number in range(24)]
    assert len(set(colours)) == 24
    for first, second in zip(colours, colours[1:], strict=False):
        assert np.abs(np.subtract(first, second)).max() > 60
    for colour in colours:
        luma = np.dot(colour, (0.114, 0.587, 0.299))
        assert abs(luma - np.dot(text_colour(colour), (0.114, 0.587, 0.299))) > 100


def test_a_grid_holds_every_picture_in_reading_order() -> None:
    pictures = [np.full((30, 40, 3), 50 * (k + 1), np.uint8) for k in range(5)]
    grid = draw_grid(pictures, 3)
    assert grid.shape == (2 * 34 + 4, 3 * 44 + 4, 3)
    for k in range(5):
        assert (grid[k // 3 * 34 + 20, k % 3 * 44 + 20] == 50 * (k + 1)).all()
    assert draw_grid(pictures[:2], 4).shape == (38, 92, 3)


def test_a_grid_fits_pictures_of_other_sizes_in_proportion() -> None:
    pictures = [np.full(shape, 200, np.uint8) for shape in ((40, 40, 3), (40, 40, 3), (400, 100, 3))]
    last = draw_grid(pictures, 3)[:, 92:]
    filled = (last == 200).all(2)
    assert filled.any(1).sum() == 40
    assert filled.any(0).sum() == 10


def test_a_metrics_file_is_read_by_kind(tmp_path: Path) -> None:
    metrics = read_metrics(write(tmp_path / "metrics.jsonl", records()))
    assert (len(metrics.steps), len(metrics.evaluations), len(metrics.stages)) == (6, 3, 2)
    assert metrics.loss_names == ["loss", "lbox", "lcls", "dfl"]
    assert metrics.epochs_at(metrics.steps) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert metrics.epochs_at(metrics.evaluations) == [1.0, 2.0, 3.0]


def test_a_killed_runs_last_line_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "metrics.jsonl", records(), tail='{"kind": "step", "epo')
    metrics = read_metrics(path)
    assert len(metrics.steps) == 6
    assert "metrics.jsonl:12: not a JSON object" in caplog.text
    plot_curves(path, tmp_path / "curves.png")


def test_the_curves_are_a_picture_and_nothing_else_is_left_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", records())
    plot_curves(path, tmp_path / "plots" / "curves.png")
    picture = cv2.imread(str(tmp_path / "plots" / "curves.png"))
    assert picture.shape == (480, 1560, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["curves.png"]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_curves_of_a_run_that_has_just_begun_are_drawn(tmp_path: Path, count: int) -> None:
    path = write(tmp_path / "metrics.jsonl", records()[:count])
    plot_curves(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    rows = records()
    rows[2] |= {"loss": float("nan"), "lbox": float("inf")}
    rows[3] |= {"map": None}
    plot_curves(write(tmp_path / "metrics.jsonl", rows), tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")) is not None
