"""Reading recipes: layering, overrides, and a clear message with its place for every mistake."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from yoloflow.config.document import read_value, read_yaml, write_yaml
from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.recipes import find_recipe, list_recipes
from yoloflow.config.schema import Config
from yoloflow.settings import Section
from yoloflow.structures import YoloflowError

RECIPES = [recipe.name for recipe in list_recipes()]


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def complaint(recipe: str | Path, *overrides: str) -> str:
    with pytest.raises(YoloflowError) as caught:
        load_config(recipe, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "override", ["img_size=100", "data.train_img_size=100", "data.train_img_size=[64,100]"]
)
def test_an_image_size_without_whole_cells_is_refused(override: str) -> None:
    message = complaint("yolov8n", "epochs=2", override, "name=first", "data.nc=2")
    assert (
        message == f"override {override}: {override.split('=')[0]}: 100 must be a multiple of 32, such as 128"
    )


def test_a_data_set_file_in_the_place_of_a_recipe_is_told_where_it_belongs(tmp_path: Path) -> None:
    path = write(tmp_path, "path: .\ntrain: images/train\nval: images/val\nnames: [cat]\n", "data.yaml")
    assert f"{path}: describes a data set, not how to train; give it after a recipe" in complaint(path)


def test_a_part_of_a_key_s_name_leads_to_the_key() -> None:
    assert "lr: unknown key; did you mean optimizer.lr_init or " in complaint("yolov8n", "lr=0.1")
    assert "did you mean optimizer.warmup_epochs or " in complaint("yolov8n", "warmup=3")


def test_the_largest_stride_of_the_network_counts() -> None:
    assert "must be a multiple of 64, such as 1280" in complaint("yolov7-w6", "img_size=1248")


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_its_dump_loads_as_the_same_config(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.recipe == name
    assert config.variant == ("mindyolo" if name.endswith("-mindyolo") else "published")
    dumped = dump_config(config)
    again = load_config(write(tmp_path, dumped, "config.yaml"))
    assert again == config
    assert dump_config(again) == dumped


@pytest.mark.parametrize("name", RECIPES)
def test_another_yaml_program_reads_a_dump_as_the_same_values(name: str) -> None:
    config = load_config(name)
    assert yaml.safe_load(dump_config(config)) == config.model_dump()


def test_there_are_all_sizes_and_the_quick_start() -> None:
    assert set(RECIPES) >= {"quickstart", "yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"}
    assert {recipe.family for recipe in list_recipes()} >= {"", "yolov8"}
    assert all(recipe.summary for recipe in list_recipes())
    widest = max(len(name) for name in RECIPES)
    assert [recipe.name for recipe in list_recipes() if widest + 2 + len(recipe.summary) > 80] == []
    assert len(set(RECIPES)) == len(RECIPES)


@pytest.mark.parametrize(
    ("size", "depth", "width", "channels", "scale", "copy_paste", "mixup"),
    [
        ("n", 0.33, 0.25, 1024, 0.5, None, None),
        ("s", 0.33, 0.5, 1024, 0.5, None, None),
        ("m", 0.67, 0.75, 768, 0.9, 0.1, 0.1),
        ("l", 1.0, 1.0, 512, 0.9, 0.3, 0.15),
        ("x", 1.0, 1.25, 512, 0.9, 0.3, 0.15),
    ],
)
def test_yolov8_is_trained_as_published(
    size: str,
    depth: float,
    width: float,
    channels: int,
    scale: float,
    copy_paste: float | None,
    mixup: float | None,
) -> None:
    config = load_config(f"yolov8{size}")
    network = config.network
    assert (network.depth_multiple, network.width_multiple, network.max_channels) == (depth, width, channels)
    assert (config.epochs, config.img_size, config.per_batch_size, config.sync_bn) == (500, 640, 16, True)
    assert (config.iou_thres, config.overflow_still_update) == (0.7, False)
    assert config.loss.hyper_parameters == {"box": 7.5, "cls": 0.5, "dfl": 1.5, "reg_max": 16}
    optimizer = config.optimizer
    assert (optimizer.optimizer, optimizer.momentum, optimizer.nesterov) == ("momentum", 0.937, True)
    assert (optimizer.lr_init, optimizer.start_factor, optimizer.end_factor) == (0.01, 1.0, 0.01)
    assert (optimizer.warmup_epochs, optimizer.min_warmup_step, optimizer.max_warmup_fraction) == (
        3,
        1000,
        None,
    )
    assert (optimizer.warmup_bias_lr, optimizer.warmup_momentum) == (0.1, 0.8)
    assert (optimizer.group_param, optimizer.gp_weight_decay) == ("yolov8", 0.0005)
    assert config.data.stage_epochs == [490, 10]
    first, last = config.data.trans_list
    by_name = {row["func_name"]: row for row in first}
    assert by_name["random_perspective"]["scale"] == scale
    assert by_name.get("copy_paste", {}).get("prob") == copy_paste
    assert by_name.get("mixup", {}).get("prob") == mixup
    assert {row["func_name"] for row in last}.isdisjoint({"mosaic", "mixup", "copy_paste"})


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    assert complaint("yolov8nn").startswith("yolov8nn: unknown recipe; did you mean yolov8n")
    words = "no/such/file.yaml: there is no such file; there is no folder no/such either"
    assert complaint("no/such/file.yaml") == words


def test_a_run_folder_stands_for_its_config(tmp_path: Path) -> None:
    path = write(tmp_path, dump_config(load_config("yolov8n", ["seed=5"])), "config.yaml")
    assert find_recipe(tmp_path) == path
    assert load_config(tmp_path).seed == 5
    assert load_config(tmp_path).recipe == "yolov8n"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "a folder without config.yaml" in complaint(empty)


# Layers of files


def test_later_bases_and_the_file_itself_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "epochs: 1\nseed: 1\nnames: {a: 1, b: 1, list: [1, 2, 3]}\n", "a.yaml")
    write(tmp_path / "sub", "__BASE__: ../a.yaml\nseed: 2\nnames: {b: 2}\n", "b.yaml")
    write(tmp_path, "names: {c: 3, list: [9]}\n", "c.yaml")
    path = write(tmp_path, "__BASE__: [sub/b.yaml, c.yaml]\nepochs: 4\n")
    from yoloflow.config.reader import read_with_bases

    assert read_with_bases(path).plain() == {
        "epochs": 4,
        "seed": 2,
        "names": {"a": 1, "b": 2, "c": 3, "list": [9]},
    }


def test_a_circle_of_bases_is_shown(tmp_path: Path) -> None:
    first = write(tmp_path, "__BASE__: b.yaml\n", "a.yaml")
    second = write(tmp_path, "__BASE__: [a.yaml]\n", "b.yaml")
    assert complaint(first) == f"__BASE__ goes in a circle: {first} -> {second} -> {first}"


def test_one_base_may_be_reached_on_two_ways(tmp_path: Path) -> None:
    recipe = find_recipe("yolov8n")
    write(tmp_path, f"__BASE__: {recipe}\nseed: 1\n", "a.yaml")
    write(tmp_path, f"__BASE__: {recipe}\nepochs: 7\n", "b.yaml")
    config = load_config(write(tmp_path, "__BASE__: [a.yaml, b.yaml]\n"))
    assert (config.seed, config.epochs) == (1, 7)


@pytest.mark.parametrize(
    ("base", "words"),
    [("nowhere.yaml", "__BASE__ names"), ("3", "__BASE__ takes a path"), ("{a: b}", "__BASE__ takes a path")],
)
def test_a_base_that_is_no_file_is_refused_with_its_line(base: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"seed: 1\n__BASE__: {base}\n")
    assert complaint(path).startswith(f"{path}:2: {words}")


def test_a_base_may_be_a_recipe_s_name_and_a_file_beside_comes_first(tmp_path: Path) -> None:
    mine = write(tmp_path, "__BASE__: yolov8n\nseed: 3\n", "mine.yaml")
    assert load_config(mine).loss.name == "YOLOv8Loss"
    assert "as a recipe: did you mean yolov8n" in complaint(
        write(tmp_path, "__BASE__: yolov8nn\n", "other.yaml")
    )


# Mistakes in a file


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("epoch: 3", 3, "epoch: unknown key; did you mean epochs?"),
        ("data:\n  trian_set: x", 4, "data.trian_set: unknown key; did you mean train_set or val_set"),
        ("lr_init: 0.1", 3, "lr_init: unknown key here; did you mean optimizer.lr_init?"),
        ("epochs: many", 3, "epochs: should be a valid integer, not 'many'"),
        ("epochs: 1.5", 3, "epochs: should be a valid integer, not 1.5"),
        ("epochs: true", 3, "epochs: should be a valid integer, not True"),
        ("epochs:", 3, "epochs: should be a valid integer, not null"),
        ("epochs: 0", 3, "epochs: should be greater than or equal to 1, not 0"),
        ("ema: 1", 3, "ema: should be a valid boolean, not 1"),
        ("amp_level: O5", 3, "amp_level: should be 'auto', 'O0', 'O1', 'O2' or 'O3', not 'O5'"),
        ("optimizer:\n  lr_init: .nan", 4, "optimizer.lr_init: should be"),
        ("optimizer: 3", 3, "optimizer: should be a section with keys, not 3"),
        ("data:\n  nc: 2\n  names: [a]", 4, "data.nc: is 2 but 1 names are given"),
        ("data:\n  train_transforms: {stage_epochs: [1]}", 4, "data.train_transforms.stage_epochs: names 1"),
        (
            "data:\n  train_transforms:\n    - {func_name: mosiac}",
            5,
            "data.train_transforms[0] (mosiac): unknown",
        ),
        ("loss:\n  boxx: 3", 4, "loss.boxx: YOLOv8Loss has no such hyper-parameter; did you mean box?"),
        ("loss:\n  name: YOLOv8Los", 4, "loss.name: unknown loss YOLOv8Los; did you mean YOLOv8Loss"),
        ("loss:\n  box: {a: 1}", 4, "loss.box: should be a plain value, not a section"),
        ("callback:\n  - {nam: x}", 4, "callback.0.name: is required"),
        ("callback:\n  - {name: EvalWhileTran}", 4, "callback[0].name: unknown callback"),
        ("optimizer:\n  weight_decay: 0.1", 4, "optimizer.weight_decay: not used with group_param=yolov8"),
        ("data:\n  problems: ignore", 4, 'data.problems: must be "repair", "error", or actions by kind'),
        ("data:\n  problems:\n    box-nam: error", 5, "data.problems.box-nam: no such kind of problem; did"),
        ("data:\n  problems:\n    box-nan: keep", 5, "data.problems.box-nan: can be drop-box or drop-image"),
        ("data:\n  sampler: [uniform]", 4, "data.sampler: has 1 values, but there are 2 stages"),
        ("seed: 1\nseed: 2", 4, "duplicate key seed, first at"),
        ("data: {nc: 1, nc: 2}", 3, "duplicate key nc"),
        ("seed: !!python/object:os.system x", 3, "unknown YAML tag"),
        ("seed: !mine 3", 3, "unknown YAML tag !mine"),
        ("seed: [1", 4, "not valid YAML"),
        ("seed: 1\n\tepochs: 2", 4, "not valid YAML"),
        ("a: &a {seed: 1}\n<<: *a", 4, "merge keys"),
        ("? [a, b]\n: 3", 3, "a key must be a word"),
        ("callback: &me [*me]", 3, "this value contains itself"),
        ("seed: !!int x", 3, "'x' is no int"),
        ("data: nowhere.yaml", 3, "data: nowhere.yaml: there is no such file; did you mean mine.yaml?"),
        ("data: mine.yml", 3, "data: mine.yml: there is no such file; did you mean mine.yaml?"),
        ("data: .", 3, "data: .: there is no such file"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_file_and_line(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, f"__BASE__: {find_recipe('yolov8n')}\n# a comment\n{text}\n")
    assert complaint(path).startswith(f"{path}:{line}: {words}")


def test_a_mistake_in_a_base_is_told_with_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, f"__BASE__: {find_recipe('yolov8n')}\nepochs: x\n", "base.yaml")
    assert complaint(write(tmp_path, "__BASE__: base.yaml\nseed: 1\n")).startswith(f"{base}:2: epochs:")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, f"__BASE__: {find_recipe('yolov8n')}\nepochs: x\nsede: 1\n")
    assert sorted(complaint(path).splitlines()) == [
        f"{path}:2: epochs: should be a valid integer, not 'x'",
        f"{path}:3: sede: unknown key; did you mean seed or save_dir?",
    ]


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n"])
def test_an_empty_file_lacks_the_network(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert complaint(path).splitlines() == [f"{path}: network: is required", f"{path}: loss: is required"]


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"seed: \x00"])
def test_a_file_that_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path}")


def test_a_list_is_no_config(tmp_path: Path) -> None:
    path = write(tmp_path, "- 1\n- 2\n")
    assert complaint(path) == f"{path}: holds a single value or a list, not `key: value` lines"


@pytest.mark.fuzz
def test_aliases_cannot_blow_up_and_depth_cannot_crash(tmp_path: Path) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    assert "more than 100000 values" in complaint(write(tmp_path, laughs))
    assert "nested too deeply" in complaint(write(tmp_path, "a: " + "[" * 5000 + "]" * 5000))


def test_only_the_first_document_counts_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "seed: 1\n---\nseed: 2\n")
    assert read_yaml(path).plain() == {"seed": 1}
    assert "only the first of its 2 YAML documents is read" in caplog.text


# Words and numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-7", -7),
        ("007", "007"),
        ("1:30", "1:30"),
        ("on", "on"),
        ("no", "no"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("", None),
        ("~", None),
        ("null", None),
        ("'null'", "null"),
        ("True", True),
        ("[1, a, {b: c}]", [1, "a", {"b": "c"}]),
        ("-.inf", float("-inf")),
    ],
)
def test_plain_words_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    read = read_value(text, "here").plain()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "value", ["1e-3", "on", "007", "1:30", "null", "", "~", "é", "a: b", "- x", "None", "#", "1_0"]
)
def test_a_word_stays_a_word_through_a_dump(value: str, tmp_path: Path) -> None:
    text = write_yaml({"key": value, "list": [value], "row": [{"key": value}]})
    expected = {"key": value, "list": [value], "row": [{"key": value}]}
    assert read_yaml(write(tmp_path, text)).plain() == expected
    assert yaml.safe_load(text) == expected


@pytest.mark.parametrize("value", [1e-7, 0.1, 1e22, 3.0, float("inf"), -2.5e-300])
def test_a_number_keeps_its_bits_through_a_dump(value: float, tmp_path: Path) -> None:
    read = read_yaml(write(tmp_path, write_yaml({"key": value}))).plain()["key"]
    assert read == value
    assert isinstance(read, float)


# Overrides


def test_overrides_reach_every_depth_and_the_last_one_wins() -> None:
    config = load_config(
        "yolov8n",
        [
            "optimizer.lr_init=1e-3",
            "epochs=3",
            "epochs=4",
            "name=7",
            "device=cuda:0",
            "data.train_set=[a.txt, b.txt]",
            "data.names=[cat, 1]",
            "data.train_transforms.trans_list.0.1.scale=0.25",
            "network.backbone.0.4.0=32",
            "loss.box=5",
            "data.val_set=",
        ],
    )
    assert (config.optimizer.lr_init, config.epochs, config.name, config.device) == (0.001, 4, "7", "cuda:0")
    assert (config.data.train_set, config.data.names, config.data.val_set) == (
        ["a.txt", "b.txt"],
        ["cat", "1"],
        None,
    )
    assert config.data.trans_list[0][1]["scale"] == 0.25
    assert config.network.backbone[0][4] == [32, 3, 2]
    assert config.loss.hyper_parameters["box"] == 5
    assert config.loss.hyper_parameters["cls"] == 0.5


def test_transforms_are_replaced_as_a_whole() -> None:
    config = load_config("yolov8n", ["data.train_transforms=[{func_name: fliplr, prob: 0.5}]"])
    assert config.data.stage_epochs is None
    assert config.data.trans_list == [[{"func_name": "fliplr", "prob": 0.5}]]


def test_names_that_change_places_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("train: a\nval: b\nnames: [dog, cat]\n")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    load_config("yolov8n", [f"data={path}", "data.names=[hound, cat]"])
    assert not caplog.text
    load_config("yolov8n", [f"data={path}", "data.names=[cat, dog]"])
    assert f"number 0 in YOLO labels means cat, which was dog ({path}:3)" in caplog.text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epochs=abc", "epochs: should be a valid integer, not 'abc'"),
        ("optimizer.lr=1", "optimizer.lr: unknown key; did you mean lr_init or lr_scheduler or lr_factors?"),
        ("optimiser.lr_init=1", "optimiser: unknown key; did you mean optimizer?"),
        ("epochs.x=3", "epochs: should be a valid integer, not a section"),
        ("data.train_transforms.trans_list.5.0.prob=3", "data.train_transforms.trans_list is a list of 2"),
        ("freeze.0.1=3", "there is no list at freeze"),
        ("name=[1", "not valid YAML"),
        ("data=foo.yaml", "data: foo.yaml: there is no such file"),
        ("network.strid=3", "network.strid: unknown key; did you mean stride?"),
        (
            "data.train_transforms.trans_list.0.2={func_name: fliplrr}",
            "data.train_transforms.trans_list.0[2]",
        ),
    ],
)
def test_a_mistake_in_an_override_names_it(override: str, words: str) -> None:
    assert complaint("yolov8n", "seed=1", override).startswith(f"override {override}: {words}")


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=3", "", "my/data.yaml", "best.PT", "out.onnx"])
def test_what_is_no_override_is_refused_and_a_file_leads_to_its_key(text: str) -> None:
    key = {"my/data.yaml": "data", "best.PT": "weight", "out.onnx": "weight"}.get(text)
    example = "optimizer.lr_init=0.02" if key is None else f"{key}={text}"
    assert f"not an override; write key=value, such as {example}" in complaint("yolov8n", text)


# Data set files


def test_a_data_set_file_gives_the_data_section(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "path: images\ntrain: a.txt\nval: [b.txt, c.txt]\nnames: {1: dog, 0: cat}\ntest: d\n",
        "set.yaml",
    )
    data = load_config("yolov8n", [f"data={path}", "data.problems=error"]).data
    assert data.train_set == str(tmp_path / "images/a.txt")
    assert data.val_set == [str(tmp_path / "images/b.txt"), str(tmp_path / "images/c.txt")]
    assert (data.names, data.nc, data.problems) == (["cat", "dog"], None, "error")
    assert data.stage_epochs == [490, 10]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("val: a", "needs `train`"),
        ("train: a\nval: 3", "a path, or a list of paths"),
        ("train: a\nval: b\nnames: {0: x, 2: y}", "names must be numbered 0 to 1 without gaps"),
        ("train: a\nval: b\nnames: {x: y}", "class numbers are expected in names, not 'x'"),
        ("train: a\nval: b\nnames: [x]\nnc: 2", "data: nc is 2 but 1 names are given"),
    ],
)
def test_a_faulty_data_set_file_is_refused_with_its_name(text: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, "set.yaml")
    message = complaint("yolov8n", f"data={path}")
    assert words in message
    assert str(path) in message


# MindYOLO's files


def test_mindyolo_keys_are_translated_and_each_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yoloflow")
    path = write(
        tmp_path,
        f"""__BASE__: {find_recipe("yolov8n")}
