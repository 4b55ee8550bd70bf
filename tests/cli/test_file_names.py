"""File names that are no UTF-8, as they come out of archives of other systems, in every command on data."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.data_sets import write_yolo
from yoloflow.cli import app
from yoloflow.config.reader import dump_config, load_config
from yoloflow.data.index import read_index
from yoloflow.data.problems import problems_report
from yoloflow.data.sources import open_sources, readings
from yoloflow.report.image_writer import ImageWriter
from yoloflow.run.folder import RunFolder
from yoloflow.structures import Problem, YoloflowError

NAME = os.fsdecode(b"caf\xe9")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images with such names, in a folder with such a name; one has a faulty label, one has none."""
    root = tmp_path / NAME
    labels = {NAME: "0 .5 .5 .2 .2\n0 .95 .5 .2 .2\n", f"no{NAME}": None, "two\nlines": "0 .5 .5 .2 .2\n"}
    write_yolo(tmp_path / "plain", {str(number): label for number, label in enumerate(labels.values())})
    for number, name in enumerate(labels):
        for folder, suffix in (("images", ".png"), ("labels", ".txt")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "plain" / folder / f"{number}{suffix}"
            if path.exists():
                path.rename(root / folder / f"{name}{suffix}")
    return root / "images"


def run(*words: str) -> str:
    result = CliRunner(env={"PYTHONUTF8": "1"}).invoke(app, words)
    assert result.exception is None, result.output
    return result.stdout


def test_a_check_prints_and_reports_them(images: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    settings = [f"data.train_set={images}", "data.nc=1", "img_size=64", "run_eval=false"]
    out = run("data", "check", "yolov8n", *settings, "--report", str(report))
    assert "caf\\udce9" in out
    problems = json.loads(report.read_text())["train_set"]["problems"]
    assert f"{NAME}.png" in {Path(problem["image"]).name for problem in problems if problem["image"]}


@pytest.mark.parametrize("form", ["yolo", "voc", "coco"])
def test_a_conversion_gives_names_that_any_program_reads(images: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    said = run("data", "convert", str(images), "--to", form, "--out", str(out), "--nc", "1")
    assert "lost: 3 images got another name, because theirs is no UTF-8 or no line" in said
    source = {"yolo": out / "train.txt", "voc": out / "train", "coco": out / "annotations/train.json"}[form]
    index = read_index(str(source), nc=1)
    assert index.problems == []
    assert sorted(Path(path).name for path in index.image_paths) == [
        "caf%E9.png",
        "nocaf%E9.png",
        "two%0Alines.png",
    ]
    assert len(index.classes) == 3


def test_a_run_folder_holds_them_and_gives_them_back(images: Path, tmp_path: Path) -> None:
    config = load_config("yolov8n", [f"data.train_set={images}", "data.nc=1"])
    index = read_index(str(images), nc=1)
    report = problems_report(index)
    folder = RunFolder(tmp_path / "run", resumed=False)
    folder.create(dump_config(config), index.names, report)
    assert load_config(str(folder.path)) == config
    assert json.loads((folder.path / "data_problems.json").read_text()) == report


def test_a_video_of_such_a_name_is_a_problem_of_that_video(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.mp4").write_bytes(b"0")
    (reading,) = readings(open_sources([str(tmp_path)]))
    found = reading()
    assert isinstance(found, Problem)
    assert "its name is no UTF-8" in found.detail
    with pytest.raises(YoloflowError, match="OpenCV writes no such video"):
        ImageWriter(tmp_path).write_frame(NAME, 25, np.zeros((8, 8, 3), np.uint8))


def test_a_data_set_file_in_such_a_folder_is_read(images: Path) -> None:
    path = images.parent / "data.yaml"
    path.write_text("train: images\nval: images\nnc: 1\n")
    data = load_config("yolov8n", [f"data={path}"]).data
    assert data.train_set == str(images)
