"""A setting lives once: in the section of its room, which Config composes."""

import re
from collections.abc import Iterator

import pytest
from pydantic import Field

from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.config.validation import describe_keys
from yoloflow.flow import train
from yoloflow.losses.settings import LossSettings
from yoloflow.optim.settings import OptimizerSettings
from yoloflow.settings import Section
from yoloflow.structures import YoloflowError
from yoloflow.train_step.settings import StepSettings
from yoloflow.trainer.settings import TrainerSettings


class Inner(Section):
    """A section inside another."""

    number: int = Field(1, ge=0, description="a number")


class Outer(Section):
    """A section with another one."""

    inner: Inner = Field(default_factory=Inner, description="a section")
    inners: list[Inner] = Field(default_factory=list, description="several")


def sections(model: type[Section]) -> Iterator[type[Section]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from sections(field.annotation)


def test_every_key_is_declared_in_one_section() -> None:
    for model in sections(Config):
        for key in model.model_fields:
            homes = [
                base.__name__ for base in model.__mro__ if key in base.__dict__.get("__annotations__", {})
            ]
            assert len(homes) == 1, f"{key} is declared in {homes}"


def test_a_config_is_the_section_that_each_room_takes() -> None:
    config = load_config("yolov8n", ["clip_grad=true", "save_steps=7"])
    step: StepSettings = config
    trainer: TrainerSettings = config
    assert (step.clip_grad, trainer.save_steps) == (True, 7)


def test_the_keys_of_a_run_begin_with_its_place_and_end_with_the_nested_sections() -> None:
    keys = [dotted for dotted, *_ in describe_keys()]
    assert keys[:4] == ["recipe", "save_dir", "name", "resume"]
    assert list(Config.model_fields)[-4:] == ["data", "network", "loss", "optimizer"]
    assert keys.index("epochs") < keys.index("weight") < keys.index("accumulate") < keys.index("run_eval")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepSettings(accumulate=0), "accumulate: should be greater than or equal to 1, not 0"),
        (
            lambda: StepSettings(jit="yes"),  # type: ignore[arg-type]
            "jit: should be a valid boolean, not 'yes'; or: should be 'auto' or 'norm', not 'yes'",
        ),
        (lambda: StepSettings(jitt=True), "jitt: unknown key"),  # type: ignore[call-arg]
        (lambda: LossSettings(), "name: is required"),  # type: ignore[call-arg]
        (
            lambda: Outer(inner={"number": -1}),  # type: ignore[arg-type]
            "inner.number: should be greater than or equal to 0, not -1",
        ),
        (
            lambda: Outer(inners=[{"number": "x"}, 3]),  # type: ignore[list-item]
            "inners.0.number: should be a valid integer, not 'x'\n"
            "inners.1: should be a section with keys, not 3",
        ),
        (
            lambda: OptimizerSettings(momentum=0.0, nesterov=True),
            "momentum: Nesterov needs a momentum above 0; set it or nesterov=false",
        ),
    ],
)
def test_bad_values_in_python_are_refused_by_key(make: object, message: str) -> None:
    with pytest.raises(YoloflowError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == message


def test_a_section_made_in_python_equals_one_that_is_read() -> None:
    read = load_config("yolov8n").optimizer
    assert OptimizerSettings(**read.model_dump()) == read


@pytest.mark.parametrize("overrides", ["epochs=1", {"epochs": 1}])
def test_overrides_that_are_no_list_are_told_what_to_write(overrides: object) -> None:
    with pytest.raises(YoloflowError, match="overrides=.*: should be a list of texts, such as"):
        load_config("yolov8n", overrides)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", [None, 3, ["yolov8n"]])
def test_what_is_no_recipe_is_told_what_is_expected(recipe: object) -> None:
    with pytest.raises(YoloflowError, match="a recipe's name, a YAML file or a run folder is expected"):
        load_config(recipe)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "shown"), [("yolov8n", "'yolov8n'"), (None, "RECIPE"), ({}, "RECIPE")])
def test_train_without_settings_says_how_they_are_made(given: object, shown: str) -> None:
    with pytest.raises(YoloflowError, match=re.escape(f"write train(load_config({shown}))")):
        train(given)  # type: ignore[arg-type]


def test_a_pattern_that_begins_with_a_star_is_taken_as_it_stands() -> None:
    assert load_config("yolov8n", ["data.train_set=*.jpg"]).data.train_set == "*.jpg"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("data.multi_scale", "list of numbers or null, or a list of these"),
        ("data.train_img_size", "integer or null, or a list of these"),
        ("data.sampler", "uniform or class_aware or repeat_factor or image_weights, or a list of these"),
        ("network.anchors", "list of lists of numbers or null"),
        ("data.train_transforms", "list of mappings or mapping"),
        ("amp_dtype", "float16 or bfloat16 or null"),
    ],
)
def test_the_help_says_types_in_plain_words(key: str, said: str) -> None:
    assert {name: kind for name, kind, *_ in describe_keys()}[key] == said