ms_amp_level: O2
ms_loss_scaler: dynamic
ms_datasink: true
anchor_base: false
conf_free: true
weight: ''
single_cls: true
data: {{test_set: x.txt}}
network: {{nc: 80, verbose_log: true}}
""",
    )
    config = load_config(path)
    assert (config.amp_level, config.loss_scaler, config.weight) == ("O2", "dynamic", None)
    assert config.data.single_cls
    assert config.datasink
    assert f"{path}:2: ms_amp_level is read as amp_level" in caplog.text
    for key in ("anchor_base", "conf_free", "data.test_set", "network.nc", "network.verbose_log"):
        assert f"{key} is not used" in caplog.text
    assert load_config(path, ["amp_level=O1"]).amp_level == "O1"


def test_mindyolo_rows_and_transforms_load_as_they_are(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
task: detect
epochs: 2
data:
  train_transforms:
    - {func_name: mosaic, prob: 1.0}
    - {func_name: resample_segments}
    - {func_name: random_perspective, prob: 1.0, degrees: 0.0, translate: 0.1, scale: 0.5, shear: 0.0}
    - {func_name: label_norm, xyxy2xywh_: True}
    - {func_name: label_pad, padding_size: 160, padding_value: -1}
    - {func_name: image_norm, scale: 255.}
    - {func_name: image_transpose, bgr2rgb: True, hwc2chw: True}
network:
  model_name: yolov8
  depth_multiple: 0.33
  width_multiple: 0.25
  max_channels: 1024
  stride: [8, 16, 32]
  reg_max: 16
  backbone:
    - [-1, 1, ConvNormAct, [64, 3, 2]]
  head:
    - [[-1, 0], 1, Concat, [1]]
    - [[1], 1, YOLOv8Head, [nc, reg_max, stride]]
loss: {name: YOLOv8Loss, box: 7.5, cls: 0.5, dfl: 1.5, reg_max: 16}
optimizer: {optimizer: momentum, lr_init: 0.01, group_param: yolov8, nbs: 64}
""",
    )
    config = load_config(path)
    assert config.network.head[0] == [[-1, 0], 1, "Concat", [1]]
    assert config.data.stage_epochs is None
    assert load_config(write(tmp_path, dump_config(config), "config.yaml")) == config


