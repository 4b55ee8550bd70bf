"""A data set in parts: alike shares of each class, equal images together, accounts that close."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.data_sets import write_picture, write_yolo
from tests.support.rich_sets import assert_account_closes, rich_coco, write_messy_set
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.convert import split_data
from yoloflow.data.index import read_index
from yoloflow.data.sets import read_sets, read_val_set
from yoloflow.data.settings import DataSettings
from yoloflow.data.split import split_images, take_images
from yoloflow.structures import DatasetIndex, YoloflowError

BOX = ".5 .5 .2 .25\n"
SHARES = [0.8, 0.2]


def an_index(labels: list[list[int]], stems: list[str] | None = None) -> DatasetIndex:
    """Images with an object of each of the classes listed for them."""
    counts = np.array([len(row) for row in labels])
    classes = np.array([number for row in labels for number in row], np.int64)
    size, m = len(labels), len(classes)
    return DatasetIndex(
        image_paths=np.array([f"/data/{stem}.jpg" for stem in stems or range(size)]),
        image_ids=np.arange(size),
        sizes_hw=np.full((size, 2), 64),
        box_offsets=np.concatenate(([0], counts.cumsum())),
        boxes_xyxy=np.tile([0.0, 0.0, 9.0, 9.0], (m, 1)),
        classes=classes,
        is_crowd=np.zeros(m, bool),
        areas=np.ones(m),
        polygon_offsets=np.zeros(m + 1, np.int64),
        polygon_points=np.empty((0, 2), np.float32),
        names=[str(number) for number in range(classes.max(initial=0) + 1)],
        category_ids=np.arange(classes.max(initial=0) + 1),
    )


def test_each_part_has_its_share_of_each_class_and_of_the_background() -> None:
    labels = [[0]] * 50 + [[0, 1]] * 20 + [[2]] * 10 + [[3]] + [[]] * 20
    index = an_index(labels)
    for seed in range(3):
        train, val = split_images(index, SHARES, seed)
        assert sorted([*train, *val]) == list(range(len(labels)))
        shown = [sum(number in labels[image] for image in val) for number in range(4)]
        assert shown == pytest.approx([14, 4, 2, 0], abs=1)
        assert sum(not labels[image] for image in val) == 4
        assert np.array_equal(val, split_images(index, SHARES, seed)[1])
    assert not np.array_equal(val, split_images(index, SHARES, 0)[1])
    assert [len(part) for part in split_images(index, [0.7, 0.2, 0.1])] == pytest.approx([71, 20, 10], abs=1)


def test_equal_images_and_variants_stay_together() -> None:
    stems = [f"{number // 3}_jpg.rf.a{number}" for number in range(30)] + [str(n) for n in range(10)]
    index = an_index([[0]] * 40, stems)
    index.digests = np.array([*map(str, range(30)), *"0123411111"])
    for seed in range(4):
        val = set(split_images(index, SHARES, seed)[1].tolist())
        assert all(len({number in val for number in range(3 * n, 3 * n + 3)}) == 1 for n in range(10))
        assert len({number in val for number in (0, 1, 30, 31, 35, 39)}) == 1


def test_too_few_different_images_are_refused() -> None:
    index = an_index([[0], [0], [0]])
    index.digests = np.array(["a", "a", "a"])
    with pytest.raises(YoloflowError, match=r"3 images \(1 different ones\) are too few .* 80%, 20%"):
        split_images(index, SHARES)


def test_parts_and_their_accounts_make_up_the_whole(tmp_path: Path) -> None:
    policy = {"class-out-of-range": "drop-box", "damaged-image": "drop-image"}
    messy = read_index(str(write_messy_set(tmp_path / "messy")), nc=2, policy=policy, decode=True)
    rich = read_index(str(rich_coco(tmp_path / "rich")))
    for index in (messy, rich):
        part, rest = take_images(index, np.arange(0, len(index), 2), "every second")
        for one in (part, rest):
            assert_account_closes(one)
        assert part.num_boxes_listed + rest.num_boxes_listed == index.num_boxes_listed
        assert part.num_images_listed + rest.num_images_listed == index.num_images_listed
        assert len(part.problems) + len(rest.problems) == len(index.problems)
        assert len(part.masks) + len(rest.masks) == len(index.masks)
        assert sorted([*part.image_paths, *rest.image_paths]) == sorted(index.image_paths)
        for place, path in enumerate(part.image_paths):
            before = int(np.flatnonzero(index.image_paths == path)[0])
            rows = slice(*part.box_offsets[place : place + 2])
            assert np.array_equal(
                part.boxes_xyxy[rows], index.boxes_xyxy[slice(*index.box_offsets[before : before + 2])]
            )


# Commands and settings


def write_set(root: Path, count: int = 10) -> Path:
    source = write_yolo(root, {f"i{number}": f"{number % 2} {BOX}" for number in range(count)})
    for number in range(count):
        write_picture(root / "images" / f"i{number}.png", 60 + number)
    shutil.copy(root / "images" / "i0.png", root / "images" / "i2.png")
    return source


def test_a_fraction_of_the_training_images_is_held_out(tmp_path: Path) -> None:
    source = str(write_set(tmp_path))
    settings = DataSettings(train_set=source, names=["cat", "dog"], val_fraction=0.3)
    sets = read_sets(settings, 64, with_val=True)
    train, val = sets["train_set"], sets["val_set"]
    assert (len(train), len(val)) == (7, 3)
    assert not set(train.image_paths) & set(val.image_paths)
    assert sum(Path(path).stem in ("i0", "i2") for path in val.image_paths) in (0, 2)
    for index in sets.values():
        assert_account_closes(index)
        assert "leaked-image" not in {problem.kind for problem in index.problems}
    # A network with another order of the classes gets the same images.
    again = read_val_set(settings, 64, ["dog", "cat"])
    assert np.array_equal(again.image_paths, val.image_paths)
    assert np.array_equal(again.classes, 1 - val.classes)
    assert len(read_sets(settings, 64, with_val=False)["train_set"]) == 7
    both = settings.model_copy(update={"val_set": source})
    assert len(read_sets(both, 64, with_val=True)["train_set"]) == 10


def test_without_a_validation_set_the_ways_out_are_named(tmp_path: Path) -> None:
    settings = DataSettings(train_set=str(write_set(tmp_path)), names=["cat", "dog"])
    with pytest.raises(YoloflowError, match=r"val_set is not set.*data.val_fraction=0.2 or run_eval=false"):
        read_sets(settings, 64, with_val=True)
    with pytest.raises(YoloflowError, match=r"give data\.val_set=.* or data=FILE\.yaml with `val`$"):
        read_val_set(settings, 64, ["cat"])


@pytest.mark.parametrize("to", ["yolo", "coco", "voc"])
def test_the_command_writes_the_parts_and_a_data_set_file(tmp_path: Path, to: str) -> None:
    write_set(tmp_path / "in")
    (tmp_path / "in" / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    source, out = str(tmp_path / "in" / "data.yaml"), str(tmp_path / "out")
    arguments = ["data", "split", source, "--out", out, "--to", to]
    done = CliRunner().invoke(app, [*arguments, "--val", "0.2", "--test", "0.2", "--link"])
    assert done.exit_code == 0, done.output
    assert "images: 10 listed = 10 used + 0 dropped" in done.output
    assert "val: 2 images, objects by class: cat 1, dog 1" in done.output
    data = load_config("yolov8n", [f"data={tmp_path / 'out' / 'data.yaml'}"]).data
    assert {key: len(index) for key, index in read_sets(data, 64, with_val=True).items()} == {
        "train_set": 6,
        "val_set": 2,
    }
    assert "test: " in (tmp_path / "out" / "data.yaml").read_text()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code != 0
    assert "exists already" in str(again.exception)


@pytest.mark.parametrize("source", ["nope", "x.csv", "a.jpg", "https://x/y", "in/labels"])
def test_a_source_that_cannot_be_split_is_refused_in_words(tmp_path: Path, source: str) -> None:
    write_set(tmp_path / "in")
    for name in ("x.csv", "a.jpg"):
        (tmp_path / name).write_text("x")
    with pytest.raises(YoloflowError, match=r"no such file|of a known kind|not fetched|lists no images"):
        split_data([source if "//" in source else str(tmp_path / source)], tmp_path / "o", {"train": 1})
    assert not (tmp_path / "o").exists()


def test_the_sets_that_are_split_anew_are_said_and_many_classes_are_cut(tmp_path: Path) -> None:
    for part in ("one", "two"):
        write_set(tmp_path / part)
    names = ", ".join(f"n{number}" for number in range(80))
    file = tmp_path / "data.yaml"
    file.write_text(f"train: one/list.txt\nval: two/list.txt\nnames: [{names}]\n")
    lines = split_data([str(file)], tmp_path / "o", {"train": 0.5, "val": 0.5})
    assert lines[0] == f"{file}: its set val is split anew too"
    assert (
        sum("images, objects by class: n" in line and ", ... and 60 more -> " in line for line in lines) == 2
    )


def test_refused_shares_leave_nothing(tmp_path: Path) -> None:
    source = write_set(tmp_path / "in", 3)
    arguments = ["data", "split", str(source), "--nc", "2", "--out", str(tmp_path / "o")]
    for share, message in (("1.5", "must be shares"), ("0.1", "too few")):
        done = CliRunner().invoke(app, [*arguments, "--val", share])
        assert message in str(done.exception)
        assert not (tmp_path / "o").exists()
