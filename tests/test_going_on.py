"""A run that has ended goes on, ends early, or gives its weights; what is refused leaves nothing behind."""

import json
import logging
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yoloflow import BaseCallback, Detector, RunContext, TrainingStopped
from yoloflow.callbacks import CALLBACKS
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluate import evaluate_run
from yoloflow.flow import train
from yoloflow.report.live.progress import ProgressReader
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights

SCENES = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("scenes")
    return [
        f"data.train_set={digits_dataset('train', SCENES, cache)}",
        f"data.val_set={digits_dataset('val', SCENES, cache)}",
        "img_size=64",
        "per_batch_size=8",
        "network.width_multiple=0.125",
        "data.num_parallel_workers=0",
        "log_interval=1",
        "run_eval_interval=1",
        "report=false",
        "device=cpu",
    ]


def run(settings: list[str], folder: Path, *more: str) -> dict[str, Any]:
    return train(load_config("quickstart", [*settings, f"save_dir={folder}", *more]))


@pytest.fixture(scope="module")
def finished(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(settings, folder, "epochs=2", "name=whole")
    return folder / "whole"


class StopAt(BaseCallback):
    """Sends a signal at the first step."""

    def on_step_end(self, context: RunContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(CALLBACKS, "StopAt", StopAt)
    return "callback=[{name: StopAt}]"


@pytest.mark.training
def test_a_finished_run_keeps_its_weights_and_one_state_without_them(finished: Path) -> None:
    files = {path.name: path.stat().st_size for path in (finished / "weights").iterdir()}
    states = {name for name in files if name.startswith("state")}
    assert states == {"state-00000006.json", "state-00000006-rest.safetensors"}
    assert files["state-00000006-rest.safetensors"] < 1.3 * files["last.safetensors"]


@pytest.mark.training
def test_a_finished_run_that_is_asked_for_more_epochs_trains_them(
    settings: list[str], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "whole")
    with caplog.at_level(logging.INFO, "yoloflow"):
        summary = run(settings, tmp_path, "epochs=3", "name=whole", "resume=auto")
    assert "was finished after 2 epochs and goes on to 3" in caplog.text
    assert (summary["epochs"], summary["steps"]) == (3, 9)
    records = map(json.loads, (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    assert [record["step"] for record in records if record["kind"] == "step"] == list(range(1, 10))
    assert load_config(tmp_path / "whole").epochs == 3
    assert (tmp_path / "whole" / "weights" / "state-00000009-rest.safetensors").exists()


@pytest.mark.training
def test_a_finished_run_without_a_state_is_not_begun_again(
    settings: list[str], finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "whole")
    for path in (tmp_path / "whole" / "weights").glob("state-*"):
        path.unlink()
    with pytest.raises(YoloflowError, match=r"no training state is left .*weight=.*whole"):
        run(settings, tmp_path, "epochs=3", "name=whole", "resume=auto")
    assert (tmp_path / "whole" / "summary.json").exists()


@pytest.mark.training
@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("freeze=[stem.*]", r'freeze: \[\] then, \["stem\.\*"\] now'),
        ("ema=false", "ema: true then, false now"),
        ("optimizer.optimizer=adamw", 'optimizer.optimizer: "momentum" then, "adamw" now'),
        ("network.width_multiple=0.25", "network.width_multiple: 0.125 then, 0.25 now"),
    ],
)
def test_settings_that_make_another_network_are_named_on_a_resume(
    settings: list[str], finished: Path, changed: str, named: str
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(YoloflowError, match=rf"whole: cannot go on .*{named}.*Put them back"):
        run(settings, finished.parent, "epochs=3", "name=whole", "resume=auto", changed)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


@pytest.mark.training
def test_a_run_that_is_stopped_before_its_first_evaluation_has_weights_and_is_called_interrupted(
    settings: list[str], tmp_path: Path, stop_at: str
) -> None:
    with pytest.raises(TrainingStopped):
        run(settings, tmp_path, "epochs=2", "name=early", stop_at)
    folder = tmp_path / "early"
    assert ProgressReader(folder).read().state == "interrupted"
    assert evaluate_run(str(folder), settings).map >= 0
    Detector.load(folder)(np.zeros((64, 64, 3), np.uint8))
    summary = run(settings, tmp_path, "epochs=1", "name=tuned", f"weight={folder}")
    assert summary["steps"] == 3


@pytest.mark.training
def test_patience_ends_a_training_that_gets_no_better_and_a_larger_one_goes_on(
    settings: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    still = ["optimizer.lr_init=1e-9", "optimizer.warmup_bias_lr=0", "name=still", "resume=auto"]
    with caplog.at_level(logging.INFO, "yoloflow"):
        summary = run(settings, tmp_path, "epochs=9", "patience=2", *still)
    best = summary["best"]["epoch"]
    assert summary["epochs"] == best + 2 < 9
    assert summary["stopped_early"] == {"patience": 2, "planned": 9}
    assert f"the training ends after epoch {best + 2} of 9" in caplog.text
    assert run(settings, tmp_path, "epochs=9", "patience=2", *still) == summary
    with pytest.raises(YoloflowError, match="patience=2 ended it after"):
        run(settings, tmp_path, "epochs=10", "patience=2", *still)
    more = run(settings, tmp_path, f"epochs={best + 3}", "patience=null", *still)
    assert (more["epochs"], "stopped_early" in more) == (best + 3, False)


def test_patience_without_evaluation_is_refused() -> None:
    with pytest.raises(YoloflowError, match="patience: needs run_eval=true"):
        load_config("quickstart", ["patience=5", "run_eval=false"])


@pytest.mark.training
@pytest.mark.parametrize(
    "sizes",
    [
        ["img_size=32"],
        ["img_size=64", "data.multi_scale=[0.5, 1.0]"],
        ["img_size=32", "accumulate=3", "memory_forecast=false"],
        ["img_size=32", "data.rect=true"],
    ],
)
def test_a_batch_of_one_image_of_one_cell_is_refused_before_anything_is_written(
    settings: list[str], tmp_path: Path, sizes: list[str]
) -> None:
    with pytest.raises(YoloflowError, match=r"one image of 32 x 32 px.*per_batch_size=2.*64 px"):
        run(settings, tmp_path, "epochs=1", "per_batch_size=1", *sizes)
    assert not list(tmp_path.iterdir())


@pytest.mark.training
def test_what_fails_before_its_first_step_leaves_no_folder(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(BaseCallback):
        def on_train_begin(self, context: RunContext) -> None:
            raise YoloflowError("no")

    monkeypatch.setitem(CALLBACKS, "Fails", Fails)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "note.txt").write_text("kept")
    for name in ("mine", "other"):
        with pytest.raises(YoloflowError, match="no"):
            run(settings, tmp_path / "runs", f"name={name}", "callback=[{name: Fails}]")
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["mine", "note.txt"]


@pytest.mark.training
def test_a_training_leaves_its_callers_process_as_it_was(settings: list[str], tmp_path: Path) -> None:
    def world() -> list[Any]:
        return [
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        ]

    def draw() -> tuple[float, ...]:
        return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(()).item()  # noqa: NPY002

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected, before = [draw() for _ in range(3)], world()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    drawn = [draw()]
    run(settings, tmp_path, "epochs=1", "name=a", "determinism=bitwise", "threads=3")
    drawn.append(draw())
    with pytest.raises(YoloflowError):
        run(settings, tmp_path, "epochs=1", "name=a", "determinism=none", "threads=2")
    drawn.append(draw())
    assert (drawn, world()) == (expected, before)


@pytest.mark.training
def test_trainings_in_threads_have_a_folder_each_or_are_refused(settings: list[str], tmp_path: Path) -> None:
    ends: list[object] = []

    def train_here(*more: str) -> None:
        try:
            ends.append(run(settings, tmp_path, "epochs=2", *more)["steps"])
        except YoloflowError as error:
            ends.append(str(error))

    def both(*more: str) -> None:
        threads = [threading.Thread(target=train_here, args=more) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    both()
    assert ends == [6, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quickstart", "quickstart-2"]
    ends.clear()
    both("name=same")
    assert 6 in ends
    assert any("same is being trained by another training of this process" in str(end) for end in ends)


@pytest.mark.training
def test_a_training_from_weights_finetunes_and_shows_what_they_were_worth(
    settings: list[str], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "yoloflow"):
        run(settings, tmp_path, "epochs=1", "name=tuned", f"weight={finished}")
    assert "finetuning with recipes/finetune.yaml: " in caplog.text
    assert "epoch 0/1: AP " in caplog.text
    assert load_config(tmp_path / "tuned").optimizer.max_warmup_fraction == 0.3
    lines = (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()
    evaluations = [record for record in map(json.loads, lines) if record["kind"] == "evaluation"]
    assert [record["epoch"] for record in evaluations] == [0, 1]
    best = evaluate_run(str(finished))
    assert evaluations[0]["map"] == best.map


@pytest.mark.training
def test_a_finetuning_with_factors_and_frozen_rows_goes_on_exactly(
    settings: list[str], finished: Path, tmp_path: Path, stop_at: str
) -> None:
    chosen = ["epochs=2", f"weight={finished}", "freeze=3", "optimizer.lr_factors={backbone: 0.1, head.*: 3}"]
    run(settings, tmp_path / "whole", *chosen, "name=tuned")
    with pytest.raises(TrainingStopped):
        run(settings, tmp_path / "parts", *chosen, "name=tuned", stop_at)
    run(settings, tmp_path / "parts", *chosen, "name=tuned", "resume=auto")
    whole, parts = (
        load_weights(tmp_path / folder / "tuned" / "weights" / "last_ema.safetensors")
        for folder in ("whole", "parts")
    )
    start = load_weights(finished / "weights" / "best_ema.safetensors")
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
        assert name.startswith(("stem.", "p2_down.", "p2.")) <= torch.equal(tensor, start[name]), name
    lines = (tmp_path / "parts" / "tuned" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["epoch"] for record in records if record["kind"] == "evaluation"] == [0, 1, 2]
    assert len(next(record for record in records if record["kind"] == "step")["lr"]) == 9
