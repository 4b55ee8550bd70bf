"""Damaged files of a run: the message names the file and what to do, and nothing ends in a traceback."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.report_data import write_run
from yoloflow.cli import app
from yoloflow.report.curves_plot import plot_curves
from yoloflow.report.live.progress import ProgressReader
from yoloflow.report.metrics import read_metrics
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_content import read_run
from yoloflow.run.folder import names_of_run
from yoloflow.structures import YoloflowError

TOO_DEEP = "[" * 200_000
TOO_LONG = "1" * 5_000
NOT_JSON = ['{"schema": 1,', TOO_DEEP, TOO_LONG]


@pytest.mark.parametrize("name", ["diagnostics.json", "names.json", "data_problems.json", "summary.json"])
@pytest.mark.parametrize("text", NOT_JSON, ids=["cut off", "too deep", "too long a number"])
def test_a_file_that_is_no_json_is_named(name: str, text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(
        YoloflowError, match=rf"{name}(:1:\d+)?: no valid JSON .*; restore the file, or remove it"
    ):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("diagnostics.json", "{}", "has no schema where 1 is expected; remove it, and `yoloflow report`"),
        ("diagnostics.json", "[]", "has no schema where 1 is expected"),
        ("diagnostics.json", "null", "has no schema where 1 is expected"),
        ("diagnostics.json", '{"schema": 2}', "has schema 2 where 1 is expected"),
        ("diagnostics.json", '{"schema": 1}', "the content has no 'num_images'; remove it"),
        ("names.json", '{"0": "cat"}', "the content should be a list; restore the file"),
        ("names.json", '["cat", 3]', r"the content\[1\] should be a text"),
        ("summary.json", "[1]", "the content should be an object"),
        ("summary.json", '{"best": 3}', "best should be an object"),
        ("data_problems.json", "[1]", "the content should be an object"),
        ("data_problems.json", '{"val_set": 3}', "val_set should be an object"),
        ("data_problems.json", '{"val_set": {"images": {"used": 3}}}', "val_set has no 'boxes'"),
    ],
)
def test_a_file_of_another_form_is_named_with_the_place(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(text)
    with pytest.raises(YoloflowError, match=f"{name}: {said}"):
        read_run(run)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["classes", 0, "name"], 5, r"classes\[0\]\.name should be a text"),
        (["classes", 1, "num_objects"], None, r"classes\[1\]\.num_objects should be a whole number"),
        (["images"], {}, "images should be a list"),
        (["stats"], [], "stats has 0 figures, not 12"),
        (["confusion"], {"labels": []}, "confusion has no 'matrix'"),
        (["weights_sha256"], 5, "weights_sha256 should be a text"),
    ],
)
def test_wrong_places_within_diagnostics_are_named(
    path: list[str | int], value: object, said: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run")
    content = json.loads((run / "diagnostics.json").read_text())
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    (run / "diagnostics.json").write_text(json.dumps(content))
    with pytest.raises(YoloflowError, match=rf"diagnostics\.json: {said}; remove it"):
        read_run(run)


def test_diagnostics_without_the_parts_that_may_be_missing_give_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    content = json.loads((run / "diagnostics.json").read_text())
    for key in ("intervals", "speed"):
        content[key] = None
    for key in ("pr_curves", "confusion", "errors", "calibration", "label_errors"):
        del content[key]
    (run / "diagnostics.json").write_text(json.dumps(content))
    assert "<!doctype html>" in render_page([read_run(run)])


def test_the_class_names_and_summary_of_a_run_are_read_with_the_same_care(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert names_of_run(run) == ["cat", "dog"]
    assert names_of_run(run / "config.yaml") is None
    (run / "names.json").write_text("[")
    with pytest.raises(YoloflowError, match=r"names\.json:1:2: no valid JSON"):
        names_of_run(run)
    (run / "summary.json").write_text("[]")
    with pytest.raises(YoloflowError, match=r"summary\.json: the content should be an object"):
        ProgressReader(run).read()


def test_records_without_step_or_epoch_are_left_out_with_a_warning_by_all_who_read_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run")
    path = run / "metrics.jsonl"
    whole = path.read_text()
    bad = [
        '{"kind": "step", "loss": 1.0}',
        '{"kind": "step", "epoch": 1, "step": "x"}',
        '{"kind": "evaluation", "step": 3, "map": 0.2, "map50": 0.3}',
        '{"kind": "stage", "epoch": 1, "step": 0}',
        '{"kind": "step", "epoch": 1, "step": 4, "lr": 0.1}',
        '{"kind": ["step"]}',
        TOO_DEEP,
    ]
    sound = read_metrics(path)
    path.write_text(whole + "".join(f"{line}\n" for line in bad))
    assert read_metrics(path) == sound
    assert [record.getMessage().split(": ", 2)[2] for record in caplog.records[:4]] == [
        "the content has no 'epoch'",
        "step should be a whole number",
        "the content has no 'epoch'",
        "the content has no 'stage'",
    ]
    assert len(caplog.records) == 6, "a record of a kind that nobody reads is no fault"
    render_page([read_run(run)])
    plot_curves(path, tmp_path / "curves.png")
    assert ProgressReader(run).read().metrics == sound


def test_a_file_with_nothing_but_broken_records_is_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", finished=False, evaluated=False)
    (run / "metrics.jsonl").write_text('{"kind": "step"}\n{"kind": "step", "epoch": 0, "step": 0}\n')
    assert ProgressReader(run).read().metrics.steps_per_epoch is None
    render_page([read_run(run)])
    done = CliRunner().invoke(app, ["watch", str(run)])
    assert done.exit_code == 0, done.output
