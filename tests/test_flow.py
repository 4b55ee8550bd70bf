"""The whole flow on a few embedded scenes: files, figures, resume, commands."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import yoloflow
from yoloflow.callbacks import CALLBACKS, BaseCallback, RunContext
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluate import evaluate_run
from yoloflow.flow import train
from yoloflow.run.signals import TrainingStopped
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights

SCENES = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    cache = tmp_path_factory.mktemp("scenes")
    return digits_dataset("train", SCENES, cache), digits_dataset("val", SCENES, cache)


def overrides(scenes: tuple[Path, Path], folder: Path, *more: str) -> list[str]:
    return [
        f"data.train_set={scenes[0]}",
        f"data.val_set={scenes[1]}",
        f"save_dir={folder}",
        "img_size=64",
        "per_batch_size=8",
        "network.width_multiple=0.125",
        "data.num_parallel_workers=0",
        "log_interval=1",
        "run_eval_interval=1",
        *more,
    ]


def run(scenes: tuple[Path, Path], folder: Path, *more: str) -> dict[str, object]:
    return train(load_config("quickstart", overrides(scenes, folder, *more)))


@pytest.fixture(scope="module")
def finished(scenes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(scenes, folder, "epochs=3", "name=whole")
    return folder / "whole"


@pytest.mark.training
def test_a_run_leaves_everything_that_is_promised(finished: Path) -> None:
    for name in (
        "config.yaml",
        "names.json",
        "data_problems.json",
        "metrics.jsonl",
        "summary.json",
        "diagnostics.json",
        "report.html",
        "plots/curves.png",
        "plots/labels.png",
        "plots/train_batch_stage1.jpg",
        "plots/train_batch_stage2.jpg",
        "plots/detections.jpg",
        "weights/last.safetensors",
        "weights/last_ema.safetensors",
    ):
        assert (finished / name).stat().st_size > 0, name


@pytest.mark.training
def test_the_metrics_file_has_each_step_stage_and_evaluation(finished: Path) -> None:
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == list(range(1, 10))
    assert [record["epoch"] for record in records if record["kind"] == "evaluation"] == [1, 2, 3]
    assert [record["stage"] for record in records if record["kind"] == "stage"] == [0, 1]
    assert all(len(record["stats"]) == 12 for record in records if record["kind"] == "evaluation")


@pytest.mark.training
def test_the_summary_has_the_final_and_the_best_figures(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["epochs"] == 3
    assert 0 <= summary["map"] <= summary["best"]["map"] <= 1
    assert len(summary["per_class"]) == 10
    assert summary["wall_seconds"] > 0
    assert summary["images_per_second"] > 0
    assert summary["versions"]["torch"] == torch.__version__


@pytest.mark.training
def test_the_resolved_config_runs_again_as_it_is_with_byte_equal_weights(
    finished: Path, tmp_path: Path
) -> None:
    train(load_config(finished / "config.yaml", [f"save_dir={tmp_path}"]))
    for name in ("last.safetensors", "last_ema.safetensors"):
        again = (tmp_path / "whole" / "weights" / name).read_bytes()
        assert again == (finished / "weights" / name).read_bytes()


@pytest.mark.training
def test_a_run_killed_after_an_epoch_continues_to_the_same_weights(
    scenes: tuple[Path, Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoloflow.callbacks.metrics_file import MetricsFileCallback

    class KilledError(BaseException):
        pass

    def die_in_epoch_3(self: MetricsFileCallback, context: yoloflow.RunContext) -> None:
        if context.step == 8:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFileCallback, "on_step_begin", die_in_epoch_3)
        with pytest.raises(KilledError):
            run(scenes, tmp_path, "epochs=3", "name=whole", "resume=auto")
    assert not (tmp_path / "whole" / "summary.json").exists()
    run(scenes, tmp_path, "epochs=3", "name=whole", "resume=auto")
    for name in ("last.safetensors", "last_ema.safetensors"):
        mine = load_weights(tmp_path / "whole" / "weights" / name)
        other = load_weights(finished / "weights" / name)
        assert all(torch.equal(mine[key], other[key]) for key in other)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    steps = [record["step"] for line in lines if (record := json.loads(line))["kind"] == "step"]
    assert steps == list(range(1, 10))


@pytest.mark.training
def test_a_finished_run_says_so_and_trains_no_more(
    scenes: tuple[Path, Path], finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (finished / "metrics.jsonl").read_text()
    with caplog.at_level(logging.INFO, logger="yoloflow"):
        summary = run(scenes, finished.parent, "epochs=3", "name=whole", "resume=auto")
    assert "finished" in caplog.text
    assert summary["epochs"] == 3
    assert (finished / "metrics.jsonl").read_text() == before


@pytest.mark.training
def test_an_existing_name_is_refused_without_resume(scenes: tuple[Path, Path], finished: Path) -> None:
    with pytest.raises(YoloflowError, match="resume=auto"):
        run(scenes, finished.parent, "epochs=3", "name=whole")


@pytest.mark.training
def test_evaluation_after_the_training_equals_evaluation_during_it(finished: Path) -> None:
    weights = finished / "weights" / "last_ema.safetensors"
    result = evaluate_run(str(finished), weight=str(weights))
    summary = json.loads((finished / "summary.json").read_text())
    assert list(result.stats) == summary["stats"]


@pytest.mark.training
def test_a_training_needs_a_training_and_a_validation_set(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match=r"data\.train_set is not set"):
        train(load_config("yolov8n", [f"save_dir={tmp_path}"]))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(YoloflowError, match=r"data\.val_set is not set.*run_eval=false"):
        train(load_config("quickstart", [f"save_dir={tmp_path}", "data.val_set=null"]))
    assert list(tmp_path.iterdir()) == []


def test_a_refused_training_leaves_no_folder(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="per_batch_size"):
        run(scenes, tmp_path, "per_batch_size=100", "name=large")
    with pytest.raises(YoloflowError, match="no such weights file"):
        run(scenes, tmp_path, "weight=nowhere.safetensors", "name=weights")
    with pytest.raises(YoloflowError, match=r"jit_backend=induktor: .*known: .*\binductor\b"):
        run(scenes, tmp_path, "jit_backend=induktor", "name=compiled")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.training
def test_a_resumed_run_names_the_settings_that_changed(
    scenes: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(scenes, tmp_path, "epochs=1", "name=run")
    (tmp_path / "run" / "summary.json").unlink()
    with caplog.at_level(logging.WARNING, logger="yoloflow"):
        summary = run(scenes, tmp_path, "epochs=2", "name=run", "resume=auto")
    assert "other settings than it began with: epochs" in caplog.text
    assert summary["steps"] == 6


@pytest.mark.training
def test_single_cls_trains_and_evaluates_one_class(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    summary = run(scenes, tmp_path, "epochs=1", "data.single_cls=true", "name=one")
    per_class = summary["per_class"]
    assert isinstance(per_class, list)
    assert [row["name"] for row in per_class] == ["object"]


@pytest.mark.training
@pytest.mark.parametrize(
    "switches",
    [
        ["accumulate=2", "clip_grad=true"],
        ["amp_level=O2", "loss_scaler=dynamic"],
        ["recompute=true", "recompute_layers=4", "channels_last=true"],
        ["ema=false", "keep_checkpoint_max=1", "freeze=[stem.*]"],
        ["summary=true", "profiler=true", "profiler_step_num=1"],
        ["optimizer.optimizer=adamw", "data.cache=ram", "data.num_parallel_workers=1"],
    ],
    ids=" ".join,
)
def test_every_switch_trains(scenes: tuple[Path, Path], tmp_path: Path, switches: list[str]) -> None:
    summary = run(scenes, tmp_path, "epochs=2", "name=switch", *switches)
    assert summary["steps"] == 6
    assert summary["map"] is not None


@pytest.mark.process
def test_two_ranks_train_evaluate_and_agree_with_torchrun(scenes: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += ["-m", "yoloflow", "train", "quickstart"]
    command += overrides(scenes, tmp_path, "epochs=1", "name=ranks", "per_batch_size=4", "sync_bn=true")
    command += ["val_loss=true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "ranks" / "summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["val_losses"]["loss"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ranks"]


class StopsTheThirdEpoch(BaseCallback):
    """Asks the process to stop, once."""

    has_stopped = False

    def on_epoch_begin(self, context: RunContext) -> None:
        if context.epoch == 2 and not StopsTheThirdEpoch.has_stopped:
            StopsTheThirdEpoch.has_stopped = True
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.training
def test_yolox_s_l1_term_comes_with_its_last_stage_and_after_a_resume(
    scenes: tuple[Path, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CALLBACKS, "StopsTheThirdEpoch", StopsTheThirdEpoch)
    changes = [
        "data.train_transforms.stage_epochs=[1, 2]",
        "network.width_multiple=0.25",
        "epochs=3",
        "name=x",
        "callback=[{name: EvalWhileTrain}, {name: StopsTheThirdEpoch}]",
    ]
    settings = overrides(scenes, tmp_path, *changes)
    with pytest.raises(TrainingStopped):
        train(load_config("yolox-nano-small-data", settings))
    folder = tmp_path / "x"
    with caplog.at_level(logging.INFO, logger="yoloflow"):
        train(load_config("yolox-nano-small-data", [*settings, "resume=auto"]))
    assert "at step 6" in caplog.text
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    l1 = {record["step"]: record["lboxl1"] for record in records if record["kind"] == "step"}
    assert [value > 0 for _, value in sorted(l1.items())] == [False] * 3 + [True] * 6
