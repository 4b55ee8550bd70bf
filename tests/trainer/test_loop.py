"""The loop calls its hooks in the documented order, evaluates when it is due and keeps the best weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.toy_training import EPOCHS, STAGE_END, STEPS_PER_EPOCH, Scores, toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, EvalWhileTrain, RunContext
from yoloflow.weights.files import load_weights

PAGE = Path(__file__).parents[2] / "docs" / "training_loop.md"
HOOKS = [name for name in vars(BaseCallback) if name.startswith("on_")]


class Diary(BaseCallback):
    """Writes down every hook."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in HOOKS:
            return lambda _context: self.calls.append(name)
        return super().__getattribute__(name)


def test_hooks_are_called_in_the_order_that_the_page_shows(tmp_path: Path) -> None:
    diary = Diary()
    plan = EvalWhileTrain(stage_intervals=[2])
    toy_trainer(tmp_path, toy_step(), None, plan, diary, test_fn=Scores([0.1, 0.2]), log_interval=100).train()
    steps = ["on_step_begin", "on_step_end"] * STEPS_PER_EPOCH
    within = 2 * (STAGE_END % STEPS_PER_EPOCH)
    third = [*steps[:within], "on_stage_begin", *steps[within:]]
    assert diary.calls == [
        *("on_train_begin", "on_stage_begin", "on_epoch_begin", *steps, "on_epoch_end"),
        *("on_epoch_begin", *steps, "on_epoch_end", "on_evaluation"),
        *("on_epoch_begin", *third, "on_epoch_end"),
        *("on_epoch_begin", *steps, "on_epoch_end", "on_evaluation", "on_train_end"),
    ]
    block = PAGE.read_text().split("```")[1]
    shown = re.findall(r"on_\w+", block)
    assert shown == list(dict.fromkeys(diary.calls))
    assert set(shown) | {"on_exception"} == set(HOOKS)


def test_an_error_reaches_the_callbacks_before_it_is_raised(tmp_path: Path) -> None:
    class Fails(BaseCallback):
        def on_step_end(self, context: RunContext) -> None:
            raise ValueError("out of luck")

    diary = Diary()
    with pytest.raises(ValueError, match="out of luck"):
        toy_trainer(tmp_path, toy_step(), None, Fails(), diary).train()
    assert diary.calls[-1] == "on_exception"


def test_the_best_weights_are_those_of_the_highest_score_and_the_best_few_are_kept(tmp_path: Path) -> None:
    test_fn = Scores([0.2, 0.4, 0.1, 0.3])
    plan = EvalWhileTrain(keep_top_k=2)
    summary = toy_trainer(tmp_path, toy_step(), None, plan, test_fn=test_fn).train()
    assert len(test_fn.seen) == EPOCHS
    assert summary["best"] == {"epoch": 2, "map": 0.4, "map50": 0.5}
    assert summary["map"] == 0.3
    best = load_weights(tmp_path / "weights" / "best_ema.safetensors")
    assert all(torch.equal(tensor, test_fn.seen[1][name]) for name, tensor in best.items())
    kept = sorted(path.name for path in (tmp_path / "weights").glob("top-*_ema.safetensors"))
    assert kept == ["top-epoch0002_ema.safetensors", "top-epoch0004_ema.safetensors"]


def test_without_a_plan_nothing_is_evaluated(tmp_path: Path) -> None:
    test_fn = Scores([])
    summary = toy_trainer(tmp_path, toy_step(), test_fn=test_fn).train()
    assert test_fn.seen == []
    assert summary["best"] is None
