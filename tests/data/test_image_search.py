"""Images under the names that other programs and machines gave them: found, or missing, never a wrong one."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.data_sets import write_picture
from tests.support.rich_sets import assert_account_closes
from yoloflow.cli import app
from yoloflow.convert import Reading, convert
from yoloflow.data.index import read_index
from yoloflow.data.sets import read_set, read_sets
from yoloflow.data.settings import DataSettings
from yoloflow.structures import DatasetIndex, YoloflowError


def write_json(path: Path, names: Sequence[str]) -> str:
    """A json with a box in each image."""
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    boxes = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [10, 10, 20, 30]}
        for image in images
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def files(index: DatasetIndex, root: Path) -> list[str]:
    assert_account_closes(index)
    return [str(Path(path).relative_to(root)) for path in index.image_paths.tolist()]


def kinds(index: DatasetIndex) -> list[str]:
    return [problem.kind for problem in index.problems]


@pytest.mark.parametrize(
    "pattern",
    [
        "images\\{}.png",
        "images\\1/{}.png",
        "images/1/{}.png",
        "..\\..\\label-studio\\media\\upload\\4\\{}.png",
        "/data/upload/1/{}.png",
        "D:\\img\\{}.png",
        "/home/other/{}.png",
        "s3://bucket/{}.png",
        "https://host/x/{}.png?token=1",
        "/data/local-files/?d=shots/{}.png",
        "%2E/{}.png",
        "0123abcd-{}.png",
        "images%2F{}.png",
    ],
)
@pytest.mark.parametrize("folder", [None, "images"])
def test_names_of_label_tools_lead_to_their_images(tmp_path: Path, pattern: str, folder: str | None) -> None:
    for name in ("a b", "c"):
        write_picture(tmp_path / "images" / f"{name}.png")
    source = write_json(tmp_path / "result.json", [pattern.format("a%20b"), pattern.format("c")])
    index = read_index(source, image_folder=folder and str(tmp_path / folder))
    assert files(index, tmp_path) == ["images/a b.png", "images/c.png"]
    assert kinds(index) == ["image-path-mended"]
    with pytest.raises(YoloflowError, match="2 images such as .* are taken from .*a b.png"):
        read_index(source, policy="error")


@pytest.mark.parametrize("line", ["data/obj_train_data/{}.png", "obj_train_data\\{}.png", "C:\\x\\{}.png"])
def test_lists_of_darknet_and_cvat_lead_to_their_images(tmp_path: Path, line: str) -> None:
    folder = "obj_train_data/" if "obj" in line else ""
    for name in "ab":
        write_picture(tmp_path / f"{folder}{name}.png")
        (tmp_path / f"{folder}{name}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "train.txt").write_text("".join(line.format(name) + "\r\n" for name in "ab"))
    index = read_index(str(tmp_path / "train.txt"), nc=1)
    assert files(index, tmp_path) == [f"{folder}a.png", f"{folder}b.png"]
    assert len(index.classes) == 2
    assert kinds(index) == ["image-path-mended"]


def test_a_list_of_images_that_are_nowhere_says_what_to_set(tmp_path: Path) -> None:
    write_picture(tmp_path / "far" / "away" / "a.png")
    (tmp_path / "far" / "away" / "a.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "train.txt").write_text("/other/machine/a.png\n")
    with pytest.raises(YoloflowError, match=r"train\.txt:1: there is no file .*; set data.image_folder to"):
        read_index(str(tmp_path / "train.txt"), nc=1)
    index = read_index(str(tmp_path / "train.txt"), nc=1, image_folder=str(tmp_path / "far"))
    assert files(index, tmp_path) == ["far/away/a.png"]


def test_one_file_never_stands_for_two_names(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_picture(tmp_path / "images" / f"{name}.png")
    index = read_index(write_json(tmp_path / "all.json", ["1/x.png", "2/x.png", "2/y.png"]))
    assert files(index, tmp_path) == ["images/y.png"]
    assert sorted(set(kinds(index))) == ["image-path-mended", "image-path-unclear", "missing-image"]


def test_a_folder_that_has_a_few_of_many_names_is_not_theirs(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png")
    source = write_json(tmp_path / "all.json", [f"shots/{number}.png" for number in range(5)])
    with pytest.raises(YoloflowError, match="none of its 5 images .* is found"):
        read_index(source)


def test_folders_that_are_links_keep_their_names(tmp_path: Path) -> None:
    write_picture(tmp_path / "far" / "images" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "far" / "images")
    source = write_json(tmp_path / "set" / "all.json", ["images\\a.png"])
    assert files(read_index(source), tmp_path) == ["set/images/a.png"]


def test_a_missing_image_of_a_folder_that_is_there_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "val" / "1.png")
    write_picture(tmp_path / "2.png")
    index = read_index(write_json(tmp_path / "val.json", ["images/val/1.png", "images/val/2.png"]))
    assert files(index, tmp_path) == ["images/val/1.png"]
    assert kinds(index) == ["missing-image"]
    (tmp_path / "images" / "val" / "1.txt").write_text("0 .5 .5 .2 .2")
    (tmp_path / "val.txt").write_text("images/val/1.png\nimages/val/2.png\n")
    assert files(read_index(str(tmp_path / "val.txt"), nc=1), tmp_path) == ["images/val/1.png"]


def test_an_image_in_any_folder_below_the_given_one_is_found_where_it_is_the_only_one(tmp_path: Path) -> None:
    for name in ("p/1/x", "q/2/x", "p/y", "p/z", "q/z"):
        write_picture(tmp_path / "shots" / f"{name}.png")
    source = write_json(tmp_path / "all.json", ["a/1/x.png", "a/2/x.png", "b/y.png", "b/z.png"])
    index = read_index(source, image_folder=str(tmp_path / "shots"))
    assert files(index, tmp_path) == ["shots/p/1/x.png", "shots/q/2/x.png", "shots/p/y.png"]


@pytest.mark.parametrize("name", ["{}.json", "{}_annotations.json", "instances_{}2017.json"])
def test_a_folder_named_like_the_json_goes_before_the_folder_above_it(tmp_path: Path, name: str) -> None:
    for split in ("train", "val"):
        write_picture(tmp_path / "images" / split / "x.png")
        write_json(tmp_path / "annotations" / name.format(split), ["x.png"])
    write_picture(tmp_path / "images" / "x.png")
    for split in ("train", "val"):
        index = read_index(str(tmp_path / "annotations" / name.format(split)))
        assert files(index, tmp_path) == [f"images/{split}/x.png"]


def test_the_folder_that_has_most_names_goes_first(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / "images" / f"{number}.png")
    write_picture(tmp_path / "images" / "train" / "1.png")
    index = read_index(write_json(tmp_path / "train.json", [f"{number}.png" for number in range(3)]))
    assert files(index, tmp_path) == [f"images/{number}.png" for number in range(3)]


def test_each_set_has_its_own_folder(tmp_path: Path) -> None:
    for number, split in enumerate(("first", "second")):
        write_picture(tmp_path / split / "x.png", 50 + number, 60)
        write_json(tmp_path / f"{number}.json", ["x.png"])
    settings = DataSettings(
        train_set=str(tmp_path / "0.json"),
        val_set=str(tmp_path / "1.json"),
        image_folder={"train_set": str(tmp_path / "first"), "val_set": str(tmp_path / "second")},
        index_cache=False,
    )
    assert files(read_set(settings, "train_set"), tmp_path) == ["first/x.png"]
    assert files(read_set(settings, "val_set"), tmp_path) == ["second/x.png"]


def test_conversion_takes_a_folder_for_each_split(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_picture(tmp_path / f"of_{split}" / "x.png", 50 + number, 60)
        write_json(tmp_path / f"{number}.json", ["x.png", "gone.png"])
    (tmp_path / "set.yaml").write_text("train: 0.json\nval: 1.json\n")
    folders = [f"--image-folder={split}={tmp_path}/of_{split}" for split in ("train", "val")]
    command = ["data", "convert", str(tmp_path / "set.yaml"), "--to", "yolo", "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, [*command, *folders, "--problems", "{missing-image: error}"])
    assert "missing-image" in str(refused.exception)
    done = CliRunner().invoke(app, [*command, *folders])
    assert (done.exit_code, done.exception) == (0, None)
    sizes = [Image.open(tmp_path / "out" / "images" / split / "x.png").size for split in ("train", "val")]
    assert sizes == [(50, 60), (51, 60)]


def test_one_folder_is_not_taken_for_a_set_that_has_its_own(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_picture(tmp_path / "images" / split / "x.png", 50 + number, 60)
        write_json(tmp_path / f"{split}.json", ["x.png"])
    folder = str(tmp_path / "images" / "train")
    assert files(read_index(str(tmp_path / "train.json"), image_folder=folder), tmp_path) == [
        "images/train/x.png"
    ]
    with pytest.raises(YoloflowError, match=r"images/val; give a folder for each set: 'data.image_folder="):
        read_index(str(tmp_path / "val.json"), image_folder=folder)


def test_one_folder_is_not_taken_for_two_sets_of_equal_names(tmp_path: Path) -> None:
    tmp_path /= "data"  # the folder above is looked through too, and other tests have theirs there
    sources = []
    for number, (split, name) in enumerate((("train", "one"), ("val", "two"))):
        write_picture(tmp_path / "images" / split / "x.png", 50 + number, 60)
        sources.append(write_json(tmp_path / f"{name}.json", ["x.png"]))
    folders = [str(tmp_path / "images" / split) for split in ("train", "val")]
    advice = "set data.image_folder to the folder of x.png; it is in {}, {}: where these are the folders of "
    with pytest.raises(YoloflowError, match=advice.format(*folders)) as caught:
        read_index(sources[1])
    assert "'data.image_folder={train_set: FOLDER, val_set: FOLDER}'" in str(caught.value)
    settings = DataSettings(
        train_set=sources[0], val_set=sources[1], image_folder=folders[0], index_cache=False
    )
    with pytest.raises(YoloflowError, match=r"two\.json: x\.png .*images/val; give a folder for each set"):
        read_sets(settings, 64, with_val=True)
    own = settings.model_copy(update={"image_folder": {"train_set": folders[0], "val_set": folders[1]}})
    assert files(read_sets(own, 64, with_val=True)["val_set"], tmp_path) == ["images/val/x.png"]
    (tmp_path / "set.yaml").write_text("train: one.json\nval: two.json\n")
    with pytest.raises(YoloflowError, match="give a folder for each set"):
        convert(
            [str(tmp_path / "set.yaml")], "coco", tmp_path / "o", reading=Reading(image_folder=folders[0])
        )
    assert not (tmp_path / "o").exists()
    # The same images in another folder are no reason to refuse.
    write_picture(tmp_path / "images" / "val" / "x.png", 50, 60)
    assert files(read_sets(settings, 64, with_val=True)["val_set"], tmp_path) == ["images/train/x.png"]


def test_a_folder_that_was_given_for_this_set_is_taken(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        write_picture(tmp_path / "images" / split / "x.png", 50 + number, 60)
        write_json(tmp_path / f"{split}.json", ["x.png"])
    folder = str(tmp_path / "images" / "train")
    settings = DataSettings(
        train_set=str(tmp_path / "train.json"),
        val_set=str(tmp_path / "val.json"),
        image_folder={"train_set": folder, "val_set": folder},
        index_cache=False,
    )
    assert files(read_set(settings, "val_set"), tmp_path) == ["images/train/x.png"]
    with pytest.raises(YoloflowError, match="give a folder for each set"):
        read_set(settings.model_copy(update={"image_folder": folder}), "val_set")


def test_a_folder_below_home_is_found_in_every_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_picture(tmp_path / "far" / "x.png")
    write_json(tmp_path / "set" / "train.json", ["x.png"])
    assert files(read_index("~/set/train.json", image_folder="~/far"), tmp_path) == ["far/x.png"]


def test_images_that_are_nowhere_are_named_with_what_to_set(tmp_path: Path) -> None:
    write_picture(tmp_path / "far" / "away" / "a.png")
    source = write_json(tmp_path / "set" / "result.json", ["..\\images\\a.png"])
    with pytest.raises(YoloflowError, match=r"set data.image_folder to the folder of a\.png"):
        read_index(source)
    assert files(read_index(source, image_folder=str(tmp_path / "far/away")), tmp_path) == ["far/away/a.png"]


@pytest.mark.parametrize("pattern", ["{}.jpg", "{}.PNG", "{}", "images/{}.tif", r"C:\\x\\{}.bmp"])
@pytest.mark.parametrize("folder", [None, "images"])
def test_names_that_differ_in_capitals_or_suffix_lead_to_their_images(
    tmp_path: Path, pattern: str, folder: str | None
) -> None:
    for name in ("a.1", "c"):
        write_picture(tmp_path / "images" / f"{name}.png")
    source = write_json(tmp_path / "result.json", [pattern.format("A.1"), pattern.format("c")])
    index = read_index(source, image_folder=folder and str(tmp_path / folder))
    assert files(index, tmp_path) == ["images/a.1.png", "images/c.png"]
    assert kinds(index) == ["image-path-mended"]


def test_an_image_that_two_names_or_two_files_may_mean_is_not_taken(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "b.jpg", "c.png"):
        write_picture(tmp_path / "images" / name)
    index = read_index(write_json(tmp_path / "two_names.json", ["a.png", "a.jpg", "c.png"]))
    assert files(index, tmp_path) == ["images/a.png", "images/c.png"]
    assert "image-path-unclear" in kinds(index)
    index = read_index(write_json(tmp_path / "two_files.json", ["a.png", "B.tif", "c.png"]))
    assert files(index, tmp_path) == ["images/a.png", "images/c.png"]
    assert kinds(index) == ["missing-image"]


def test_a_list_may_have_names_that_are_no_utf_8_if_there_are_such_files(tmp_path: Path) -> None:
    for name in ("caf\udce9", "b"):
        write_picture(tmp_path / "images" / f"{name}.png")
        (tmp_path / "images" / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    lines = b"images/caf\xe9.png\r\nimages/b.png\r\n"
    (tmp_path / "train.txt").write_bytes(lines)
    index = read_index(str(tmp_path / "train.txt"), nc=1)
    assert files(index, tmp_path) == ["images/caf\udce9.png", "images/b.png"]
    assert len(index.classes) == 2
    (tmp_path / "train.txt").write_bytes(lines.replace(b"b.png", b"\xe9.png"))
    with pytest.raises(YoloflowError, match="train.txt: cannot be read as UTF-8 text .*save it as UTF-8"):
        read_index(str(tmp_path / "train.txt"), nc=1)


@pytest.mark.parametrize("name", ["sub/../a.png", "./sub/low/../../a.png", "sub\\..\\a.png"])
def test_a_name_with_a_way_there_and_back_is_the_image_itself(tmp_path: Path, name: str) -> None:
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    index = read_index(write_json(tmp_path / "set.json", ["a.png", "b.png", name]))
    assert files(index, tmp_path) == ["a.png", "b.png"]
    assert "image-path-unclear" not in kinds(index)
    assert len(index.classes) == 2  # the boxes of both entries are equal
