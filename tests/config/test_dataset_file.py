"""Data set files as label tools write them: for other folders, other systems, other programs."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest

from tests.support.data_sets import annotation, voc_object, write_coco, write_voc, write_yolo
from yoloflow.config.reader import load_config
from yoloflow.convert import convert
from yoloflow.data.index import read_index
from yoloflow.data.sets import read_set
from yoloflow.structures import YoloflowError


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An exported folder with the sets train and valid, in a folder of other things."""
    for name in ("train", "valid"):
        write_yolo(tmp_path / "export" / name, {name: "0 .5 .5 .2 .2\n"})
    return tmp_path / "export"


def sets_of(folder: Path, text: str) -> tuple[str, ...]:
    """Sources of both sets, relative to the folder."""
    path = folder / "data.yaml"
    path.write_text(text)
    data = load_config("yolov8n", [f"data={path}"]).data
    read_set(data, "train_set")
    read_set(data, "val_set")
    return tuple(str(Path(str(one)).relative_to(folder)) for one in (data.train_set, data.val_set))


BESIDE = ("train/images", "valid/images")


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images\nval: ../valid/images\n",
        "path: .\ntrain: ../train/images\nval: ../valid/images\n",
        "train: ..\\train\\images\nval: ..\\valid\\images\n",
        "train: '.\\train\\images'\nval: 'valid\\images'\n",
        "path:\ntrain: train/images\nval: valid/images\n",
        "path: ''\ntrain: train/images\nval: valid/images\n",
        "path: ~/no/such/robo\ntrain: train/images\nval: valid/images\n",
        "path: ../datasets/robo\ntrain: train/images\nval: valid/images\n",
        "path: ..\\datasets\\robo\ntrain: train\\images\nval: valid\\images\n",
        "path: 'C:\\data\\robo'\ntrain: train\\images\nval: valid\\images\n",
        "train: /content/robo/train/images\nval: /content/robo/valid/images\n",
        "train: D:\\robo\\train\\images\nval: D:\\robo\\valid\\images\n",
        "train: ~/no/such/robo/train/images\nval: ~/no/such/robo/valid/images\n",
        "path: /content\ntrain: robo/train/images\nval: robo/valid/images\n",
    ],
)
def test_the_sets_are_found_beside_the_file(
    export: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "yoloflow"):
        assert sets_of(export, text + "nc: '1'\n") == BESIDE
    said = [record.message for record in caplog.records if "taken from" in record.message]
    assert len(said) in (0, 2)
    assert all(f"{export}/data.yaml:" in line and "beside this file" in line for line in said)


