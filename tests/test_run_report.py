"""The report at the end of a training, and the command `yoloflow report`."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.support.report_data import write_run
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.run_diagnostics import diagnose_result, stale_reason
from yoloflow.files import sha256_of
from yoloflow.flow import train
from yoloflow.run_report import write_report
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights, save_weights

SCENES = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    cache = tmp_path_factory.mktemp("scenes")
    return digits_dataset("train", SCENES, cache), digits_dataset("val", SCENES, cache)


def run(scenes: tuple[Path, Path], folder: Path, *more: str) -> dict[str, Any]:
    settings = [
        f"data.train_set={scenes[0]}",
        f"data.val_set={scenes[1]}",
        f"save_dir={folder}",
        "img_size=64",
        "per_batch_size=8",
        "network.width_multiple=0.125",
        "data.num_parallel_workers=0",
        "log_interval=1",
    ]
    return train(load_config("quickstart", [*settings, *more]))


@pytest.fixture(scope="module")
def finished(scenes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(scenes, folder, "epochs=2", "name=first")
    return folder / "first"


def page_data(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    data: dict[str, Any] = json.loads(text)
    return data


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON, as a file gives it back, without what depends on the clock or names the weights."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return {key: value for key, value in plain.items() if key not in ("speed", "weights_sha256")}


@pytest.mark.training
def test_a_training_ends_with_diagnostics_of_its_best_weights_and_a_page(finished: Path) -> None:
    found = json.loads((finished / "diagnostics.json").read_text())
    summary = json.loads((finished / "summary.json").read_text())
    assert found["stats"][0] == summary["best"]["map"]
    assert found["what"] == "best_ema.safetensors"
    result = evaluate_run(str(finished))
    assert without_times(found) == without_times(
        diagnose_result(result, result.index, "best_ema.safetensors").to_json()
    )
    (told,) = page_data(finished / "report.html")["runs"]
    assert told["finished"]
    assert told["environment"]["Processes"] == 1
    assert len(told["gallery"]["images"]) == 6
    assert all(image["thumbnail"] is not None for image in told["gallery"]["images"])


@pytest.mark.training
def test_where_the_last_epoch_is_not_the_best_the_best_weights_are_evaluated_again(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    # So little training finds nothing twice, and of equal epochs the first is the best.
    summary = run(scenes, tmp_path, "epochs=2", "name=early", "run_eval_interval=1")
    assert summary["best"]["epoch"] == 1
    found = json.loads((tmp_path / "early" / "diagnostics.json").read_text())
    result = evaluate_run(str(tmp_path / "early"))
    assert without_times(found) == without_times(
        diagnose_result(result, result.index, "best_ema.safetensors").to_json()
    )


@pytest.mark.training
def test_without_evaluation_the_page_says_so_and_with_report_false_there_is_none(
    scenes: tuple[Path, Path], tmp_path: Path
) -> None:
    run(scenes, tmp_path, "epochs=1", "name=blind", "run_eval=false")
    (told,) = page_data(tmp_path / "blind" / "report.html")["runs"]
    assert told["diagnostics"] is None
    assert not (tmp_path / "blind" / "diagnostics.json").exists()
    run(scenes, tmp_path, "epochs=1", "name=plain", "report=false")
    assert not (tmp_path / "plain" / "report.html").exists()


@pytest.mark.training
def test_a_page_that_cannot_be_written_does_not_lose_the_training(
    scenes: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    summary = run(scenes, tmp_path, "epochs=1", "name=run")
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    (warning,) = [record.getMessage() for record in caplog.records if "not written" in record.getMessage()]
    assert warning.startswith(f"{tmp_path / 'run' / 'report.html'}: the report is not written (IsADirectory")
    assert f"`yoloflow report {tmp_path / 'run'}` tries again" in warning


@pytest.mark.training
def test_the_command_evaluates_runs_that_have_no_diagnostics_and_keeps_them(
    finished: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    for name in ("diagnostics.json", "report.html", "summary.json"):
        (again / name).unlink()
    out = tmp_path / "pages" / "both.html"
    done = CliRunner().invoke(app, ["report", str(finished), str(again), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert str(out) in done.output
    data = page_data(out)
    assert [told["finished"] for told in data["runs"]] == [True, False]
    assert data["settings"] == []
    first, second = (json.loads((folder / "diagnostics.json").read_text()) for folder in (finished, again))
    assert without_times(first) == without_times(second)


@pytest.mark.training
def test_the_command_can_leave_the_evaluation_out(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    (again / "diagnostics.json").unlink()
    done = CliRunner().invoke(app, ["report", str(again), "--no-evaluate"])
    assert done.exit_code == 0, done.output
    (told,) = page_data(again / "report.html")["runs"]
    assert told["diagnostics"] is None
    assert not (again / "diagnostics.json").exists()


@pytest.mark.training
def test_a_run_whose_data_are_gone_gives_a_page_that_says_so(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    (again / "diagnostics.json").unlink()
    config = (again / "config.yaml").read_text()
    lines = [
        f"  val_set: {tmp_path}/gone.json" if "val_set:" in line else line for line in config.splitlines()
    ]
    (again / "config.yaml").write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING):
        (told,) = page_data(write_report([again]))["runs"]
    assert "gone.json" in told["not_evaluated"]
    assert told["best"]["map"] is not None
    assert f"{again} is not evaluated" in caplog.text


def other_weights(run: Path) -> None:
    """The run's best weights as another training would leave them."""
    path = run / "weights" / "best_ema.safetensors"
    state = load_weights(path)
    save_weights(path, {name: tensor * 1.5 for name, tensor in state.items()})


