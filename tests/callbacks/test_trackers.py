"""Figures that Weights & Biases and MLflow are given, read back from their own local stores."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from yoloflow.callbacks import MlflowCallback, WandbCallback
from yoloflow.callbacks.settings import CallbackSettings, callback_rows
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.flow import train
from yoloflow.structures import YoloflowError

SCENES = SceneRecipe(num_train=8, num_val=4, side=32, digits_per_scene=(1, 2), digit_side=(12.0, 16.0))


def settings(folder: Path, *overrides: str) -> list[str]:
    return [
        *(f"data.{part}_set={digits_dataset(part, SCENES, folder / 'cache')}" for part in ("train", "val")),
        *("img_size=32", "per_batch_size=4", "network.width_multiple=0.125", "device=cpu", "threads=1"),
        *("data.num_parallel_workers=0", "log_interval=1", "report=false", "name=run"),
        f"save_dir={folder / 'runs'}",
        *overrides,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch that goes on to a second one, with both loggers."""
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        both = ("wandb=true", "mlflow=true")
        train(load_config("quickstart", settings(folder, "epochs=1", *both)))
        train(load_config("quickstart", settings(folder, "epochs=2", "resume=auto", *both)))
    return folder


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def records_of_log(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, as offline files are: blocks of 32 KiB, heads of 7 bytes."""
    whole, place, block = 1, 7, 1 << 15
    record = b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        part = content[place + 7 : place + 7 + length]
        place += 7 + length
        record = part if kind <= 2 else record + part
        if kind in (whole, 4):
            yield record


def of_wandb(file: Path) -> tuple[str, list[dict[str, Any]]]:
    """Name of the run, and the rows of its history, of an offline file."""
    from wandb.proto.wandb_internal_pb2 import Record

    name, rows = "", []
    for content in records_of_log(file.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        name = record.run.run_id or name
        if items := record.history.item:
            keys = ["/".join(item.nested_key) or item.key for item in items]
            rows.append({key: json.loads(item.value_json) for key, item in zip(keys, items, strict=True)})
    return name, rows


@pytest.mark.training
def test_wandb_has_the_figures_of_the_metrics_file_and_a_run_that_goes_on_is_one(folder: Path) -> None:
    files = sorted((folder / "runs" / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    (first, first_rows), (second, second_rows) = (of_wandb(file) for file in files)
    assert first == second
    rows = first_rows + second_rows
    losses = {row["_step"]: row["loss/lbox"] for row in rows if "loss/lbox" in row}
    assert losses == {row["step"]: pytest.approx(row["lbox"]) for row in records(folder, "step")}
    found = {row["_step"]: row["val/map50"] for row in rows if "val/map50" in row}
    assert found == {
        row["step"]: pytest.approx(row["map50"], abs=1e-6) for row in records(folder, "evaluation")
    }
    attached = files[1].parent / "files"
    for name in ("curves", "detections"):
        assert (attached / second_rows[-1][f"plots/{name}/path"]).is_file()
    own = folder / "runs" / "run"
    for name in ("config.yaml", "summary.json"):
        assert (attached / "run" / name).read_bytes() == (own / name).read_bytes()


@pytest.mark.training
def test_mlflow_has_the_figures_of_the_metrics_file_and_a_run_that_goes_on_is_one(folder: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("yoloflow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    losses = client.get_metric_history(run.info.run_id, "loss/lbox")
    assert {entry.step: entry.value for entry in losses} == {
        row["step"]: pytest.approx(row["lbox"]) for row in records(folder, "step")
    }
    found = client.get_metric_history(run.info.run_id, "val/map50")
    assert [(entry.step, entry.value) for entry in found] == [
        (row["step"], pytest.approx(row["map50"], abs=1e-6)) for row in records(folder, "evaluation")
    ]
    assert run.data.params["per_batch_size"] == "4"
    assert run.data.params["optimizer.optimizer"] == "momentum"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {
        "config.yaml",
        "summary.json",
        "plots",
    }


@pytest.mark.training
def test_mlflow_that_stops_answering_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    callback = MlflowCallback(tracking_uri=f"file://{tmp_path / 'mlruns'}")
    callback._id = callback._open(tmp_path / "pets", None, {"names": ["cat & dog"], "a": {"b c": 1}})
    callback._log({"val_class_ap/cat & dog": 0.5}, 1)
    client = mlflow.MlflowClient(f"file://{tmp_path / 'mlruns'}")
    run = client.get_run(callback._id)
    assert run.data.params == {"names": "['cat & dog']", "a.b c": "1"}
    assert run.data.metrics == {"val_class_ap/cat _ dog": 0.5}
    client.delete_run(callback._id)  # as a server that has lost it
    for step in (2, 3):
        callback._log({"loss/loss": 1.0}, step)
    callback._close(succeeded=True)
    assert [
        record.getMessage().split(";")[0] for record in caplog.records if "MLflow" in record.getMessage()
    ] == ["MLflow gets no more figures of this run"]


def test_switches_add_the_loggers_behind_the_report_unless_a_row_names_them() -> None:
    rows = callback_rows(CallbackSettings(wandb=True, mlflow=True), 1)
    assert [row["name"] for row in rows[-3:]] == ["ReportCallback", "WandbCallback", "MlflowCallback"]
    own = CallbackSettings.model_validate(
        {"wandb": True, "callback": [{"name": "WandbCallback", "project": "a"}]}
    )
    assert [row for row in callback_rows(own, 1) if row["name"] == "WandbCallback"] == [
        {"name": "WandbCallback", "project": "a"}
    ]


@pytest.mark.parametrize(("name", "callback"), [("wandb", WandbCallback), ("mlflow", MlflowCallback)])
def test_an_absent_package_is_named_with_the_extra_that_brings_it(
    name: str, callback: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(YoloflowError, match=rf"pip install 'yoloflow\[{name}\]', or set {name}=false"):
        callback()


@pytest.mark.process
def test_wandb_without_an_account_and_an_unknown_mode_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(YoloflowError, match=r"no account is known .*; run `wandb login`"):
        WandbCallback(mode="online")
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(YoloflowError, match="mode=of: one of offline, online, disabled"):
        WandbCallback()
