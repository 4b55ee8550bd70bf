"""Callbacks written for MindYOLO: their hooks are called with the state that they know."""

from pathlib import Path

import pytest

from tests.support.toy_training import EPOCHS, STEPS_PER_EPOCH, toy_step, toy_trainer
from yoloflow import mindyolo
from yoloflow.callbacks import CALLBACKS
from yoloflow.callbacks import RunContext as OurContext
from yoloflow.structures import YoloflowError


class Diary(mindyolo.BaseCallback):
    """Notes each hook, as a callback of MindYOLO's would see it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []

    def note(self, hook: str, run_context: mindyolo.RunContext) -> None:
        self.lines.append((hook, run_context.cur_epoch_index, run_context.cur_step_index))

    def on_train_begin(self, run_context: mindyolo.RunContext) -> None:  # type: ignore[override]
        assert run_context.epoch_num == EPOCHS
        assert run_context.loss == []
        self.note("begin", run_context)

    def on_train_epoch_begin(self, run_context: mindyolo.RunContext) -> None:
        self.note("epoch begin", run_context)

    def on_train_step_begin(self, run_context: mindyolo.RunContext) -> None:
        self.note("step begin", run_context)

    def on_train_step_end(self, run_context: mindyolo.RunContext) -> None:
        assert len(run_context.loss) == 2
        assert run_context.lr >= 0
        self.note("step end", run_context)

    def on_train_epoch_end(self, run_context: mindyolo.RunContext) -> None:
        assert run_context.trainer.ema is not None
        assert Path(run_context.ckpt_save_dir).parent == Path(run_context.save_dir)
        self.note("epoch end", run_context)

    def on_train_end(self, run_context: mindyolo.RunContext) -> None:  # type: ignore[override]
        self.note("end", run_context)


def test_hooks_of_mindyolo_are_called_and_count_from_one(tmp_path: Path) -> None:
    diary = Diary()
    toy_trainer(tmp_path, toy_step(), None, diary).train()
    expected: list[tuple[str, int, int]] = [("begin", 1, 1)]
    for epoch in range(1, EPOCHS + 1):
        expected.append(("epoch begin", epoch, 1))
        for step in range(1, STEPS_PER_EPOCH + 1):
            expected += [("step begin", epoch, step), ("step end", epoch, step)]
        expected.append(("epoch end", epoch, STEPS_PER_EPOCH))
    assert diary.lines == [*expected, ("end", EPOCHS, STEPS_PER_EPOCH)]


def test_one_hook_may_not_have_both_names() -> None:
    with pytest.raises(YoloflowError, match="has on_epoch_end and on_train_epoch_end"):

        class Both(mindyolo.BaseCallback):
            def on_epoch_end(self, context: OurContext) -> None: ...

            def on_train_epoch_end(self, run_context: mindyolo.RunContext) -> None: ...


def test_a_registered_callback_is_created_by_its_name() -> None:
    try:
        mindyolo.CALLBACK_REGISTRY.registry_module()(Diary)
        (found,) = mindyolo.create_callback([{"name": "Diary"}])
    finally:
        CALLBACKS.pop("Diary", None)
    assert isinstance(found, Diary)


def test_the_switch_of_yolox_is_a_property_of_the_loss() -> None:
    with pytest.raises(YoloflowError, match=r"YoloxSwitchTrain: a loss changes with the stage"):
        mindyolo.create_callback([{"name": "YoloxSwitchTrain", "switch_epoch_num": 285}])