@pytest.mark.parametrize("root", ["", "path: ~\n", "path: ~/export\n"])
def test_home_is_known_in_every_path(export: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv("HOME", str(export.parent))
    text = f"{root}train: ~/export/train/images\nval: [~/export/valid/images]\nnc: 1\n"
    (export.parent / "elsewhere").mkdir()
    path = export.parent / "elsewhere" / "data.yaml"
    path.write_text(text)
    data = load_config("yolov8n", [f"data={path}"]).data
    assert data.train_set == f"{export}/train/images"
    assert data.val_set == [f"{export}/valid/images"]


def test_a_set_of_the_parent_folder_does_not_take_the_place_of_the_file_s_own(
    export: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "valid"):
        write_yolo(export.parent / name, {"other": "0 .5 .5 .2 .2\n"})
    text = "train: ../train/images\nval: ../valid/images\nnc: 1.0\n"
    with caplog.at_level(logging.WARNING, "yoloflow"):
        assert sets_of(export, text) == BESIDE
    assert f"although there is {export.parent / 'train/images'}" in caplog.text
    shutil.rmtree(export / "valid")
    with pytest.raises(YoloflowError, match=r"data\.yaml:2: val: .*leads to .*other sets of this file lie"):
        sets_of(export, text)


def test_a_file_s_own_words_count_where_they_lead_somewhere(export: Path) -> None:
    (export / "settings").mkdir()
    path = export / "settings" / "data.yaml"
    path.write_text("train: ../train/images\nval: ../valid/images\nnc: 1\n")
    data = load_config("yolov8n", [f"data={path}"]).data
    assert (data.train_set, data.val_set) == (f"{export}/train/images", f"{export}/valid/images")


def test_one_folder_is_never_found_for_two_sets(export: Path) -> None:
    shutil.copytree(export / "train/images", export / "images")
    text = "train: /content/a/images\nval: /content/b/images\nnc: 1\n"
    with pytest.raises(YoloflowError, match="there is no such file"):
        sets_of(export, text)
    text = "train: /content/a/train\nval: /content/b/train\nnc: 1\n"
    with pytest.raises(YoloflowError, match=r"data\.yaml:2: val: .*which train is taken from already"):
        sets_of(export, text)


def test_a_set_that_is_nowhere_is_told_with_its_line(export: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = 'train: train/imges\nval: "valid\\train"\nnc: 1\n'
    with caplog.at_level(logging.WARNING, "yoloflow"), pytest.raises(YoloflowError, match="imges"):
        sets_of(export, text)
    assert "data.yaml:1: train: train/imges: there is no " in caplog.text
    assert r"within double quotes \t is a tab" in caplog.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("names: cat", "yaml:3: names: a list of class names is expected, not 'cat'"),
        ("names: [[a]]", "yaml:3: names: a class name is expected, not ['a']"),
        ("names: [null]", "yaml:3: names: a class name is expected, not None"),
        ("names: [{0: a}]", "yaml:3: names: a class name is expected, not {'0': 'a'}"),
        ("names: {0: 1.5}", "yaml:3: names: a class name is expected, not 1.5"),
        ("names: [true]", "yaml:3: names: a class name is expected, not True"),
        ("names: [a, b, a]", "yaml:3: names: a stands there twice"),
        ("names: []", "yaml:3: names: a list of class names is expected, not []"),
        ("names: [a]\nnc: 2", "yaml:4: data: nc is 2 but 1 names are given"),
        ("nc: 1.5", "yaml:3: nc: a whole number from 1 is expected, not 1.5"),
        ("nc: two", "yaml:3: nc: a whole number from 1 is expected, not 'two'"),
        ("nc: true", "yaml:3: nc: a whole number from 1 is expected, not True"),
        ("nc: 0", "yaml:3: nc: a whole number from 1 is expected, not 0"),
        ("nc: 1\nkpt_shape: 4", "yaml:4: kpt_shape: [number of keypoints, 2 or 3 figures of each] is"),
        ("nc: 1\nkpt_shape: [8, 1]", "yaml:4: kpt_shape: [number of keypoints, 2 or 3 figures of each] is"),
        ("names: ['']", "yaml:3: names: the name of class 0 is empty"),
        ('names: [a, "b\\nc"]', "yaml:3: names: the name of class 1 'b\\nc' has a line break"),
        ("nc: 1\npath: [a]", "yaml:4: path: a folder is expected, not ['a']"),
        ("nc: 1\nchannels: 4", "yaml:4: channels: 4: networks take 3 channels"),
        ("nc: 1\nch: 4", "yaml:4: ch: 4: networks take 3 channels"),
        ("nc: 1\nchannels: '10'", "yaml:4: channels: 10: networks take 3 channels"),
    ],
)
def test_what_training_refuses_conversion_refuses_in_the_same_words(
    export: Path, line: str, words: str
) -> None:
    path = export / "data.yaml"
    path.write_text(f"train: train/images\nval: valid/images\n{line}\n")
    with pytest.raises(YoloflowError) as trained:
        load_config("yolov8n", [f"data={path}"])
    with pytest.raises(YoloflowError) as converted:
        convert([str(path)], "coco", export / "out")
    assert words in str(trained.value)
    assert str(converted.value) == str(trained.value)
    assert not (export / "out").exists()


@pytest.mark.parametrize("channels", ["3", "'3'", "1"])
def test_colour_and_grey_are_what_networks_take(export: Path, channels: str) -> None:
    text = f"train: train/images\nval: valid/images\nnc: 1\nchannels: {channels}\n"
    assert sets_of(export, text) == BESIDE


def test_a_file_in_utf_16_is_read_as_one_in_utf_8(export: Path) -> None:
    text = "train: train/images\nval: valid/images\nnames: [käfer]\n"
    (export / "data.yaml").write_text(text, encoding="utf-16")
    assert load_config("yolov8n", [f"data={export / 'data.yaml'}"]).data.names == ["käfer"]


@pytest.mark.parametrize("address", ["https://example.com/train.zip", "s3://bucket/train", "HTTP://a/b"])
def test_an_address_on_the_web_is_told_to_be_downloaded(export: Path, address: str) -> None:
    (export / "data.yaml").write_text(f"train: {address}\nval: valid/images\nnc: 1\n")
    with pytest.raises(YoloflowError, match=f"yaml:1: {address}: data sets are not fetched; download"):
        load_config("yolov8n", [f"data={export / 'data.yaml'}"])
    with pytest.raises(YoloflowError, match=f"^{address}: data sets are not fetched; download"):
        read_index(address)


@pytest.mark.parametrize("key", ["valid", "validation", "Val"])
def test_a_key_that_is_nearly_right_is_named(export: Path, key: str) -> None:
    with pytest.raises(YoloflowError, match=f"its key {key} would have to be called val"):
        sets_of(export, f"train: train/images\n{key}: valid/images\nnc: 1\n")


