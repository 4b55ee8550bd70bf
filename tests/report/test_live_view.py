"""The live view: how far a run is, from its files, and how that looks in a terminal."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.support.growing_run import write_growing_run
from tests.support.toy_training import EPOCHS, STEPS_PER_EPOCH, toy_step, toy_trainer
from yoloflow.callbacks import MetricsFileCallback
from yoloflow.report.curves_plot import plot_curves
from yoloflow.report.live.progress import ProgressReader
from yoloflow.report.live.text_plot import Curve, plot
from yoloflow.report.live.view import RunView
from yoloflow.structures import YoloflowError

SIZES = [(80, 24), (160, 50), (100, None), (30, 8), (300, 90), (61, 15)]


def end_of(folder: Path) -> float:
    return (folder / "metrics.jsonl").stat().st_mtime


def rendered(view: RunView, width: int, height: int | None = None, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=file, width=width, height=height, force_terminal=False).print(view)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def test_progress_and_time_left_follow_from_the_records(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 4.5)
    progress = ProgressReader(run).read(end_of(run))
    assert (progress.state, progress.epochs, progress.epochs_done) == ("running", 10, 4.5)
    # 45 steps took 2 s each, and four evaluations 6 s each.
    assert progress.seconds_left == pytest.approx(55 * (45 * 2 + 4 * 6) / 45)
    assert progress.seconds_left is not None
    later = ProgressReader(run).read(end_of(run) + 20)
    assert later.seconds_left == pytest.approx(progress.seconds_left - 20)
    best = progress.metrics.best_evaluation
    assert best is not None
    assert (best["epoch"], best["map"]) == (3, 0.5)


def test_the_first_line_says_how_long_an_epoch_is(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 0.2)
    assert ProgressReader(run).read(end_of(run)).epochs_done == 0.2


@pytest.mark.training
def test_the_callbacks_own_file_says_how_long_an_epoch_is_from_the_first_line_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"epochs: {EPOCHS}\n")
    toy_trainer(tmp_path / "run", toy_step(), None, MetricsFileCallback(), log_interval=2).train()
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]))  # the stage and the first logged step
    progress = ProgressReader(tmp_path / "run").read()
    assert progress.metrics.stages[0]["steps_per_epoch"] == STEPS_PER_EPOCH
    assert progress.epochs_done == pytest.approx(2 / STEPS_PER_EPOCH)
    path.write_text("".join(lines))
    (tmp_path / "run" / "summary.json").unlink()
    assert ProgressReader(tmp_path / "run").read().epochs_done == EPOCHS


def test_the_time_between_a_kill_and_a_resume_counts_for_nothing(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 4.5)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["time"] += 86_400 * (row["step"] > 33)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    now = rows[-1]["time"]
    os.utime(run / "metrics.jsonl", (now, now))
    assert ProgressReader(run).read(now).seconds_left == pytest.approx(55 * (44 * 2 + 4 * 6) / 44)
    # A silence is told by the usual intervals, not by that of a day.
    assert ProgressReader(run).read(now + 300).state == "silent"


def test_a_run_that_writes_nothing_for_long_is_called_silent_and_a_finished_one_finished(
    tmp_path: Path,
) -> None:
    run = write_growing_run(tmp_path / "run", 2.5)
    files = ProgressReader(run)
    assert files.read(end_of(run) + 100).state == "running"
    silent = files.read(end_of(run) + 600)
    assert (silent.state, silent.seconds_left) == ("silent", None)
    assert "nothing written for 10 min" in "".join(rendered(RunView(silent), 100)[:2])
    (run / "summary.json").write_text('{"wall_seconds": 4000}')
    assert files.read(end_of(run) + 600).state == "finished"
    assert "finished in 67 min" in "".join(rendered(RunView(files.read()), 100)[:2])


def test_a_run_that_has_not_begun_to_step_is_waited_for_however_long(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 0)
    progress = ProgressReader(run).read(end_of(run) + 900)
    assert (progress.state, progress.seconds_left) == ("waiting", None)
    assert "no step logged yet, last written 15 min ago" in "".join(rendered(RunView(progress), 100)[:2])


def test_a_file_that_grows_or_is_cut_off_by_a_resume_is_read_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_growing_run(tmp_path / "run", 1.0)
    files = ProgressReader(run)
    path = run / "metrics.jsonl"
    whole = path.read_text()
    assert len(files.read().metrics.steps) == 10
    with path.open("a") as file:
        file.write('{"kind": "step", "epo')
    assert len(files.read().metrics.steps) == 10
    path.write_text("".join(whole.splitlines(keepends=True)[:6]))
    assert len(files.read().metrics.steps) == 5
    path.unlink()
    assert files.read(path.parent.joinpath("config.yaml").stat().st_mtime).state == "waiting"
    assert caplog.text == ""


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("num_classes", [0, 3, 80])
@pytest.mark.parametrize("epochs_done", [0, 0.1, 7.3])
def test_the_view_fits_every_terminal(
    width: int, height: int | None, num_classes: int, epochs_done: float, tmp_path: Path
) -> None:
    run = write_growing_run(tmp_path / ("long name " * 9), epochs_done, num_classes=num_classes)
    progress = ProgressReader(run).read(end_of(run))
    lines = rendered(RunView(progress, height), width)
    assert max(map(len, lines)) <= width
    if height is not None:
        assert len(lines) <= height
    if epochs_done == 7.3:
        assert any("best AP 0.500" in line for line in lines) or width < 60
        assert any("loss, smoothed" in line for line in lines) or height == 8


def test_where_there_is_no_screen_nothing_is_cut_off(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / ("long-name-" * 12), 2.0)
    names = ("lbox", "lobj", "lcls", "dfl", "lbox_auxiliary", "lcls_auxiliary", "dfl_auxiliary")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[-2] |= dict.fromkeys(names, 0.12345)
    rows.append({"kind": "loading", "epoch": 2, "waited_share": 0.37, "seconds": {}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = rendered(RunView(ProgressReader(run).read(end_of(run))), 100)
    assert "37% of the time waiting for data" in lines, "on a line of its own"
    text = "".join(lines)
    assert str(run) in text
    assert "running" in text
    for name in names:
        assert f"{name} 0.123" in " ".join(" ".join(lines).split())
    assert "31.5 images/s" in " ".join(lines)
    # A screen has room for one line only.
    assert len(rendered(RunView(ProgressReader(run).read(end_of(run)), 24), 100)) <= 24


def test_a_validation_set_without_objects_is_said_instead_of_an_ap_of_minus_one(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 2.0)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "evaluation":
            row |= {"map": -1.0, "map50": -1.0, "per_class": []}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    progress = ProgressReader(run).read(end_of(run))
    assert progress.metrics.best_evaluation is None
    text = "\n".join(rendered(RunView(progress), 100))
    assert "AP n/a: no objects in the validation set  (epoch 2)" in text
    assert "-1.0" not in text
    plot_curves(run / "metrics.jsonl", tmp_path / "curves.png")


def test_parts_of_epochs_have_one_digit_and_the_end_is_not_shown_before_it_is_there(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 7.3)
    progress = ProgressReader(run).read(end_of(run))
    lines = rendered(RunView(replace(progress, epochs_done=9.9876)), 80)
    assert any("epoch 9.9/10 " in line for line in lines)
    axis = plot([Curve("loss", [10 / 9, 5.556, 9.9876], [1, 2, 3], "red")], 40, 6)[-1].plain.split()
    assert axis == ["1.1", "10"]


def test_all_that_there_is_room_for_is_shown(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 7.3, num_classes=80)
    text = "\n".join(rendered(RunView(ProgressReader(run).read(end_of(run)), 24), 80))
    assert "epoch 7.3/10" in text
    assert "73%" in text
    assert "lr 0.020/0.010" in text or "lr 0.02/0.01" in text
    assert "31.5 images/s" in text
    assert "/80 " in text
    assert "class number" in text
    assert "learning rate" not in text
    wide = "\n".join(rendered(RunView(ProgressReader(run).read(end_of(run)), 50), 160))
    assert "highest learning rate" in wide


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 7.3, num_classes=80)
    for width in (40, 100):
        text = "\n".join(rendered(RunView(ProgressReader(run).read(end_of(run))), width, encoding="ascii"))
        assert "*" in text
        assert "epoch 7.3/10" in text


def dots(lines: list[str], label_width: int = 9) -> set[tuple[int, int]]:
    """Column and height of every dot of a plot, by Unicode's table of braille patterns."""
    bits = {0x01: (0, 0), 0x02: (0, 1), 0x04: (0, 2), 0x40: (0, 3)}
    bits |= {0x08: (1, 0), 0x10: (1, 1), 0x20: (1, 2), 0x80: (1, 3)}
    found = set()
    rows = lines[1:-1]
    for row, line in enumerate(rows):
        for column, letter in enumerate(line[label_width:]):
            code = ord(letter) - 0x2800 if letter != " " else 0
            for bit, (x, y) in bits.items():
                if code & bit:
                    found.add((2 * column + x, 4 * (len(rows) - row) - 1 - y))
    return found


