"""The plan shows what the training does: the same tables, stage borders and averages."""

import json
from pathlib import Path

import numpy as np
import pytest

from yoloflow.config.reader import load_config
from yoloflow.optim.schedule import create_lr_scheduler, create_warmup_momentum_scheduler, ema_decay
from yoloflow.plan import MAX_POINTS, Plan, draw_plan, make_plan, spread_updates
from yoloflow.structures import YoloflowError, plural


def plan_of(*overrides: str, steps_per_epoch: int = 19, world_size: int = 1) -> Plan:
    return make_plan(load_config("yolov8n", overrides), steps_per_epoch, world_size)


@pytest.mark.parametrize("variant", ["published", "mindyolo"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_plan_holds_the_tables_of_the_training(variant: str, accumulate: int) -> None:
    config = load_config("yolov8n", ["epochs=30", f"accumulate={accumulate}", f"variant={variant}"])
    plan = make_plan(config, 40)
    settings, length = config.optimizer, config.run_length(40)
    for name, rates in create_lr_scheduler(settings, length, config.variant).items():
        assert np.array_equal(plan.schedule.lr_by_group[name], rates)
    momentum = create_warmup_momentum_scheduler(settings, length, config.variant)
    assert np.array_equal(plan.schedule.momentum, momentum)
    assert plan.num_updates == 30 * 40 // accumulate


@pytest.mark.parametrize("variant", ["published", "mindyolo"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_all_groups_meet_where_the_warm_up_is_said_to_end(variant: str, accumulate: int) -> None:
    plan = plan_of("epochs=200", f"accumulate={accumulate}", f"variant={variant}")
    before, after = (plan.schedule.lr(plan.warmup_updates + offset) for offset in (-1, 0))
    assert before["bias"] > before["weight"]
    assert after["bias"] == after["weight"]


@pytest.mark.parametrize("accumulate", [1, 2, 7])
def test_stages_and_epochs_are_those_of_each_updates_last_micro_batch(accumulate: int) -> None:
    plan = plan_of("epochs=30", f"accumulate={accumulate}")
    assert plan.stage_epochs == [20, 10]
    micro_batch_epochs = np.repeat(np.arange(30), 19)
    for update in range(plan.num_updates):
        epoch = micro_batch_epochs[(update + 1) * accumulate - 1]
        assert plan.epoch(update) == epoch
        assert plan.stage(update) == int(epoch >= 20)
        assert (update >= plan.stage_starts[1]) == (epoch >= 20)


def test_the_average_counts_as_the_training_does() -> None:
    plan = plan_of("epochs=2")
    # The first copy of the weights is count 1, so the first update enters with count 2.
    assert plan.ema_decay(0) == ema_decay(2)
    assert plan.ema_decay(10) == ema_decay(12)
    assert plan_of("epochs=2", "ema_weight=ema.safetensors").ema_decay(0) == ema_decay(1)
    assert plan_of("epochs=2", "ema=false").ema_decay(0) is None
    assert plan_of("epochs=2", "ema_tau=10", "ema_decay=0.5").ema_decay(0) == ema_decay(2, 0.5, 10)


def test_weight_decay_grows_with_the_images_of_an_update() -> None:
    assert plan_of().weight_decay == pytest.approx(0.0005 * 16 / 64)
    assert plan_of("auto_accumulate=true").weight_decay == pytest.approx(0.0005)
    assert plan_of(world_size=8).weight_decay == pytest.approx(0.0005 * 128 / 64)


def test_factors_of_the_rates_are_said() -> None:
    shown = plan_of("epochs=2", "optimizer.lr_factors={backbone: 0.1, head.*: 2}").describe()
    assert "the learning rates below times 0.1 for backbone, 2.0 for head.*" in shown


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "epoch", "1 epoch"),
        (0, "image", "0 images"),
        (2, "box", "2 boxes"),
        (2, "micro-batch", "2 micro-batches"),
    ],
)
def test_one_of_a_thing_is_said_without_s(count: int, noun: str, said: str) -> None:
    assert plural(count, noun) == said


def test_the_table_marks_warm_up_stage_borders_and_the_end() -> None:
    plan = plan_of("epochs=30", "optimizer.max_warmup_fraction=0.1")
    assert plan.warmup_updates == 57
    assert plan.interesting_updates() == {
        0: "start",
        28: "half warm-up",
        56: "end of warm-up",
        57: "after warm-up",
        379: "end of stage 1",
        380: "stage 2 begins",
        569: "last",
    }
    lines = plan.describe().splitlines()
    assert lines[0] == "30 epochs (20 + 10) x 19 micro-batches = 570 updates of 1 micro-batch, 16 images each"
    assert lines[2].startswith("stage 1: 20 epochs, steps 1 to 380: 640 px; sampler uniform; mosaic > ")
    assert lines[5].split() == [
        "1",
        "1",
        "1",
        "0.100000",
        "0.000000",
        "0.000000",
        "0.8000",
        "0.000999",
        "start",
    ]
    assert lines[-1].split()[:3] == ["570", "30", "2"]
    assert max(map(len, lines[4:])) <= 80


def test_a_warm_up_longer_than_the_training_is_pointed_out() -> None:
    assert "the warm-up is as long as the training" in plan_of("epochs=30").describe()


def test_a_training_without_one_update_is_refused() -> None:
    with pytest.raises(YoloflowError, match="not one optimizer update"):
        plan_of("epochs=1", "accumulate=20")


@pytest.mark.parametrize(
    ("overrides", "steps_per_epoch"),
    [
        (["epochs=1"], 1),
        (["epochs=300"], 100),
        (["epochs=30", "ema=false", "optimizer.warmup_epochs=0", "optimizer.min_warmup_step=0"], 100),
    ],
)
def test_json_and_image_are_written_for_any_plan(
    tmp_path: Path, overrides: list[str], steps_per_epoch: int
) -> None:
    plan = plan_of(*overrides, steps_per_epoch=steps_per_epoch)
    content = json.loads(json.dumps(plan.to_json()))
    assert content["rows"][0]["update"] == 1
    assert content["rows"][-1]["update"] == plan.num_updates == content["updates"]
    assert len(content["rows"]) <= MAX_POINTS + 20
    draw_plan(plan, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_spread_updates_keep_the_ends() -> None:
    assert spread_updates(1) == [0]
    assert spread_updates(5) == [0, 1, 2, 3, 4]
    many = spread_updates(3_696_000)
    assert (many[0], many[-1]) == (0, 3_695_999)
    assert len(many) == MAX_POINTS
