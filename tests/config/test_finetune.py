"""Finetuning: its settings lie over a recipe, beneath what the user wrote; a run stays what it began as."""

from pathlib import Path

import pytest

from yoloflow.config.finetune import describe_finetune
from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.recipes import RECIPES_FOLDER, list_recipes
from yoloflow.config.schema import Config
from yoloflow.structures import YoloflowError

START = "weight=start.safetensors"
RATE = 0.002


def rate(recipe: str | Path, *overrides: str) -> float:
    return load_config(recipe, overrides).optimizer.lr_init


def test_weights_to_start_from_bring_the_settings_of_the_finetuning() -> None:
    config, plain = load_config("yolov9t", [START]), load_config("yolov9t")
    assert (config.epochs, config.optimizer.lr_init, config.optimizer.warmup_bias_lr) == (50, RATE, 0.0)
    assert (plain.epochs, plain.optimizer.lr_init, plain.optimizer.warmup_bias_lr) == (500, 0.01, 0.1)
    assert config.network.backbone == plain.network.backbone
    assert load_config("yolov9t", [START, "finetune=false"]).model_copy(
        update={"weight": None, "finetune": "auto"}
    ) == load_config("yolov9t")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 0.01),
        (["finetune=auto"], 0.01),
        ([START], RATE),
        ([START, "finetune=true"], RATE),
        ([START, "finetune=false"], 0.01),
        (["weight=published"], RATE),
        ([START, "weight=null"], 0.01),
        (["ema_weight=average.safetensors"], 0.01),
        ([START, "optimizer.lr_init=0.01"], 0.01),
        (["optimizer.lr_init=0.03", START], 0.03),
    ],
)
def test_when_it_finetunes(overrides: list[str], expected: float) -> None:
    assert rate("yolov9t", *overrides) == expected


def test_finetuning_without_weights_is_refused() -> None:
    with pytest.raises(
        YoloflowError, match=r"finetune=true: finetune: true needs the weights .* add weight=FILE"
    ):
        load_config("yolov9t", ["finetune=true"])


def test_what_a_file_of_the_user_says_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("__BASE__: yolov9t\nepochs: 7\noptimizer: {lr_init: 0.004}\nweight: start.safetensors\n")
    config = load_config(mine)
    assert (config.epochs, config.optimizer.lr_init) == (7, 0.004)
    assert config.optimizer.max_warmup_fraction == 0.1


def test_an_override_within_a_list_keeps_the_list() -> None:
    assert load_config("yolox-nano", [START]).callback == []
    (row,) = load_config("yolox-nano", [START, "callback.0.isolated_epochs=3"]).callback
    assert row.model_dump()["isolated_epochs"] == 3


def test_a_batch_is_at_most_that_of_the_finetuning() -> None:
    assert load_config("yolov11n", [START]).per_batch_size == 16
    assert load_config("yolox-nano", [START]).per_batch_size == 8
    assert load_config("yolov11n", [START, "per_batch_size=64"]).per_batch_size == 64


@pytest.mark.parametrize(
    "name", [recipe.name for recipe in list_recipes() if recipe.name.endswith("-finetune")]
)
def test_a_finetune_recipe_is_its_recipe_from_published_weights(name: str) -> None:
    assert load_config(name) == load_config(
        name.removesuffix("-finetune"), ["weight=published", f"recipe={name}"]
    )


