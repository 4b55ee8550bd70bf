"""A run goes on from its newest good state, and from no state that is not its own."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.toy_training import ToyLoader, everything, toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, MetricsFileCallback, RunContext
from yoloflow.run.signals import TrainingStopped
from yoloflow.structures import Batch, YoloflowError
from yoloflow.train_step.step import StepSettings


class StopAfter(BaseCallback):
    """Asks for a stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, context: RunContext) -> None:
        if context.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Draws(BaseCallback):
    """Draws from every global generator at each step."""

    def __init__(self) -> None:
        self.drawn: dict[int, tuple[float, ...]] = {}

    def on_step_end(self, context: RunContext) -> None:
        numbers = (random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(()).item())  # noqa: NPY002
        self.drawn[context.step] = numbers


class Counts(BaseCallback):
    """Has a state of its own."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, context: RunContext) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def stop_at(folder: Path, step: int, *callbacks: BaseCallback, options: StepSettings | None = None) -> None:
    trainer = toy_trainer(folder, toy_step(options), None, *callbacks, StopAfter(step))
    with pytest.raises(TrainingStopped):
        trainer.train()


def test_every_global_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, before, after = Draws(), Draws(), Draws()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    toy_trainer(tmp_path / "whole", toy_step(), None, whole).train()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    stop_at(tmp_path / "run", 9, before)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(99)
    step = toy_step()
    toy_trainer(tmp_path / "run", step, None, after, resumed=True).train()
    assert before.drawn | after.drawn == whole.drawn


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"identity": {"training set": "16 images"}}, "training set: 24 images when .* 16 images now"),
        ({"identity": {}}, "training set: 24 images when the state was written, None now"),
        ({"options": StepSettings(accumulate=2)}, "accumulate: 1 when the state was written, 2 now"),
    ],
)
def test_a_state_of_another_training_is_refused_with_both_values(
    tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    identity = {"training set": "24 images"}
    trainer = toy_trainer(tmp_path, toy_step(), None, StopAfter(9), identity=identity)
    with pytest.raises(TrainingStopped):
        trainer.train()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    step = toy_step(settings.get("options"))
    with pytest.raises(YoloflowError, match=f"cannot go on.*{complaint}"):
        toy_trainer(tmp_path, step, resumed=True, identity=settings.get("identity", identity))
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_states_none_of_which_is_good_are_refused_and_left_where_they_are(tmp_path: Path) -> None:
    stop_at(tmp_path, 9)
    manifests = sorted((tmp_path / "weights").glob("state-*.json"))
    for manifest in manifests:
        manifest.write_text(manifest.read_text().replace('"schema": 4', '"schema": 3'))
    with pytest.raises(YoloflowError, match=r"none of its 2 training states is good .*name="):
        toy_trainer(tmp_path, toy_step(), resumed=True)
    assert sorted((tmp_path / "weights").glob("state-*.json")) == manifests


def test_a_damaged_state_does_not_push_out_good_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop_at(tmp_path, 9)
    newest = tmp_path / "weights" / "state-00000009.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING, "yoloflow"):
        trainer = toy_trainer(tmp_path, toy_step(), None, StopAfter(7), resumed=True)
    assert "state-00000009.json.damaged" in caplog.text
    with pytest.raises(TrainingStopped):
        trainer.train()
    names = {path.name for path in (tmp_path / "weights").iterdir()}
    assert {"state-00000006.json", "state-00000007.json"} <= names
    assert {"state-00000009.json.damaged", "state-00000009.safetensors.damaged"} <= names
    assert toy_trainer(tmp_path, toy_step(), resumed=True).context.step == 7


def test_callbacks_may_come_and_go_and_a_lost_state_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stop_at(tmp_path, 9, Draws(), Counts())
    counts = Counts()
    toy_trainer(tmp_path, toy_step(), None, counts, StopAfter(99), resumed=True)
    assert counts.steps == 9
    assert "figures of" not in caplog.text
    toy_trainer(tmp_path, toy_step(), None, Draws(), resumed=True)
    assert "has figures of Counts, which this training does not have" in caplog.text


class HangingLoader(ToyLoader):
    """Never gives the batch of a step; somebody asks for a stop meanwhile."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__()
        self.step, self.number = step, number

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        for batch in super().batches(start_step):
            start_step += 1
            if start_step == self.step:
                threading.Timer(0.1, os.kill, (os.getpid(), self.number)).start()
                time.sleep(60)
            yield batch


@pytest.mark.parametrize("step", [1, 8, 13, 16])
@pytest.mark.parametrize(("number", "sink"), [(signal.SIGTERM, 1), (signal.SIGINT, 5)])
def test_a_signal_ends_the_wait_for_a_batch_and_the_run_goes_on_from_there(
    tmp_path: Path, step: int, number: signal.Signals, sink: int
) -> None:
    whole, stopped = toy_step(), toy_step()
    toy_trainer(tmp_path / "whole", whole, None, MetricsFileCallback()).train()
    trainer = toy_trainer(tmp_path / "run", toy_step(), HangingLoader(step, number), MetricsFileCallback())
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else TrainingStopped):
        trainer.train_with_datasink(sink)
    assert trainer.context.step == step - 1
    toy_trainer(tmp_path / "run", stopped, None, MetricsFileCallback(), resumed=True).train()
    assert all(torch.equal(everything(stopped)[name], tensor) for name, tensor in everything(whole).items())
    lines = [
        [json.loads(line)["kind"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("run", "whole")
    ]
    assert lines[0] == lines[1]


STOPPED_SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.toy_training import toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback

class Stop(BaseCallback):
    def on_step_end(self, context):
        if context.step == 3:
            os.kill(os.getpid(), int(sys.argv[3]))

try:
    toy_trainer(Path(sys.argv[1]), toy_step(), None, Stop()).train()
except KeyboardInterrupt as interrupt:
    print("interrupted")
    raise
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("number", "code", "output"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_a_script_that_is_stopped_ends_with_the_signals_exit_code_and_no_traceback(
    tmp_path: Path, number: signal.Signals, code: int, output: str
) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", STOPPED_SCRIPT, str(tmp_path), str(root), str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (code, output)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "weights" / "state-00000003.json").exists()


SLOW_STATE = """
import os, signal, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.support.toy_training import toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback
from yoloflow.run.signals import TrainingStopped

class Large(BaseCallback):
    def state_dict(self):
        return {"numbers": list(range(3_000_000))}
    def on_step_end(self, context):
        if context.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            subprocess.Popen(["sh", "-c", f"sleep 1; kill -TERM {os.getpid()}"])

try:
    toy_trainer(Path(sys.argv[1]), toy_step(), None, Large()).train()
except TrainingStopped as stopped:
    os._exit(stopped.exit_code)
"""


@pytest.mark.process
def test_a_second_sigterm_while_the_state_is_written_does_not_cost_it(tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SLOW_STATE, str(tmp_path), tests]
    finished = subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)
    assert finished.returncode == 128 + signal.SIGTERM, finished.stderr
    (manifest,) = (tmp_path / "weights").glob("state-*.json")
    assert json.loads(manifest.read_text())["step"] == 3
