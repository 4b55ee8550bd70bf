"""A data sink trains as the plain loop does: the host looks less often, the numbers are the same."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.toy_training import EPOCHS, STAGE_END, STEPS_PER_EPOCH, everything, toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, MetricsFileCallback, RunContext
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.flow import train
from yoloflow.structures import YoloflowError
from yoloflow.train_step.step import StepSettings
from yoloflow.trainer.guards import Guard

SCENES = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
TIMES = {"images_per_second", "seconds", "waited_share", "wall_seconds", "time"}


class Diary(BaseCallback):
    """Notes each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def on_stage_begin(self, context: RunContext) -> None:
        self.calls.append(("stage", context.step))

    def on_epoch_begin(self, context: RunContext) -> None:
        self.calls.append(("epoch", context.step))

    def on_step_begin(self, context: RunContext) -> None:
        self.calls.append(("begin", context.step))

    def on_step_end(self, context: RunContext) -> None:
        self.calls.append(("end", context.step))

    def on_epoch_end(self, context: RunContext) -> None:
        self.calls.append(("epoch end", context.step))


@pytest.mark.parametrize("sink_size", [2, 5, 100])
@pytest.mark.parametrize(
    ("options", "scaler", "amp_level"),
    [
        (StepSettings(), "static", "O0"),
        (StepSettings(accumulate=4), "dynamic", "O0"),
        (StepSettings(accumulate=2, clip_grad=True, clip_grad_value=0.1), "none", "O2"),
        pytest.param(
            StepSettings(jit=True, jit_backend="aot_eager"), "static", "O0", marks=pytest.mark.compile
        ),
    ],
)
def test_weights_records_and_calls_are_those_of_the_plain_loop(
    tmp_path: Path, options: StepSettings, scaler: str, amp_level: str, sink_size: int
) -> None:
    states, records, calls = [], [], []
    for name, size in (("plain", None), ("sink", sink_size)):
        step, diary = toy_step(options, scaler, amp_level), Diary()
        callbacks = (diary, MetricsFileCallback())
        trainer = toy_trainer(tmp_path / name, step, None, *callbacks, log_interval=4, save_steps=7)
        trainer.train() if size is None else trainer.train_with_datasink(size)
        states.append(everything(step))
        calls.append(diary.calls)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        records.append([{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines])
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert records[0] == records[1]
    assert calls[0] == calls[1]
    assert ("stage", STAGE_END) in calls[1]


def test_the_host_looks_only_at_the_ends_of_sinks(tmp_path: Path) -> None:
    step = toy_step()
    trainer = toy_trainer(tmp_path, step)
    looks: list[int] = []

    class Looks(Guard):
        def after_steps(self) -> None:
            looks.append(trainer.context.step)

    trainer.guards.guards.append(Looks())
    trainer.train_with_datasink(4)
    assert looks == [4, 6, 10, 12, 15, 18, 22, 24]


@pytest.mark.parametrize("sink_size", [1, 4])
@pytest.mark.parametrize("stop_at", [1, 8, 13, 20])
def test_a_run_killed_in_a_sink_goes_on_to_the_same_state(
    tmp_path: Path, sink_size: int, stop_at: int
) -> None:
    class KilledError(BaseException):
        pass

    class Bomb(BaseCallback):
        def on_step_end(self, context: RunContext) -> None:
            if context.step == stop_at and not context.run.resumed:
                raise KilledError

    options = StepSettings(accumulate=4)
    whole = toy_step(options)
    toy_trainer(tmp_path / "whole", whole, save_steps=3).train_with_datasink(sink_size)
    with pytest.raises(KilledError):
        toy_trainer(tmp_path / "run", toy_step(options), None, Bomb(), save_steps=3).train_with_datasink(
            sink_size
        )
    step = toy_step(options)
    trainer = toy_trainer(tmp_path / "run", step, None, Bomb(), save_steps=3, resumed=True)
    trainer.train_with_datasink(sink_size)
    expected = everything(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(step).items())


def test_a_sink_of_no_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="sink_size=0"):
        toy_trainer(tmp_path, toy_step()).train_with_datasink(0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    cache = tmp_path_factory.mktemp("scenes")
    return digits_dataset("train", SCENES, cache), digits_dataset("val", SCENES, cache)


@pytest.mark.training
@pytest.mark.parametrize(
    "more",
    [
        ["amp_level=O2", "loss_scaler=dynamic", "accumulate=2"],
        pytest.param(["jit=true", "jit_backend=aot_eager", "clip_grad=true"], marks=pytest.mark.full),
    ],
)
def test_a_real_training_has_the_same_weights_and_figures_with_a_sink(
    scenes: tuple[Path, Path], tmp_path: Path, more: list[str]
) -> None:
    settings = [
        f"data.train_set={scenes[0]}",
        f"data.val_set={scenes[1]}",
        f"save_dir={tmp_path}",
        "img_size=64",
        "per_batch_size=4",
        "epochs=3",
        "network.width_multiple=0.125",
        "data.num_parallel_workers=0",
        *more,
    ]
    plain = train(load_config("quickstart", [*settings, "name=plain"]))
    sunk = train(load_config("quickstart", [*settings, "name=sunk", "datasink=true", "sink_size=5"]))
    assert {k: v for k, v in plain.items() if k not in TIMES} == {
        k: v for k, v in sunk.items() if k not in TIMES
    }
    for name in ("last.safetensors", "last_ema.safetensors"):
        one, other = (tmp_path / run / "weights" / name for run in ("plain", "sunk"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.full
@pytest.mark.compile
def test_compiled_and_eager_steps_agree(tmp_path: Path) -> None:
    eager, compiled = toy_step(), toy_step(StepSettings(jit=True, jit_backend="inductor"))
    toy_trainer(tmp_path / "eager", eager).train()
    toy_trainer(tmp_path / "compiled", compiled).train_with_datasink(6)
    expected = everything(eager)
    for name, tensor in everything(compiled).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5, msg=name)
    assert eager.updates == EPOCHS * STEPS_PER_EPOCH
