"""Evaluation of a run on another data set: its classes, and the account of it."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.support.data_sets import annotation, write_coco, write_yolo
from tests.support.tiny_run import NAMES, tiny_run
from yoloflow.check import check_data
from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.structures import YoloflowError

BOX = ".5 .5 .5 .5\n"


def write_described(root: Path, names: list[str], labels: dict[str, str | bytes | None]) -> str:
    """A YOLO set and its data.yaml; returns the override that takes it."""
    source = write_yolo(root, labels)
    content = {"train": source.name, "val": source.name, "names": names}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    return f"data={root / 'data.yaml'}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_run(tmp_path_factory.mktemp("runs") / "tiny")
    (folder / "names.json").write_text(json.dumps(NAMES))
    return folder


@pytest.mark.parametrize("is_named_by_weights", [False, True])
def test_the_classes_of_another_set_are_mapped_to_the_runs_by_name(
    run: Path, tmp_path: Path, is_named_by_weights: bool
) -> None:
    data = write_described(tmp_path, ["bee", "7", "ant"], {"a": f"0 {BOX}2 .2 .2 .3 .3\n", "b": f"2 {BOX}"})
    if is_named_by_weights:
        result = evaluate_run(str(run / "config.yaml"), [data], str(run / "weights" / "best.safetensors"))
    else:
        result = evaluate_run(str(run), [data])
    assert {row["name"]: row["num_objects"] for row in result.per_class} == {"ant": 2, "bee": 1, "7": 0}


def test_a_class_that_the_run_lacks_is_refused(run: Path, tmp_path: Path) -> None:
    data = write_described(tmp_path, [*NAMES, "wasp"], {"a": f"3 {BOX}"})
    with pytest.raises(YoloflowError, match=r"class 3 \(wasp\) is not in the network's classes"):
        evaluate_run(str(run), [data])


def test_the_account_of_the_set_is_printed_and_in_the_json(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_described(tmp_path, NAMES, {"a": f"0 {BOX}", "gone": f"1 {BOX}"})
    (tmp_path / "images" / "gone.png").unlink()
    done = CliRunner().invoke(app, ["test", str(run), data, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert "data.val_set: images: 2 listed = 1 used + 1 dropped (1 missing-image)" in caplog.text
    report = json.loads((tmp_path / "out.json").read_text())["data_problems"]["val_set"]
    assert report["images"]["listed"] == 2
    assert report["images"]["dropped"] == {"missing-image": 1}


def test_a_results_file_has_the_categories_of_its_json_only(run: Path, tmp_path: Path) -> None:
    rows = [annotation(10, 5, (5, 5, 60, 50))]
    source = write_coco(tmp_path, rows, num_images=1, categories=[{"id": 5, "name": "bee"}])
    file = tmp_path / "found.json"
    result = evaluate_run(str(run), [f"data.val_set={source}"], save_json=file)
    found = {int(number) for one in result.detections.values() for number in one.classes}
    assert found == {0, 1, 2}
    assert {row["category_id"] for row in json.loads(file.read_text())} == {5}
    bee = evaluate_coco(source, file).per_class[0]
    assert bee == next(row for row in result.coco.per_class if row.name == "bee")


def test_a_network_of_several_classes_is_not_tested_as_one_of_a_single_class(
    run: Path, tmp_path: Path
) -> None:
    data = write_described(tmp_path, NAMES, {"a": f"0 {BOX}"})
    message = "data.single_cls=true: the network tells 3 classes apart .*leave it out, or train with it"
    with pytest.raises(YoloflowError, match=message):
        evaluate_run(str(run), [data, "data.single_cls=true"])


def test_remarks_on_a_set_of_one_class_are_not_about_the_classes_that_it_had(tmp_path: Path) -> None:
    write_described(tmp_path, NAMES, {"a": f"0 {BOX}1 .2 .2 .3 .3\n"})
    config = load_config("yolov8n", [f"data={tmp_path / 'data.yaml'}", "data.single_cls=true"])
    details = [one.detail for index in check_data(config).sets.values() for one in index.problems]
    assert "fewer than 10 objects of 1 of 1 classes: object 2" in details
    assert not any("ant" in detail.split() or "unused" in detail for detail in details)