def test_the_dump_of_a_finetuning_is_read_back_as_it_is(tmp_path: Path) -> None:
    config = load_config("yolov9t", [START, "epochs=9", "optimizer.warmup_bias_lr=0.05"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path) == config


def begin(folder: Path, config: Config) -> list[str]:
    """Writes what a run begun with these settings has of them; returns the overrides that resume it."""
    (folder / "pets").mkdir()
    (folder / "pets" / "config.yaml").write_text(dump_config(config))
    return [f"save_dir={folder}", "name=pets", "resume=auto"]


def test_a_run_from_random_weights_goes_on_as_it_began(tmp_path: Path) -> None:
    resume = begin(tmp_path, load_config("yolov9t"))
    assert rate("yolov9t", *resume, START) == 0.01
    assert rate("yolov9t", *resume, START, "finetune=true") == RATE


def test_a_finetuning_goes_on_as_it_began(tmp_path: Path) -> None:
    resume = begin(tmp_path, load_config("yolov9t", [START]))
    assert rate("yolov9t", *resume) == rate("yolov9t", *resume, START) == RATE
    assert load_config("yolov9t", [*resume, START]).model_copy(
        update={"save_dir": "runs", "name": None, "resume": "never"}
    ) == load_config("yolov9t", [START])


def test_a_finetuning_that_goes_on_twice_without_its_weights_stays_one(tmp_path: Path) -> None:
    resume = begin(tmp_path, load_config("yolov9t", [START]))
    second = load_config("yolov9t", [*resume, "epochs=60"])
    assert second.weight == "start.safetensors"
    (tmp_path / "pets" / "config.yaml").write_text(dump_config(second))
    assert rate("yolov9t", *resume, "epochs=70") == RATE


def test_a_run_of_before_the_setting_did_not_finetune(tmp_path: Path) -> None:
    resume = begin(tmp_path, load_config("yolov9t", [START, "finetune=false"]))
    config = tmp_path / "pets" / "config.yaml"
    config.write_text(config.read_text().replace("finetune: false\n", ""))
    assert rate("yolov9t", *resume, START) == 0.01


def test_a_run_that_does_not_exist_yet_may_be_asked_to_go_on(tmp_path: Path) -> None:
    assert rate("yolov9t", f"save_dir={tmp_path}", "resume=auto", START) == RATE


def test_a_wrong_value_is_named_as_without_finetuning(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    for text in ("network: 5", "optimizer: 5", "network: {model_name: [a]}", "name: 5\nresume: auto"):
        mine.write_text(f"weight: start.safetensors\n{text}\n")
        with pytest.raises(YoloflowError):
            load_config(mine)


def test_the_line_says_what_is_taken_what_is_not_and_how_to_switch_it_off() -> None:
    (line,) = describe_finetune(load_config("yolov9t", [START, "epochs=9"]))
    assert line.startswith("finetuning with recipes/finetune.yaml: per_batch_size=16, ")
    assert f"optimizer.lr_init={RATE}" in line
    assert "; kept: epochs=9 (finetune=false keeps the recipe's own)" in line
    assert describe_finetune(load_config("yolov9t")) == []
    assert describe_finetune(load_config("yolov9t", [START, "finetune=false"])) == []


def test_the_plan_shows_each_setting_beside_the_recipe_s() -> None:
    overrides = [START, "optimizer.lr_init=0.005"]
    lines = describe_finetune(
        load_config("yolov9t", overrides),
        load_config("yolov9t", [*overrides, "finetune=false"]),
        as_list=True,
    )
    assert "  epochs                         50 (without: 500)" in lines
    assert any("0.005 (without: 0.005; not 0.002, which" in line for line in lines)


def test_settings_that_a_finetuning_leaves_as_they_are_go_without_saying() -> None:
    config, plain = load_config("yolox-nano", [START]), load_config("yolox-nano")
    assert config.optimizer.warmup_bias_lr == plain.optimizer.warmup_bias_lr
    for as_list in (False, True):
        text = "\n".join(describe_finetune(config, plain, as_list=as_list))
        assert "warmup_bias_lr" not in text
        assert "optimizer.lr_init" in text
    assert "warmup_bias_lr" in describe_finetune(config)[0]


def test_the_settings_of_a_run_count_as_the_user_s_own(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(load_config("yolov9t", ["per_batch_size=8"])))
    config = load_config(tmp_path, [START])
    assert config.optimizer.lr_init == 0.01
    (line,) = describe_finetune(config)
    assert line.startswith("finetuning with recipes/finetune.yaml: nothing of it; kept: epochs=500, ")


def test_every_block_holds_settings_that_exist() -> None:
    for path in (RECIPES_FOLDER / "finetune.yaml", *RECIPES_FOLDER.glob("*/finetune.yaml")):
        family = "yolov8" if path.parent == RECIPES_FOLDER else path.parent.name
        name = next(recipe.name for recipe in list_recipes() if recipe.family == family)
        (line, *_) = describe_finetune(load_config(name, [START]))
        assert "kept" not in line or family == "yolox"


@pytest.mark.parametrize("recipe", ["yolov8n", "yolov8x-seg", "yolov11n"])
def test_families_whose_first_gradients_are_large_are_limited_and_keep_their_rate(recipe: str) -> None:
    config = load_config(recipe, [START])
    assert (config.clip_grad, config.clip_grad_value) == (True, 30)
    assert (config.optimizer.lr_init, config.optimizer.max_warmup_fraction) == (0.01, 0.3)
    assert (config.epochs, config.optimizer.warmup_bias_lr) == (50, 0)
