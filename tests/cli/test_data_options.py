"""What `data convert` and `data split` advise is in their own options, and works."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.data_sets import annotation, write_coco, write_picture, write_yolo
from yoloflow.cli import app
from yoloflow.cli.data_options import in_options
from yoloflow.structures import YoloflowError

COMMANDS = (["convert", "--to", "coco"], ["split", "--val", "0.5", "--to", "yolo"])


def outcome(command: list[str], source: Path, *options: str) -> str:
    """Returns the message of a run that is refused; "" of one that is not."""
    known = len(list(source.parent.iterdir())) if source.exists() else 0
    out = source.parent / f"out-{known}"
    done = CliRunner().invoke(app, ["data", *command, str(source), "--out", str(out), *options])
    assert done.exception is None or isinstance(done.exception, YoloflowError), done.exception
    return str(done.exception or "")


def advised(message: str) -> list[str]:
    """Returns the options of a message that can be taken as they stand."""
    found = re.search(r"(--\w[\w-]* ('[^']*'|[^-'\s]\S*)( --name \S+)*)", message)
    return shlex.split(found[0]) if found else []


def a_set(folder: Path, label: str = "") -> Path:
    write_yolo(folder, dict.fromkeys("abcd", "0 .5 .5 .2 .2\n") | {"e": f"1 .4 .4 .2 .2\n{label}"})
    for number, name in enumerate("abcde"):
        write_picture(folder / "images" / f"{name}.png", 60 + number, 60)
    return folder / "list.txt"


@pytest.mark.parametrize("command", COMMANDS)
def test_classes_that_are_not_named_are_given_by_options(tmp_path: Path, command: list[str]) -> None:
    source = a_set(tmp_path)
    assert outcome(command, source).endswith("; give --nc COUNT or --name NAME for each class")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    message = outcome(command, source)
    assert message.endswith("classes.txt names 2: --name cat --name dog")
    assert outcome(command, source, "--name", "cat", "--name", "cat").startswith(
        "--name: cat stands there twice"
    )
    assert outcome(command, source, "--name", "cat", "--nc", "3").startswith("--nc 3 but --name has 1 names")
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    assert "data.yaml describes a data set: give it as the source" in outcome(command, source)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kind_of_problem_is_repaired_by_the_option_that_is_advised(
    tmp_path: Path, command: list[str]
) -> None:
    source = a_set(tmp_path, "7 .5 .5 .2 .2\n")
    message = outcome(command, source, "--nc", "2")
    assert message.endswith("or give --problems '{class-out-of-range: drop-box}' (or drop-image)")
    assert outcome(command, source, "--nc", "2", *advised(message)) == ""
    message = outcome(command, source, "--nc", "2", "--problems", "{class-out-of-range: keep}")
    assert message.startswith("--problems '{class-out-of-range: keep}': can be error or drop-box")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_folder_of_images_is_given_by_an_option(tmp_path: Path, command: list[str]) -> None:
    source = write_coco(tmp_path / "a", [annotation(10)])
    (tmp_path / "a" / "images").rename(tmp_path / "a" / "far")
    message = outcome(command, source)
    assert message.endswith(f"give --image-folder: the folder of 1.png, which is in {tmp_path / 'a' / 'far'}")
    assert "there is no such folder" in outcome(command, source, "--image-folder", "nope")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("data.nc=2", "here it is --nc 2"),
        ("data.names=[cat, big dog]", "here it is --name cat --name 'big dog'"),
        ("data.problems.box-nan=error", "here it is --problems '{box-nan: error}'"),
        ("data.train_set=my/images", "sources have no key here; write my/images"),
        ("epochs=3", "this command takes no settings"),
    ],
)
def test_a_setting_among_the_sources_is_told_as_an_option(
    command: list[str], source: str, advice: str
) -> None:
    assert outcome(command, Path(source)) == f"{source}: {advice}"


def test_an_option_of_other_trainers_is_no_setting_where_there_are_none(tmp_path: Path) -> None:
    message = outcome(COMMANDS[0], a_set(tmp_path), "--imgsz=3", "--nc", "2")
    assert "settings are KEY=VALUE" not in message
    assert message.endswith("--imgsz: this command takes no settings")


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        (
            "data.kpt_shape=[4, 3], or kpt_shape in the data set file, says so",
            "`kpt_shape: [4, 3]` in a data set file says so",
        ),
        ("; data.names=[...] can name the classes", "; --name can name the classes"),
        ("set data.names=[...] to what is meant", "give --name NAME for each class: what is meant"),
        ("set data.names to the classes", "give --name NAME for each class: the classes"),
        (
            "'data.image_folder={train_set: FOLDER, val_set: FOLDER}'",
            "--image-folder SPLIT=FOLDER in data convert",
        ),
    ],
)
def test_every_setting_that_is_advised_has_its_option(setting: str, option: str) -> None:
    assert in_options(setting) == option


def test_paths_and_words_stay_as_they_are() -> None:
    for text in ("my/data.names/a.txt: no images", "written: out/data.yaml", "a set of data"):
        assert in_options(text) == text
