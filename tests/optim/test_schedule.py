"""Learning rates and momentum: equal to the reference's tables, and right where those are not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yoloflow.optim.schedule import (
    Schedule,
    count_warmup_updates,
    create_lr_scheduler,
    create_warmup_momentum_scheduler,
    ema_decay,
    quadratic_curve,
    yolox_curve,
)
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.structures import YoloflowError

FIGURES = Path(__file__).parents[1] / "support" / "figures"

YOLOV8 = OptimizerSettings(
    nesterov=True,
    momentum=0.937,
    warmup_epochs=3,
    warmup_momentum=0.8,
    warmup_bias_lr=0.1,
    min_warmup_step=1000,
    group_param="yolov8",
    gp_weight_decay=0.0005,
)
# Of the reference's configurations: what sets the tables of each family apart from YOLOv8's.
FAMILIES: dict[str, dict[str, Any]] = {
    "yolov3": {"group_param": "yolov3", "end_factor": 0.1, "gp_weight_decay": 0.001},
    "yolov4": {
        "group_param": "yolov4",
        "lr_init": 0.012,
        "end_factor": 0.0,
        "warmup_epochs": 20,
        "min_warmup_step": 0,
        "warmup_momentum": None,
    },
    "yolov5": {"group_param": "yolov5", "min_warmup_step": 100},
    "yolov7": {"group_param": "yolov7"},
    "yolov8": {},
    "yolov9": {},
    "yolov10": {"optimizer": "sgd"},
    "yolov11": {"warmup_bias_lr": 0.0},
    "yolox": {
        "group_param": "filter_bias_and_bn",
        "lr_scheduler": "yolox",
        "end_factor": 0.05,
        "warmup_epochs": 5,
        "cooldown_epochs": 5,
        "by_epoch": False,
        "min_warmup_step": 0,
        "warmup_momentum": None,
    },
}


def settings_of(family: str) -> OptimizerSettings:
    common = YOLOV8.model_dump()
    return OptimizerSettings(**(common | FAMILIES[family]))


def run_length(**changes: int) -> RunLength:
    return RunLength(**({"epochs": 30, "steps_per_epoch": 50, "total_batch_size": 32} | changes))


@pytest.fixture(scope="module")
def figures() -> dict[str, np.ndarray]:
    with np.load(FIGURES / "optim_tables.npz") as file:
        return dict(file)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_groups_learning_rate_equals_the_reference(family: str, figures: dict[str, np.ndarray]) -> None:
    settings, length = settings_of(family), run_length()
    tables = create_lr_scheduler(settings, length, variant="mindyolo")
    rows = figures["rows"]
    if family == "yolox":
        for table in tables.values():
            np.testing.assert_allclose(table[rows], figures["yolox/lr_global"], rtol=1e-6, atol=1e-12)
        return
    for index, name in enumerate(settings.strategy.group_names):
        np.testing.assert_allclose(
            tables[name][rows], figures[f"{family}/group{index}/lr"], rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_all_learning_rates_equal_the_reference_in_full(family: str, shared: Path) -> None:
    settings = settings_of(family)
    tables = create_lr_scheduler(settings, run_length(), variant="mindyolo")
    momentum = create_warmup_momentum_scheduler(settings, run_length())
    with np.load(shared / "fixtures/common/param_groups.npz") as file:
        for index, name in enumerate(settings.strategy.group_names):
            expected = file["yolox/lr_global"] if family == "yolox" else file[f"{family}/group{index}/lr"]
            np.testing.assert_allclose(tables[name], expected, rtol=1e-6, atol=1e-12)
        if f"{family}/warmup_momentum" in file:
            expected = file[f"{family}/warmup_momentum"]
            np.testing.assert_allclose(momentum[: len(expected)], expected, rtol=1e-9)


def curves() -> dict[str, np.ndarray]:
    """The reference's curves by name, from our functions."""
    length = RunLength(epochs=10, steps_per_epoch=20, total_batch_size=64)

    def table(group: str = "no_decay", **keys: Any) -> np.ndarray:
        return create_lr_scheduler(OptimizerSettings(**keys), length)[group]

    yolox: dict[str, Any] = {"lr_scheduler": "yolox", "group_param": "filter_bias_and_bn", "end_factor": 0.05}
    warmed: dict[str, Any] = {
        "lr_scheduler": "cosine",
        "group_param": "yolov8",
        "by_epoch": False,
        "warmup_epochs": 3,
        "warmup_bias_lr": 1e-4,
    }
    long = RunLength(epochs=300, steps_per_epoch=5, total_batch_size=64)
    step = np.arange(100.0)
    return {
        "linear_lr": table("all", lr_scheduler="linear"),
        "cosine_decay_lr_by_epoch": table("all", lr_scheduler="cosine"),
        "cosine_decay_lr_by_step": table("all", lr_scheduler="cosine", by_epoch=False),
        "quadratic_lr_by_step": quadratic_curve(step, 100, 1e-4, 0.01),
        "quadratic_lr_by_epoch": quadratic_curve(step // 20 * 20, 100, 1e-4, 0.01),
        "yolox_by_step": table(**yolox, warmup_epochs=2, cooldown_epochs=3),
        "yolox_by_epoch": table(**yolox, warmup_epochs=2, cooldown_epochs=3, by_epoch=True),
        "yolox_default_300ep_spe5": create_lr_scheduler(
            OptimizerSettings(**yolox, warmup_epochs=5, cooldown_epochs=15), long
        )["no_decay"],
        "cosine_linear_warmup": table("bias", **warmed),
        "cosine_linear_warmup_min1000": table(
            "bias", **warmed, min_warmup_step=1000, max_warmup_fraction=1.0
        ),
    }


@pytest.mark.parametrize("name", sorted(curves()))
def test_every_curve_equals_the_reference(name: str, shared: Path) -> None:
    with np.load(shared / "fixtures/common/lr_curves.npz") as file:
        np.testing.assert_allclose(curves()[name], file[name], rtol=1e-6)


def test_momentum_warms_up_and_reaches_its_final_value() -> None:
    momentum = create_warmup_momentum_scheduler(YOLOV8, run_length())
    np.testing.assert_allclose(momentum[:3], [0.8, 0.800137, 0.800274], rtol=1e-12)
    assert momentum[999] < 0.937
    np.testing.assert_array_equal(momentum[1000:], 0.937)


def test_the_mindyolo_variant_stops_momentum_one_update_early() -> None:
    momentum = create_warmup_momentum_scheduler(YOLOV8, run_length(), variant="mindyolo")
    np.testing.assert_allclose(momentum[998:], 0.8 + 0.137 * 998 / 1000, rtol=1e-12)


def test_without_warmup_momentum_it_is_constant() -> None:
    assert set(create_warmup_momentum_scheduler(settings_of("yolox"), run_length())) == {0.937}


def test_accumulation_keeps_the_shape_of_the_schedule() -> None:
    settings = OptimizerSettings(group_param="yolov8", warmup_epochs=3, warmup_bias_lr=0.1, by_epoch=False)
    plain = create_lr_scheduler(settings, run_length())
    accumulated = create_lr_scheduler(settings, run_length(accumulate=5))
    for name, table in accumulated.items():
        assert len(table) == 300
        np.testing.assert_allclose(table, plain[name][::5], rtol=1e-9)


def test_an_update_across_epochs_takes_the_rate_of_its_first_micro_batch() -> None:
    settings = OptimizerSettings(lr_scheduler="linear", end_factor=0.0, lr_init=1.0)
    table = create_lr_scheduler(
        settings, RunLength(epochs=2, steps_per_epoch=3, total_batch_size=1, accumulate=2)
    )["all"]
    np.testing.assert_allclose(table, [1.0, 1.0, 0.5])


def test_the_mindyolo_variant_never_decays_under_accumulation() -> None:
    plain = create_lr_scheduler(YOLOV8, run_length(), variant="mindyolo")
    accumulated = create_lr_scheduler(YOLOV8, run_length(accumulate=5), variant="mindyolo")
    for name, table in accumulated.items():
        np.testing.assert_array_equal(table, plain[name][:300])


def test_a_fraction_bounds_the_warmup_of_small_data_sets() -> None:
    bounded = OptimizerSettings(min_warmup_step=1000, max_warmup_fraction=0.1, group_param="yolov8")
    assert count_warmup_updates(bounded, run_length(steps_per_epoch=19)) == 57
    assert count_warmup_updates(YOLOV8, run_length(steps_per_epoch=19)) == 1000
    table = create_lr_scheduler(bounded, run_length(steps_per_epoch=19))["weight"]
    assert table[0] == 0.0
    np.testing.assert_allclose(table[57], 0.01 - 0.0099 * 3 / 30)


def test_a_warmup_longer_than_the_training_is_named(caplog: pytest.LogCaptureFixture) -> None:
    create_lr_scheduler(YOLOV8, run_length(steps_per_epoch=19))
    assert "warm-up of 1000 updates is longer than the training of 570" in caplog.text
    assert "max_warmup_fraction" in caplog.text


def test_yolox_without_warmup_starts_at_its_peak() -> None:
    curve = yolox_curve(np.arange(10.0), 10.0, warmup=0.0, cooldown=2.0, peak=1.0, end=0.1)
    assert curve[0] == 1.0
    np.testing.assert_array_equal(curve[8:], 0.1)


@pytest.mark.parametrize(("epochs", "final"), [(300, 15), (45, 15), (30, 10), (5, 1), (2, 0)])
def test_yolox_s_last_epochs_at_the_final_rate_are_a_third_of_a_short_training(
    epochs: int, final: int
) -> None:
    settings = settings_of("yolox").model_copy(update={"cooldown_epochs": 15, "warmup_epochs": 0.2})
    length = run_length(epochs=epochs)
    table = create_lr_scheduler(settings, length)["no_decay"]
    # A cosine's last few updates cannot be told from its end.
    assert 50 * final <= np.sum(np.isclose(table, 0.05 * 0.01, rtol=1e-9)) < 50 * final + 10
    assert np.isclose(table.max(), 0.01, rtol=0.01)
    reference = create_lr_scheduler(settings, length, "mindyolo")["no_decay"]
    if epochs < 15:
        np.testing.assert_allclose(reference[10:], 0.05 * 0.01)


def test_the_averages_decay_grows_from_nothing_to_its_limit(shared: Path) -> None:
    with np.load(shared / "fixtures/common/ema.npz") as file:
        ours = [ema_decay(float(x)) for x in file["decay_x"]]
        # The reference's float32 exp is itself off by up to 2.3e-6 in 134 of these 20,001 values.
        np.testing.assert_allclose(ours, file["decay"], rtol=0, atol=3e-6)


def test_only_yolov7s_biases_are_warmed_up_otherwise_in_the_reference() -> None:
    for family in FAMILIES:
        settings, length = settings_of(family), run_length()
        published = create_lr_scheduler(settings, length)
        mindyolo = create_lr_scheduler(settings, length, variant="mindyolo")
        differing = {name for name in published if not np.array_equal(published[name], mindyolo[name])}
        assert differing == ({"bias"} if family == "yolov7" else set())


def test_the_schedule_stays_at_its_last_value_beyond_the_end() -> None:
    schedule = Schedule({"all": np.array([1.0, 0.5])}, np.array([0.8, 0.9]))
    assert schedule.num_updates == 2
    assert schedule.lr(7) == {"all": 0.5}


def test_schedules_are_computed_without_torch() -> None:
    code = "import sys, yoloflow.optim.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"optimizer": "momentun"},
            "optimizer: should be 'momentum', 'nesterov', 'sgd' or 'adamw', not 'momentun'",
        ),
        ({"group_param": "yolo8"}, "group_param: should be .*'yolov8'.*, not 'yolo8'"),
        ({"lr_scheduler": "cosin"}, "lr_scheduler: should be .*'cosine'.*, not 'cosin'"),
        ({"lr_init": 0.0}, "lr_init: should be greater than 0, not 0.0"),
        ({"lr_init": float("nan")}, "lr_init: should be .*, not nan"),
        ({"momentum": 1.0}, "momentum: should be less than 1, not 1.0"),
        ({"max_warmup_fraction": 1.5}, "max_warmup_fraction: should be less than or equal to 1, not 1.5"),
        ({"warmup_epochs": -1}, "warmup_epochs: should be greater than or equal to 0, not -1"),
        ({"group_param": "yolov8", "weight_decay": 0.1}, "set gp_weight_decay instead"),
        ({"gp_weight_decay": 0.1}, "needs group_param"),
        ({"momentum": 0.0, "nesterov": True}, "Nesterov needs a momentum above 0"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        OptimizerSettings(**keys)


def test_a_training_without_one_update_is_refused() -> None:
    with pytest.raises(YoloflowError, match="accumulate=8: the training has only 4 micro-batches"):
        RunLength(epochs=2, steps_per_epoch=2, total_batch_size=1, accumulate=8)
