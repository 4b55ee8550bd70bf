"""The profile of a training: its table, its figures, its advice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.toy_training import toy_step
from yoloflow.callbacks import RunContext
from yoloflow.callbacks.profile_table import StepProfile, advice, table
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.flow import train
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.ranks import Ranks

PROFILE = StepProfile(
    parts={"forward": 0.3, "loss": 0.1, "backward": 0.5, "update": 0.08, "EMA": 0.02},
    rows={f"p{number} C2f": 0.01 * number for number in range(1, 12)},
    convolutions=0.8,
    images=16,
    is_device_time=False,
)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    cache = tmp_path_factory.mktemp("scenes")
    scenes = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
    return [
        f"data.train_set={digits_dataset('train', scenes, cache)}",
        f"data.val_set={digits_dataset('val', scenes, cache)}",
        *("img_size=64", "per_batch_size=8", "network.width_multiple=0.125", "epochs=2"),
        *("data.num_parallel_workers=0", "profiler=true", "report=false"),
    ]


def profile_of(overrides: list[str], folder: Path, *more: str) -> tuple[str, dict[str, object]]:
    train(load_config("quickstart", [*overrides, f"save_dir={folder}", "name=run", *more]))
    profile = folder / "run" / "profile"
    assert sorted(path.name for path in profile.iterdir()) == [
        "operators.txt",
        "profile.json",
        "profile.txt",
        "trace.json",
    ]
    return (profile / "profile.txt").read_text(), json.loads((profile / "profile.json").read_text())


@pytest.mark.training
def test_a_profile_says_where_the_steps_and_the_training_went(overrides: list[str], tmp_path: Path) -> None:
    text, figures = profile_of(overrides, tmp_path)
    step = figures["step"]
    assert isinstance(step, dict)
    assert list(step["milliseconds"]) == ["forward", "loss", "backward", "update", "EMA"]
    assert all(milliseconds > 0 for milliseconds in step["milliseconds"].values())
    assert 0 < sum(step["rows"].values()) <= step["milliseconds"]["forward"]
    assert "head YOLOv8Head" in step["rows"]
    assert 0 < step["convolutions"] < sum(step["milliseconds"].values())
    seconds = figures["seconds"]
    assert isinstance(seconds, dict)
    assert {"preparation", "wait for data", "steps", "callbacks", "evaluation", "states"} <= set(seconds)
    assert "to change: " in text


@pytest.mark.training
def test_rows_computed_again_in_the_backward_pass_count_once(overrides: list[str], tmp_path: Path) -> None:
    _, figures = profile_of(overrides, tmp_path, "recompute=true", "recompute_layers=8")
    step = figures["step"]
    assert isinstance(step, dict)
    assert sum(step["rows"].values()) <= step["milliseconds"]["forward"]


@pytest.mark.full
@pytest.mark.compile
def test_compiled_code_has_no_rows_of_its_own(overrides: list[str], tmp_path: Path) -> None:
    text, figures = profile_of(overrides, tmp_path, "jit=true", "jit_backend=eager", "run_eval=false")
    step = figures["step"]
    assert isinstance(step, dict)
    assert "forward and loss, compiled" in text
    assert step["rows"] == {}


def test_the_table_names_the_largest_rows_and_sums_the_others() -> None:
    lines = list(table(PROFILE, {"steps": 9.0, "evaluation": 1.0}, steps=10))
    assert lines[2] == f"{'  p11 C2f':40} {110.0:10.1f} {0.11:6.0%}"
    assert lines[10] == f"{'  the 3 other rows':40} {60.0:10.1f} {0.06:6.0%}"
    assert lines[-2:] == [f"{'steps':40} {9.0:10.1f} {0.9:6.0%}", f"{'evaluation':40} {1.0:10.1f} {0.1:6.0%}"]
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(
    ("profile", "spent", "said"),
    [
        (PROFILE, {"steps": 80.0, "wait for data": 20.0}, "data.cache=ram"),
        (PROFILE, {"steps": 50.0, "evaluation": 50.0}, "run_eval_interval"),
        (PROFILE, {"steps": 90.0, "states": 10.0}, "save_steps"),
        (replace(PROFILE, is_device_time=True), {"steps": 1.0}, "amp_level"),
        (replace(PROFILE, convolutions=0.4), {"steps": 1.0}, "60% of the step are no convolutions"),
        (replace(PROFILE, parts={**PROFILE.parts, "loss": 0.6}), {"steps": 1.0}, "the loss takes"),
    ],
)
def test_the_advice_names_the_setting(
    profile: StepProfile, spent: dict[str, float], said: str, tmp_path: Path
) -> None:
    context = RunContext(RunFolder(tmp_path, False), Ranks(), toy_step(), None, ["a"], ["loss"])
    assert any(said in line for line in advice(profile, spent, context))
