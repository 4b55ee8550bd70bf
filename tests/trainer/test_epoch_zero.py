"""A training that begins with trained weights is evaluated before its first step, as of epoch 0."""

import json
import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.support.toy_training import Scores, toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, EvalWhileTrain, MetricsFileCallback, RunContext
from yoloflow.evaluation.result import EvaluationResult
from yoloflow.report.metrics import curves_of, read_metrics
from yoloflow.run.signals import TrainingStopped
from yoloflow.trainer.trainer import Trainer
from yoloflow.weights.files import load_weights


class Notes(BaseCallback):
    """Notes epoch, step and figures of each evaluation, and stops before a step."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.stop_before = stop_before
        self.evaluations: list[tuple[int, int, float]] = []

    def on_evaluation(self, context: RunContext) -> None:
        self.evaluations.append((context.epoch, context.step, context.figures["map"]))

    def on_step_begin(self, context: RunContext) -> None:
        if context.step + 1 == self.stop_before:
            os.kill(os.getpid(), signal.SIGTERM)


def from_weights(folder: Path, scores: Scores, *callbacks: BaseCallback, resumed: bool = False) -> Trainer:
    """Returns a trainer with weights to start from, which a resumed run with a state does not load."""
    plan = EvalWhileTrain(keep_top_k=1)
    trainer = toy_trainer(
        folder, toy_step(), None, plan, MetricsFileCallback(), *callbacks, resumed=resumed, test_fn=scores
    )
    if trainer.context.step == 0:
        trainer.context.weights_facts = {"class_names": ["a"], "origin": {"file": "start.safetensors"}}
    return trainer


def evaluated_epochs(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record["epoch"] for record in records if record["kind"] == "evaluation"]


def test_the_weights_are_evaluated_as_they_came_in(tmp_path: Path) -> None:
    scores, notes = Scores([0.1, 0.2, 0.3, 0.4, 0.5]), Notes()
    trainer = from_weights(tmp_path, scores, notes)
    before = {
        name: tensor.clone() for name, tensor in trainer.context.evaluated_network().state_dict().items()
    }
    summary = trainer.train()
    assert all(torch.equal(tensor, scores.seen[0][name]) for name, tensor in before.items())
    assert notes.evaluations == [(-1, 0, 0.1), (0, 6, 0.2), (1, 12, 0.3), (2, 18, 0.4), (3, 24, 0.5)]
    assert evaluated_epochs(tmp_path) == [0, 1, 2, 3, 4]
    assert summary["best"]["epoch"] == 4
    curves = curves_of(read_metrics(tmp_path / "metrics.jsonl"))
    assert (curves.evaluated, curves.ap) == ([0, 1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4, 0.5])


def test_weights_that_only_get_worse_are_the_best_ones(tmp_path: Path) -> None:
    scores = Scores([0.9, 0.2, 0.3, 0.1, 0.0])
    summary = from_weights(tmp_path, scores).train()
    assert summary["best"] == {"epoch": 0, "map": 0.9, "map50": 0.5}
    assert summary["map"] == 0.0
    best = load_weights(tmp_path / "weights" / "best_ema.safetensors")
    assert all(torch.equal(tensor, scores.seen[0][name]) for name, tensor in best.items())
    assert [path.name for path in (tmp_path / "weights").glob("top-*_ema.safetensors")] == [
        "top-epoch0000_ema.safetensors"
    ]


def test_equal_figures_leave_the_earlier_weights_the_best(tmp_path: Path) -> None:
    assert from_weights(tmp_path, Scores([0.0] * 5)).train()["best"]["epoch"] == 0


def test_random_weights_are_not_evaluated_first(tmp_path: Path) -> None:
    scores = Scores([0.1] * 4)
    toy_trainer(tmp_path, toy_step(), None, EvalWhileTrain(), test_fn=scores).train()
    assert len(scores.seen) == 4


def test_without_a_plan_of_evaluations_there_is_none(tmp_path: Path) -> None:
    scores = Scores([])
    trainer = toy_trainer(tmp_path, toy_step(), None, test_fn=scores)
    trainer.context.weights_facts = {"origin": {}}
    trainer.train()
    assert scores.seen == []


@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_resumed_run_does_not_repeat_it(tmp_path: Path, step: int) -> None:
    with pytest.raises(TrainingStopped):
        from_weights(tmp_path, Scores([0.9, 0.1, 0.2, 0.3, 0.4]), Notes(stop_before=step)).train()
    scores = Scores([0.1, 0.2, 0.3, 0.4])
    summary = from_weights(tmp_path, scores, resumed=True).train()
    assert evaluated_epochs(tmp_path) == [0, 1, 2, 3, 4]
    assert summary["best"] == {"epoch": 0, "map": 0.9, "map50": 0.5}


def test_a_run_that_left_no_state_begins_again_with_it(tmp_path: Path) -> None:
    class Fails(BaseCallback):
        def on_step_end(self, context: RunContext) -> None:
            raise ValueError("out of luck")

    with pytest.raises(ValueError, match="out of luck"):
        from_weights(tmp_path, Scores([0.9]), Fails()).train()
    assert evaluated_epochs(tmp_path) == [0]
    from_weights(tmp_path, Scores([0.9, 0.1, 0.2, 0.3, 0.4]), resumed=True).train()
    assert evaluated_epochs(tmp_path) == [0, 1, 2, 3, 4]


def test_a_stop_within_it_leaves_it_to_be_done_again(tmp_path: Path) -> None:
    class Stops(Scores):
        def __call__(self, network: torch.nn.Module) -> EvaluationResult:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().__call__(network)

    with pytest.raises(TrainingStopped):
        from_weights(tmp_path, Stops([0.9])).train()
    from_weights(tmp_path, Scores([0.9, 0.1, 0.2, 0.3, 0.4]), resumed=True).train()
    assert evaluated_epochs(tmp_path) == [0, 1, 2, 3, 4]


def test_patience_counts_from_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan, scores = EvalWhileTrain(), Scores([0.9, 0.1, 0.1, 0.1])
    trainer = toy_trainer(tmp_path, toy_step(), None, plan, test_fn=scores, patience=2)
    trainer.context.weights_facts = {"origin": {}}
    with caplog.at_level(logging.INFO, "yoloflow"):
        summary = trainer.train()
    assert summary["epochs"] == 2
    assert "AP has not risen for 2 epochs (patience=2; best 0.9000 after epoch 0)" in caplog.text