def test_task_head_loss_and_transforms_must_agree_about_masks() -> None:
    assert complaint("yolov8n", "task=segment") == (
        "override task=segment: task: segment, but the loss is YOLOv8Loss; take a recipe that ends in -seg, "
        "as yolov8n-seg"
    )
    assert complaint("yolov8n-seg", "task=detect").endswith("the loss is YOLOv8SegLoss; write task=segment")
    rows = "data.train_transforms=[{func_name: fliplr, prob: 0.5}]"
    assert complaint("yolov8n-seg", rows).startswith(
        f"override {rows}: data.train_transforms: the loss learns masks"
    )
    table = load_config("yolov8n").network.model_dump(exclude_none=True)
    assert "YOLOv8SegLoss learns masks, the network's head YOLOv8Head predicts none" in complaint(
        "yolov8n-seg", f"network={json.dumps(table)}"
    )


# The schema


def test_every_setting_is_described() -> None:
    def sections(model: type[Section]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                sections(field.annotation)

    sections(Config)


def test_a_config_cannot_be_changed() -> None:
    config = load_config("yolov8n")
    with pytest.raises(ValueError, match="frozen"):
        config.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("batch", "ranks", "expected"), [(16, 1, 4), (16, 4, 1), (30, 1, 2), (128, 1, 1), (1, 1, 64)]
)
def test_accumulation_is_chosen_for_the_nominal_batch(batch: int, ranks: int, expected: int) -> None:
    config = load_config("yolov8n", [f"per_batch_size={batch}", "auto_accumulate=true"])
    assert config.micro_batches_per_update(ranks) == expected
    assert config.run_length(100, ranks).total_batch_size == batch * ranks
    assert load_config("yolov8n", ["accumulate=3"]).micro_batches_per_update() == 3


