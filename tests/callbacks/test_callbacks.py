"""Callbacks: when evaluation is due, and what is refused."""

from typing import Any

import pytest

from yoloflow.callbacks import (
    BaseCallback,
    EvalWhileTrain,
    ProfilerCallback,
    RunContext,
    check_hooks,
    create_callback,
)
from yoloflow.structures import YoloflowError


def due_epochs(callback: EvalWhileTrain, epochs: int) -> list[int]:
    return [epoch for epoch in range(1, epochs + 1) if callback.is_due(epoch, epochs)]


def test_evaluation_is_due_every_epoch_by_default() -> None:
    assert due_epochs(EvalWhileTrain(), 4) == [1, 2, 3, 4]


def test_each_piece_of_the_training_has_its_own_interval() -> None:
    callback = EvalWhileTrain(stage_epochs=[10, 5], stage_intervals=[5, 2], eval_last_epoch=False)
    assert due_epochs(callback, 16) == [5, 10, 12, 14, 16]


def test_without_lengths_the_pieces_are_the_stages_of_the_training() -> None:
    callback = EvalWhileTrain(stage_intervals=[4, 2], isolated_epochs=7)
    due = [epoch for epoch in range(1, 13) if callback.is_due(epoch, 12, stage=int(epoch > 6))]
    assert due == [4, 7, 8, 10, 12]


def test_isolated_epochs_and_the_last_one_are_added() -> None:
    callback = EvalWhileTrain(stage_intervals=[4], isolated_epochs=[1, 3])
    assert due_epochs(callback, 10) == [1, 3, 4, 8, 10]


def test_the_examples_of_mindyolo_mean_what_they_mean_there() -> None:
    assert due_epochs(EvalWhileTrain(stage_intervals=5), 12) == [5, 10, 12]
    plan = EvalWhileTrain(
        stage_epochs=[285, 15], stage_intervals=[25, 5], isolated_epochs=[3, 213], keep_checkpoint_max=10
    )
    assert due_epochs(plan, 300) == [3, *range(25, 213, 25), 213, 225, 250, 275, 285, 290, 295, 300]
    assert plan.keep_top_k == 10
    assert due_epochs(EvalWhileTrain(stage_epochs=8, stage_intervals=3, isolated_epochs=None), 4) == [3, 4]


def test_intervals_count_from_the_first_epoch_of_their_piece() -> None:
    assert due_epochs(EvalWhileTrain([3, 9], [9, 2], eval_last_epoch=False), 8) == [5, 7]


def test_interval_zero_evaluates_only_at_the_end() -> None:
    assert due_epochs(EvalWhileTrain(stage_intervals=[0]), 10) == [10]


@pytest.mark.parametrize(
    "arguments",
    [
        {"stage_epochs": [3]} | {"stage_intervals": [1, 2]},
        {"stage_intervals": []},
        {"stage_intervals": [-1]},
        {"stage_epochs": 5, "stage_intervals": [1, 2]},
    ],
)
def test_a_plan_that_does_not_fit_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(YoloflowError, match="stage_intervals"):
        EvalWhileTrain(**arguments)


def test_rows_become_callbacks_with_their_arguments() -> None:
    (callback,) = create_callback([{"name": "ProfilerCallback", "profiler_step_num": 7}])
    assert isinstance(callback, ProfilerCallback)
    assert callback.profiler_step_num == 7


def test_an_unknown_callback_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(YoloflowError, match=r"callback\[0\]\.name.*SummaryCallback"):
        create_callback([{"name": "SumaryCallback"}])


def test_an_unknown_argument_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(YoloflowError, match=r"callback\[0\]: ProfilerCallback.*profiler_step_num"):
        create_callback([{"name": "ProfilerCallback", "profiler_steps": 3}])


def test_a_row_without_a_name_is_refused() -> None:
    with pytest.raises(YoloflowError, match=r"callback\[0\]: needs a `name`"):
        create_callback([{}])


class Misspelt(BaseCallback):
    def on_epoch_ends(self, context: RunContext) -> None:
        raise AssertionError


class OfMindYOLO(BaseCallback):
    def on_train_step_end(self, context: RunContext) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("callback", "reason"),
    [
        (
            Misspelt(),
            "Misspelt: on_epoch_ends is no hook .* did you mean on_epoch_end",
        ),
        (OfMindYOLO(), "on_train_step_end is no hook .* here it is on_step_end"),
        (object(), "callback object: derive it from yoloflow.BaseCallback"),
    ],
)
def test_a_hook_that_would_never_be_called_is_refused(callback: object, reason: str) -> None:
    with pytest.raises(YoloflowError, match=reason):
        check_hooks(callback)
