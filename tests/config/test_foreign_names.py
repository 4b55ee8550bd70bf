"""Names and values of other trainers lead to ours."""

import pytest

from yoloflow.config.foreign_names import ADVICE, SETTINGS, VALUES, hint_for_key
from yoloflow.config.reader import load_config
from yoloflow.config.validation import describe_keys
from yoloflow.structures import YoloflowError

OURS = {dotted for dotted, *_ in describe_keys()} | {"loss.box", "loss.cls", "loss.dfl", "loss.obj"}


def refusal(*overrides: str, recipe: str = "yolov8n") -> str:
    with pytest.raises(YoloflowError) as caught:
        load_config(recipe, overrides)
    return str(caught.value)


def test_the_table_names_settings_that_there_are() -> None:
    assert set(SETTINGS.values()) <= OURS
    top_level = {key for key in OURS if "." not in key}
    assert (set(SETTINGS) | set(ADVICE)) & top_level <= {"recipe"}
    for text in VALUES.values():
        assert text.split("=")[0] in OURS


@pytest.mark.parametrize(
    "text", [text for text in VALUES.values() if text.split("=")[1].split(",")[0] != "NAME"]
)
def test_the_values_it_gives_are_taken(text: str) -> None:
    load_config("yolov8n", [text])


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("lr0=0.02", "lr0: unknown key; here it is optimizer.lr_init=0.02"),
        ("workers=2", "workers: unknown key; here it is data.num_parallel_workers=2"),
        ("batch=16", "batch: unknown key; here it is per_batch_size=16"),
        ("imgsz=320", "imgsz: unknown key; here it is img_size=320"),
        ("conf=0.5", "conf: unknown key; here it is conf_thres=0.5"),
        ("project=out", "project: unknown key; here it is save_dir=out"),
        ("model=yolov8n.pt", "model: unknown key; the recipe is the first argument, without a key"),
        ("resume=true", "resume: should be 'never' or 'auto', not True; write resume=auto"),
        ("cache=true", "cache: unknown key; here it is data.cache=ram"),
        ("data.cache=false", "write data.cache=none"),
        ("noval=true", "noval: unknown key; here it is run_eval=false"),
        ("optimizer=AdamW", "write optimizer.optimizer=adamw"),
        ("optimizer.lr0=0.3", "optimizer.lr0: unknown key; here it is optimizer.lr_init=0.3"),
        ("Batch-Size=3", "Batch-Size: unknown key; here it is per_batch_size=3"),
        (
            "device=-1",
            "device: -1 is the CPU to some and a free GPU to others; write device=cpu or device=auto",
        ),
        ("device=0,1", "torchrun --nproc-per-node 2"),
        ("device=[0, 1, 3]", "CUDA_VISIBLE_DEVICES=0,1,3"),
        ("device=GPU", "write device=cuda"),
        ("img_size=[640, 480]", "one number is expected"),
        ("img_size=480,640", "write img_size=640"),
        ("img_size=(320x640)", "write img_size=640"),
    ],
)
def test_a_message_says_what_to_write(override: str, advice: str) -> None:
    assert advice in refusal(override)


def test_the_recipe_comes_first_and_has_no_key() -> None:
    assert "a recipe without a key: yolov8n weight=yolov8n.pt" in refusal(recipe="model=yolov8n.pt")
    assert "such as yolov8n data=pets.yaml" in refusal(recipe="data=pets.yaml")


def test_what_nobody_knows_has_no_hint() -> None:
    assert hint_for_key("flux_capacitor", 1) is None
