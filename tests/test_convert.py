"""Data sets converted from format to format: what both formats hold comes back, what is lost is counted."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support.data_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    voc_object,
    write_coco,
    write_picture,
    write_voc,
    write_yolo,
)
from tests.support.rich_sets import rich_coco
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.convert import Reading, convert, split_data
from yoloflow.data.dataset import COCODataset
from yoloflow.data.formats.outlines import join_parts, mask_of_pixels, read_mask, split_parts
from yoloflow.data.index import read_index
from yoloflow.data.problems import PolicySetting
from yoloflow.data.sets import read_set
from yoloflow.data.transforms.fill import fill_outlines
from yoloflow.structures import DatasetIndex, YoloflowError


def assert_same(
    first: DatasetIndex, second: DatasetIndex, tolerance: float = 0.0, outlines: bool = True
) -> None:
    assert second.problems == []
    assert second.names == first.names
    assert [Path(path).stem for path in second.image_paths] == [Path(path).stem for path in first.image_paths]
    np.testing.assert_array_equal(second.box_offsets, first.box_offsets)
    np.testing.assert_array_equal(second.classes, first.classes)
    np.testing.assert_array_equal(second.is_crowd, first.is_crowd)
    np.testing.assert_allclose(second.boxes_xyxy, first.boxes_xyxy, rtol=0, atol=tolerance)
    if outlines:
        np.testing.assert_array_equal(second.polygon_offsets, first.polygon_offsets)
        np.testing.assert_allclose(
            second.polygon_points, first.polygon_points, rtol=0, atol=max(tolerance, 1e-5)
        )


def test_coco_to_coco_loses_nothing(tmp_path: Path) -> None:
    source = rich_coco(tmp_path / "in")
    lines = convert([str(source)], "coco", tmp_path / "out")
    assert not any("lost" in line for line in lines)
    first, second = read_index(str(source)), read_index(str(tmp_path / "out" / "annotations" / "train.json"))
    assert_same(first, second)
    assert second.category_ids.tolist() == [3, 17, 90]
    assert second.image_ids.tolist() == [10, 20, 30]
    assert second.areas.tolist() == first.areas.tolist()
    assert second.masks == first.masks
    assert len(second.masks) == 2
    assert second.polygon_parts == first.polygon_parts == {4: [3, 4]}
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())["annotations"]
    assert sorted(str(row.get("segmentation")) for row in written) == sorted(
        str(row.get("segmentation")) for row in json.loads(source.read_text())["annotations"]
    )


def test_coco_to_yolo_says_what_it_loses_and_keeps_the_rest(tmp_path: Path) -> None:
    source = rich_coco(tmp_path / "in")
    lines = convert([str(source)], "yolo", tmp_path / "out")
    lost = {line.strip() for line in lines if "lost" in line}
    assert lost == {
        "lost: 1 crowd regions or difficult objects left out",
        "lost: 3 category ids became positions in the list of names",
    }
    config = load_config("yolov8n", [f"data={_with_val(tmp_path / 'out')}"])
    first, second = read_index(str(source)), read_set(config.data, "train_set")
    kept = ~first.is_crowd
    assert second.problems == []
    assert second.names == ["cat", "cow & calf", "dog"]
    assert second.classes.tolist() == first.classes[kept].tolist()
    # The box of an outline is the outline's.
    np.testing.assert_allclose(second.boxes_xyxy, first.boxes_xyxy[kept], rtol=0, atol=0.5)
    np.testing.assert_allclose(second.polygon_points, first.polygon_points, rtol=0, atol=1e-5)


def test_holes_and_overlapping_parts_are_kept_in_yolo_labels(tmp_path: Path) -> None:
    ring = np.zeros((HEIGHT, WIDTH), np.uint8)
    ring[10:40, 20:60] = 1
    ring[15:30, 30:50] = 0
    first, second = [[10, 40, 40, 40, 40, 60, 10, 60], [30, 70, 60, 70, 60, 50, 30, 50]]
    rows = [
        annotation(10, bbox=[20, 10, 40, 30], segmentation=dict(mask_of_pixels(ring))),
        annotation(10, bbox=[10, 40, 50, 30], segmentation=[first, second]),
    ]
    lines = convert([str(write_coco(tmp_path / "in", rows))], "yolo", tmp_path / "out")
    assert not any("outline" in line for line in lines)
    dataset = COCODataset(str(tmp_path / "out" / "train.txt"), img_size=WIDTH)
    drawn = []
    for outline in dataset.load(0).polygons:
        one, pixels = fill_outlines([outline])[0], np.zeros((HEIGHT, WIDTH), np.uint8)
        pixels[one.window] = one.pixels
        drawn.append(pixels)
    np.testing.assert_array_equal(drawn[0], ring)
    union = np.zeros_like(ring)
    union[40:60, 10:40] = union[50:70, 30:60] = 1
    np.testing.assert_array_equal(drawn[1], union)


def _with_val(folder: Path) -> Path:
    path = folder / "data.yaml"
    path.write_text(path.read_text() + "val: train.txt\n")
    return path


def test_boxes_only_are_written_if_asked(tmp_path: Path) -> None:
    source = rich_coco(tmp_path / "in")
    lines = convert([str(source)], "yolo", tmp_path / "out", with_outlines=False)
    assert "  lost: 3 outlines or masks left out" in lines
    index = read_index(str(tmp_path / "out" / "train.txt"), nc=3)
    first = read_index(str(source))
    np.testing.assert_allclose(index.boxes_xyxy, first.boxes_xyxy[~first.is_crowd], rtol=0, atol=1e-6)


def test_coco_to_voc_and_back(tmp_path: Path) -> None:
    source = rich_coco(tmp_path / "in")
    lines = convert([str(source)], "voc", tmp_path / "voc", with_outlines=False)
    assert "  lost: 4 outlines or masks left out" in lines
    first, second = read_index(str(source)), read_index(str(tmp_path / "voc" / "train"))
    assert_same(first, second, 1e-7, outlines=False)
    convert([str(tmp_path / "voc" / "train")], "coco", tmp_path / "back")
    third = read_index(str(tmp_path / "back" / "annotations" / "train.json"))
    assert_same(second, third, 1e-7)


def test_a_data_set_file_is_converted_split_by_split(tmp_path: Path) -> None:
    for split, label in (("train", "0 .5 .5 .2 .25\n"), ("val", "1 .3 .3 .2 .2\n"), ("test", "")):
        write_yolo(tmp_path / "in" / split, {f"{split}1": label, f"{split}2": "1 .1 .1 .2 .1 .2 .3\n"})
    (tmp_path / "in" / "data.yaml").write_text(
        "train: train/list.txt\nval: [val/list.txt]\ntest: test/images\nnames: {0: cat, 1: dog}\n"
    )
    convert([str(tmp_path / "in" / "data.yaml")], "coco", tmp_path / "out")
    config = load_config("yolov8n", [f"data={tmp_path / 'out' / 'data.yaml'}"])
    keys: dict[Literal["train_set", "val_set"], str] = {"train_set": "train", "val_set": "val"}
    for key, split in keys.items():
        second = read_set(config.data, key)
        first = read_index(str(tmp_path / "in" / split / "list.txt"), names=["cat", "dog"])
        assert_same(first, second, 1e-6)
    assert (tmp_path / "out" / "annotations" / "test.json").exists()


def test_images_of_one_name_stay_apart(tmp_path: Path) -> None:
    sources = [str(write_yolo(tmp_path / part, {"a": f"{n} .5 .5 .2 .25\n"})) for n, part in enumerate("xyz")]
    write_picture(tmp_path / "x" / "images" / "a.jpg")
    (tmp_path / "x" / "list.txt").write_text("images/a.png\nimages/a.jpg\n")
    lines = convert(sources, "yolo", tmp_path / "out", "all", reading=Reading(nc=3), link=True)
    assert "  lost: 3 images got another name, because two had the same" in lines
    index = read_index(str(tmp_path / "out" / "all.txt"), nc=3)
    assert [Path(path).name for path in index.image_paths] == ["a.png", "a_2.jpg", "a_3.png", "a_4.png"]
    assert index.classes.tolist() == [0, 0, 1, 2]
    assert Path(index.image_paths[2]).resolve() == (tmp_path / "y" / "images" / "a.png").resolve()


def test_nothing_is_overwritten_and_names_must_agree(tmp_path: Path) -> None:
    source = str(write_voc(tmp_path / "voc", {"a": voc_object("cat", 1, 2, 30, 40)}))
    other = str(write_voc(tmp_path / "other", {"b": voc_object("dog", 1, 2, 30, 40)}))
    convert([source], "yolo", tmp_path / "out")
    before = (tmp_path / "out" / "data.yaml").read_bytes()
    with pytest.raises(YoloflowError, match="exists already"):
        convert([source], "yolo", tmp_path / "out")
    with pytest.raises(YoloflowError, match=r"data\.yaml: has other class names than these \(dog\)"):
        convert([other], "yolo", tmp_path / "out", "val")
    assert not (tmp_path / "out" / "val.txt").exists()
    assert (tmp_path / "out" / "data.yaml").read_bytes() == before
    with pytest.raises(YoloflowError, match="--to tfrecord: no such format; known: coco, voc, yolo"):
        convert([source], "tfrecord", tmp_path / "out2")
    with pytest.raises(YoloflowError, match="converted alone"):
        convert([source, str(tmp_path / "out" / "data.yaml")], "coco", tmp_path / "out2")


@pytest.mark.parametrize("split", ["../../x", "names", "nc", "path", "", "a b/c", ".."])
def test_a_split_is_a_plain_name_and_no_key_of_data_set_files(tmp_path: Path, split: str) -> None:
    source = str(write_yolo(tmp_path / "in", {"a": "0 .5 .5 .2 .2\n"}))
    with pytest.raises(YoloflowError, match="--split .*must be a plain name such as val"):
        convert([source], "yolo", tmp_path / "out" / "below", split, reading=Reading(nc=1))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("pattern", ["", "/**/*.png"])
@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_nothing_is_written_into_a_source(tmp_path: Path, to: str, pattern: str) -> None:
    write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "b": "0 .5 .5 .2 .2\n"})
    images = tmp_path / "images"
    before = sorted(tmp_path.rglob("*"))
    for out in (images, images / "deep"):
        with pytest.raises(YoloflowError, match="would lie within the source .*choose another --out"):
            convert([f"{images}{pattern}"], to, out, reading=Reading(nc=1))
        with pytest.raises(YoloflowError, match="would lie within the source .*choose another --out"):
            split_data([f"{images}{pattern}"], out, {"train": 0.5, "val": 0.5}, to, reading=Reading(nc=1))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_data_set_file_keeps_its_own_sets(tmp_path: Path) -> None:
    write_yolo(tmp_path / "images", {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "data.yaml").write_text("train: images/images\nnames: [cat]\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(YoloflowError, match=r"data\.yaml: has `train` already; choose another folder"):
        convert([str(tmp_path / "data.yaml")], "coco", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_of_images_is_not_written_over(tmp_path: Path) -> None:
    write_yolo(tmp_path / "in", {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "train.txt").write_text("in/images/a.png\n")
    with pytest.raises(YoloflowError, match=r"train\.txt: exists already"):
        convert([str(tmp_path / "train.txt")], "yolo", tmp_path, reading=Reading(nc=1))


def test_a_test_set_that_is_not_there_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_yolo(tmp_path / "train", dict.fromkeys("abcd", "0 .5 .5 .2 .2\n"))
    file = tmp_path / "data.yaml"
    file.write_text("train: ../train/images\ntest: ../test/images\nnames: [cat]\n")
    convert([str(file)], "coco", tmp_path / "one")
    split_data([str(file)], tmp_path / "two", {"train": 1})
    assert caplog.text.count("data.yaml:2: test: ../test/images: ") == 2
    assert caplog.text.count("is not there, left out") == 2
    file.write_text("train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    with pytest.raises(YoloflowError, match="there is no such file or folder"):
        convert([str(file)], "coco", tmp_path / "three")


def test_the_command_prints_the_account(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "in", {"a": "0 nan .5 .2 .2\n0 .5 .5 .2 .2\n", "b": None})
    arguments = [
        "data",
        "convert",
        str(source),
        "--to",
        "voc",
        "--out",
        str(tmp_path / "out"),
        "--name",
        "cat",
    ]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "boxes: 2 listed = 1 used + 1 dropped (1 box-nan)" in outcome.output
    assert read_index(str(tmp_path / "out" / "train")).names == ["cat"]


def test_the_classes_of_a_data_set_file_are_mapped_to_the_wanted_ones_by_name(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n1 .3 .3 .1 .1"})
    source = tmp_path / "data.yaml"
    source.write_text("train: list.txt\nnames: [dog, cat]\n")

    def converted(*names: str, policy: PolicySetting = "repair") -> tuple[list[str], list[int]]:
        out = tmp_path / "-".join(names)
        convert([str(source)], "coco", out, reading=Reading(list(names), policy=policy))
        index = read_index(str(out / "annotations" / "train.json"))
        return index.names, index.classes.tolist()

    assert converted("cat", "dog") == (["cat", "dog"], [1, 0])
    assert converted("chien", "chat") == (["chien", "chat"], [0, 1])
    assert converted("cat", policy={"class-out-of-range": "drop-box"}) == (["cat"], [0])
    with pytest.raises(YoloflowError, match=r"class 1 \(cat\) is not in the classes of --name"):
        converted("bird", "dog")


# Outlines and masks


@given(st.lists(st.integers(3, 6), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_parts_that_were_joined_come_apart_again(sizes: list[int], random: Any) -> None:
    parts = [np.array([[random.random(), random.random()] for _ in range(n)], np.float32) for n in sizes]
    again = split_parts(join_parts(parts), sizes)
    assert all(np.array_equal(*pair) for pair in zip(parts, again, strict=True))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"size": [4, 5]},
        {"size": [4], "counts": "20"},
        {"size": [0, 5], "counts": []},
        {"size": [4, 5], "counts": [3, 4]},
        {"size": [4, 5], "counts": [-1, 21]},
        {"size": [4, 5], "counts": "\xff"},
        {"size": [4, 5], "counts": "ZZZZZ"},
        {"size": [5, 4], "counts": [20]},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": ["4", 5], "counts": [20]},
    ],
)
def test_a_malformed_mask_is_none(value: dict[str, object]) -> None:
    assert read_mask(value, (4, 5)) is None