@pytest.mark.training
def test_diagnostics_of_other_weights_are_made_anew(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    before = (again / "diagnostics.json").read_bytes()
    write_report([again])
    assert (again / "diagnostics.json").read_bytes() == before, "they are of these weights"
    other_weights(again)
    with caplog.at_level(logging.INFO):
        (told,) = page_data(write_report([again]))["runs"]
    assert "diagnostics.json is of other weights than best_ema.safetensors has now; evaluated" in caplog.text
    found = json.loads((again / "diagnostics.json").read_text())
    result = evaluate_run(str(again))
    expected = without_times(diagnose_result(result, result.index, "best_ema.safetensors").to_json())
    assert without_times(found) == expected
    assert found["weights_sha256"] == sha256_of(again / "weights" / "best_ema.safetensors")
    assert told["stale_reason"] is None
    assert stale_reason(found, again) is None


@pytest.mark.parametrize("has_data", [True, False])
@pytest.mark.training
def test_diagnostics_of_other_weights_are_called_so_where_nothing_is_evaluated(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, has_data: bool
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    other_weights(again)
    content = json.loads((again / "diagnostics.json").read_text())
    content["stats"][0] = 0.999
    (again / "diagnostics.json").write_text(json.dumps(content))
    if not has_data:
        config = (again / "config.yaml").read_text()
        (again / "config.yaml").write_text(config.replace("val_set: ", "val_set: /gone"))
    (told,) = page_data(write_report([again], evaluate=not has_data))["runs"]
    said = "diagnostics.json is of other weights than best_ema.safetensors has now"
    assert told["stale_reason"] == said
    assert said in caplog.text
    assert ("is not evaluated" in caplog.text) != has_data
    summary = json.loads((again / "summary.json").read_text())
    assert told["best"]["map"] == pytest.approx(summary["best"]["map"], abs=1e-4), "that of the best epoch"
    assert told["best"]["intervals"] is None
    assert told["diagnostics"]["stats"][0] == 0.999


@pytest.mark.training
def test_diagnostics_that_do_not_say_of_which_weights_they_are_or_cannot_be_compared_are_in_doubt(
    finished: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    content = json.loads((again / "diagnostics.json").read_text())
    assert stale_reason(content, again) is None
    unknown = {key: value for key, value in content.items() if key != "weights_sha256"}
    assert stale_reason(unknown, again) == "diagnostics.json does not say of which weights it is"
    (again / "weights" / "best_ema.safetensors").unlink()
    said = "diagnostics.json is of best_ema.safetensors, and the weights to use are now best.safetensors"
    assert stale_reason(content, again) == said
    shutil.rmtree(again / "weights")
    said = "diagnostics.json is of best_ema.safetensors, and the run has no weights to compare with"
    assert stale_reason(content, again) == said
    (told,) = page_data(write_report([again]))["runs"]
    assert told["stale_reason"] == said
    assert "this run has no weights yet" in told["not_evaluated"]


@pytest.mark.training
def test_a_validation_set_without_objects_has_no_ap_and_that_is_said(
    scenes: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads(scenes[1].read_text()) | {"annotations": []}
    empty = scenes[1].with_name("empty.json")
    empty.write_text(json.dumps(content))
    with caplog.at_level(logging.INFO):
        run((scenes[0], empty), tmp_path, "epochs=1", "name=run")
    folder = tmp_path / "run"
    assert "epoch 1/1: AP n/a: no objects in the validation set  (" in caplog.text
    (told,) = page_data(write_report([folder]))["runs"]
    assert told["best"] == {
        "map": None,
        "map50": None,
        "epoch": None,
        "intervals": None,
        "why": "no objects in the validation set",
    }
    assert told["curves"]["evaluations"]["map"] == [None]
    assert told["diagnostics"]["stats"][0] == -1
    done = CliRunner().invoke(app, ["watch", str(folder)])
    assert "AP n/a: no objects in the validation set" in done.output
    assert "-1.0" not in done.output + caplog.text


def test_the_command_writes_a_page_of_several_runs_and_says_which_were_not_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, evaluated=False)]
    out = tmp_path / "new" / "both.html"
    done = CliRunner().invoke(app, ["report", *map(str, runs), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert str(out) in done.output
    first, second = page_data(out)["runs"]
    said = "diagnostics.json does not say of which weights it is"
    assert (first["stale_reason"], second["stale_reason"]) == (said, None)
    assert "this run has no weights yet" in first["not_evaluated"]
    assert "this run has no weights yet" in second["not_evaluated"]
    assert f"{runs[0]} is not evaluated" in caplog.text


def test_the_page_of_several_runs_leaves_the_page_of_the_first_alone(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1)
    own = write_report([first], evaluate=False)
    before = own.read_bytes()
    done = CliRunner().invoke(app, ["report", str(first), str(second), "--no-evaluate"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{first / 'compare.html'}\n"
    assert [run["name"] for run in page_data(first / "compare.html")["runs"]] == ["a", "b"]
    assert own.read_bytes() == before


def test_diagnostics_of_the_runs_own_weights_are_taken_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run")
    weights = run / "weights" / "best_ema.safetensors"
    weights.parent.mkdir()
    save_weights(weights, {"a": torch.zeros(2)})
    path = run / "diagnostics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": sha256_of(weights)}))
    (told,) = page_data(write_report([run]))["runs"]
    assert (told["stale_reason"], told["not_evaluated"]) == (None, None)
    save_weights(weights, {"a": torch.ones(2)})
    done = CliRunner().invoke(app, ["report", str(run), "--no-evaluate"])
    assert done.exit_code == 0, done.output
    (told,) = page_data(run / "report.html")["runs"]
    said = "diagnostics.json is of other weights than best_ema.safetensors has now"
    assert told["stale_reason"] == said
    assert f"{said}; without --no-evaluate it is evaluated again" in caplog.text


def test_runs_that_are_none_and_places_that_are_taken_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(YoloflowError, match="give at least one run folder"):
        write_report([])
    with pytest.raises(YoloflowError, match="nowhere: there is no such run folder"):
        write_report([run, tmp_path / "nowhere"])
    (tmp_path / "taken").mkdir()
    with pytest.raises(YoloflowError, match=r"taken: no run folder \(config\.yaml is missing\)"):
        write_report([run, tmp_path / "taken"])
    with pytest.raises(YoloflowError, match="taken: cannot be written"):
        write_report([run], tmp_path / "taken", evaluate=False)