def test_a_windows_path_in_double_quotes_is_explained(export: Path) -> None:
    with pytest.raises(YoloflowError, match=r"yaml:1: not valid YAML.*write / or single quotes"):
        sets_of(export, 'train: "C:\\data\\train"\nval: valid/images\nnc: 1\n')


def test_a_conversion_that_fails_in_a_later_set_writes_nothing(export: Path) -> None:
    (export / "valid/labels/valid.txt").write_text("7 .5 .5 .2 .2\n")
    (export / "data.yaml").write_text("train: train/images\nval: valid/images\nnc: 1\n")
    with pytest.raises(YoloflowError, match="class 7 does not exist"):
        convert([str(export / "data.yaml")], "coco", export / "out")
    assert not (export / "out").exists()
    (export / "data.yaml").write_text("train: train/images\nval:\ntest: no/such\nnc: 1\n")
    with pytest.raises(YoloflowError, match="val: a path, or a list of paths, is expected"):
        convert([str(export / "data.yaml")], "coco", export / "out")


def test_an_empty_test_key_names_no_set(export: Path) -> None:
    (export / "data.yaml").write_text("train: train/images\nval: valid/images\ntest:  # none\nnc: 1\n")
    lines = convert([str(export / "data.yaml")], "coco", export / "out")
    assert not (export / "out/annotations/test.json").exists()
    assert any(line.startswith("val: ") for line in lines)


def test_darknet_s_obj_data_is_read_with_its_names_and_lists(export: Path) -> None:
    for name in ("train", "valid"):
        shutil.copytree(export / name / "images", export / f"obj_{name}_data")
        shutil.copytree(export / name / "labels", export / f"obj_{name}_data", dirs_exist_ok=True)
        (export / f"{name}.txt").write_bytes(f"obj_{name}_data/{name}.png\r\n".encode())
    (export / "obj.names").write_text("car\n\n")
    (export / "obj.data").write_text(
        "# CVAT\nclasses = 1\ntrain = data/train.txt\nvalid  = data/valid.txt\nnames = data/obj.names\n"
        "backup = backup/\n"
    )
    data = load_config("yolov8n", [f"data={export / 'obj.data'}"]).data
    assert (data.nc, data.names) == (1, ["car"])
    assert (data.train_set, data.val_set) == (f"{export}/train.txt", f"{export}/valid.txt")
    assert len(read_set(data, "train_set")) == 1
    convert([str(export / "obj.data")], "voc", export / "out")
    (export / "obj.names").unlink()
    with pytest.raises(YoloflowError, match=r"obj\.data:5: names: there is no file"):
        load_config("yolov8n", [f"data={export / 'obj.data'}"])


def test_a_folder_in_the_place_of_its_data_set_file_leads_to_it(export: Path) -> None:
    for folder, sets in ((export, ("train/images", "valid/images")), (export / "train", ("",))):
        given = [f"data.{key}_set={folder / one}" for key, one in zip(("train", "val"), sets, strict=False)]
        advice = f"is a folder; give {' '.join(given)} 'data.names=[...]'"
        with pytest.raises(YoloflowError, match=re.escape(advice)):
            load_config("yolov8n", [f"data={folder}"])
        assert len(read_set(load_config("yolov8n", [*given, "data.names=[cat]"]).data, "train_set")) == 1
    (export / "data.yaml").write_text("train: train/images\nval: valid/images\nnc: 1\n")
    with pytest.raises(YoloflowError, match=r"is a folder; data=.*data\.yaml is there"):
        load_config("yolov8n", [f"data={export}"])


def test_a_folder_of_voc_or_coco_in_the_place_of_a_data_set_file_is_told_as_a_set(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", {"a": voc_object("cat", 1, 2, 30, 40)})
    with pytest.raises(YoloflowError, match=f"is a folder; give data.train_set={voc}$"):
        load_config("yolov8n", [f"data={voc}"])
    coco = write_coco(tmp_path / "coco", [annotation(10)])
    with pytest.raises(YoloflowError, match=f"is a folder; give data.train_set={coco}$"):
        load_config("yolov8n", [f"data={tmp_path / 'coco'}"])


def test_characters_that_json_writes_as_two_escapes_are_one_and_halves_are_refused(export: Path) -> None:
    file = export / "data.yaml"
    text = "train: train/images\nval: valid/images\nnames: [{}]\n"
    file.write_text(text.format(json.dumps("\N{CAT FACE}")))
    data = load_config("yolov8n", [f"data={file}"]).data
    assert read_set(data, "val_set").names == ["\N{CAT FACE}"]
    convert([str(file)], "voc", export / "out")
    file.write_text(text.format(r'"\udc31"'))
    with pytest.raises(YoloflowError, match=r"data\.yaml:3: names: the name of class 0 .*is no text"):
        load_config("yolov8n", [f"data={file}"])