def test_the_dots_of_a_plot_lie_on_its_curve() -> None:
    width, height = 49, 12
    x = np.linspace(0, 5, 400)
    for y in (x, 25 - x**2, np.sin(3 * x)):
        lines = [line.plain for line in plot([Curve("name", x, y, "")], width, height)]
        assert [len(line) for line in lines] == [width] * height
        top, right = 4 * (height - 2) - 1, 2 * (width - 9) - 1
        expected = {
            (column, round((np.interp(column / right * 5, x, y) - y.min()) / np.ptp(y) * top))
            for column in range(right + 1)
        }
        drawn = dots(lines)
        assert expected <= drawn
        # Others only join neighbours.
        for column, level in drawn - expected:
            near = [other for place, other in expected if place in (column - 1, column)]
            assert min(near) <= level <= max(near)


def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path) -> None:
    write_growing_run(tmp_path / "runs" / "pets", 1.0)
    with pytest.raises(YoloflowError, match="nowhere: there is no such run folder"):
        ProgressReader(tmp_path / "nowhere")
    with pytest.raises(
        YoloflowError, match=r"holds no run \(a run has a config.yaml\); did you mean .*pets\?"
    ):
        ProgressReader(tmp_path / "runs")
    with pytest.raises(YoloflowError, match="is a file"):
        ProgressReader(tmp_path / "runs" / "pets" / "metrics.jsonl")
    (tmp_path / "runs" / "pets" / "config.yaml").write_bytes(b"\xff: [")
    with pytest.raises(YoloflowError, match=r"config\.yaml: is not YAML"):
        ProgressReader(tmp_path / "runs" / "pets").read()