def test_listing_recipes_needs_no_heavy_module() -> None:
    code = (
        "import sys; from yoloflow.config.recipes import list_recipes; assert list_recipes();"
        "heavy = {'torch', 'pydantic', 'cv2', 'matplotlib', 'yaml'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mindyolo_s_switch_of_the_l1_term_is_a_loss_by_stage(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""__BASE__: {find_recipe("yolox-nano")}
loss: {{name: YOLOXLoss, input_size: [640, 640]}}
callback:
  - {{name: YoloxSwitchTrain, switch_epoch_num: 285}}
  - {{name: EvalWhileTrain, stage_epochs: [285, 15], stage_intervals: [25, 5], isolated_epochs: 286}}
""",
    )
    config = load_config(path)
    assert config.loss.stages == [{}, {"use_l1": True}]
    assert [row.name for row in config.callback] == ["EvalWhileTrain"]


def test_losses_by_stage_are_as_many_as_stages_and_name_what_the_loss_has() -> None:
    assert "loss.stages: has 1 entries, but data.train_transforms has 2 stages" in complaint(
        "yolox-nano", "loss.stages=[{}]"
    )
    message = complaint("yolox-nano", "loss.stages=[{}, {use_l2: true}]")
    assert "loss.stages.1.use_l2: YOLOXLoss has no such hyper-parameter; did you mean use_l1" in message


def test_a_stage_may_have_its_own_size_scale_rectangles_and_sampler() -> None:
    config = load_config(
        "yolov8n",
        [
            "epochs=30",
            "data.train_img_size=[320, 640]",
            "data.multi_scale=[[0.5, 1.5], null]",
            "data.rect=[false, true]",
            "data.sampler=[repeat_factor, uniform]",
        ],
    )
    first, last = config.stages(7)
    assert (first.steps, first.img_size, first.multi_scale, first.rect) == (140, 320, [0.5, 1.5], False)
    assert (last.steps, last.img_size, last.multi_scale, last.rect) == (70, 640, None, True)
    assert (first.sampler, last.sampler) == ("repeat_factor", "uniform")
    rows = "trans_list: [[{func_name: letterbox}]]"
    steps = f"data.train_transforms={{stage_epochs: null, stage_steps: [9, 4], {rows}}}"
    by_steps = load_config("yolov8n", ["epochs=3", steps, "data.rect=true"])
    assert [(stage.steps, stage.rect) for stage in by_steps.stages(7)] == [(17, True), (4, True)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.sampler=[uniform]", "data.sampler: has 1 values, but there are 2 stages"),
        (
            "data.multi_scale=[[0.5, 1.5], null, null]",
            "data.multi_scale: has 3 values, but there are 2 stages",
        ),
        ("data.sampler=unifrom", "uniform"),
        ("data.train_transforms.stage_steps=[9, 4]", "null for one that a base gives"),
    ],
)
def test_values_that_do_not_fit_the_stages_are_refused(override: str, message: str) -> None:
    with pytest.raises(YoloflowError, match=re.escape(message)):
        load_config("yolov8n", [override])


def test_scales_and_rectangles_exclude_each_other() -> None:
    with pytest.raises(YoloflowError, match=r"data\.rect: stage 1 has multi_scale and rect"):
        load_config("yolov8n", ["data.multi_scale=[0.5, 1.5]", "data.rect=true"])
