"""Predictions in files: our JSON, COCO results that can be evaluated, YOLO labels."""

import csv
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_run import NAMES, read_image, tiny_run, write_images, write_video
from yoloflow.cli import main
from yoloflow.data.index import read_index
from yoloflow.data.sources import Frame
from yoloflow.detector import Detector
from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_ids import CocoIds
from yoloflow.predict import PredictSettings, predict
from yoloflow.report.prediction_formats import Naming
from yoloflow.report.prediction_writer import PredictionWriter
from yoloflow.structures import Detections, Problem, YoloflowError

ALL = PredictSettings(device="cpu", conf_thres=0.05, formats=("json", "coco", "yolo"), save_images=False)
SIZES_HW = {"a/x.jpg": (50, 80), "a/y.png": (90, 64), "b/x.jpg": (64, 64), "b/X.png": (33, 200)}
# Ids with gaps, classes in another order than the run's, and one more.
CATEGORIES = [
    {"id": 9, "name": "7"},
    {"id": 4, "name": "ant"},
    {"id": 6, "name": "bee"},
    {"id": 7, "name": "cow"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_images(tmp_path / "pictures", SIZES_HW)


def annotated(run: Path, pictures: Path, categories: list[dict[str, object]]) -> Path:
    """A COCO json whose objects lie near some of the run's own detections: figures above zero."""
    detector = Detector.load(run, device="cpu")
    ids = {entry["name"]: entry["id"] for entry in categories}
    annotations: list[dict[str, object]] = []
    for k, name in enumerate(SIZES_HW):
        (found,) = detector(pictures / name, conf_thres=0.05)
        for place in range(0, len(found), 3):
            x1, y1, x2, y2 = (found.boxes_xyxy[place] * 0.97).tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 70 - k, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                | {"category_id": ids[NAMES[found.classes[place]]], "iscrowd": 0, "area": 50.0}
            )
    images = [
        {"id": 70 - k, "file_name": name, "height": height, "width": width}
        for k, (name, (height, width)) in enumerate(SIZES_HW.items())
    ]
    path = pictures / "val.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["yoloflow", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_coco_predictions_with_the_ids_of_annotations_are_evaluated_by_the_test_command(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, out, figures = annotated(run, pictures, CATEGORIES), tmp_path / "out", tmp_path / "figures.json"
    sources = [str(pictures / "a"), str(pictures / "b")]
    options = ["--device", "cpu", "--conf-thres", "0.05", "--save-dir", str(out), "--no-save-images"]
    formats = ["--format", "coco", "--annotations", str(truth)]
    assert command(monkeypatch, "predict", str(run), *sources, *options, *formats) == 0
    results = out / "predictions_coco.json"
    both = ["--predictions", str(results), "--annotations", str(truth)]
    assert command(monkeypatch, "test", *both, "--json", str(figures)) == 0
    stats = json.loads(figures.read_text())["stats"]
    assert stats[1] > 0.1

    # The same, put together here by a plain loop over the detector's answers.
    detector, rows = Detector.load(run, device="cpu"), []
    ids = {entry["name"]: entry["id"] for entry in CATEGORIES}
    for k, name in enumerate(SIZES_HW):
        (found,) = detector(pictures / name, conf_thres=0.05)
        for box, score, number in zip(found.boxes_xyxy, found.scores, found.classes, strict=True):
            x1, y1, x2, y2 = box.astype(float).tolist()
            bbox = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
            rows.append({"image_id": 70 - k, "category_id": ids[NAMES[number]], "bbox": bbox})
            rows[-1]["score"] = round(float(score), 5)
    np.testing.assert_allclose(stats, evaluate_coco(truth, rows).stats, atol=1e-3)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "settings",
    [("yolov8n",), ("yolov8n", "data.test_rect=true"), ("yolov10n", "network.width_multiple=0.125")],
)
def test_predictions_made_as_evaluation_makes_them_are_the_detections_of_evaluation(
    settings: tuple[str, ...], pictures: Path, tmp_path: Path
) -> None:
    run = tiny_run(tmp_path / "run", *settings)
    truth = annotated(run, pictures, [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)])
    overrides = [f"data.val_set={truth}", "device=cpu", "per_batch_size=4", "iou_thres=0.7"]
    evaluate_run(str(run), overrides, None, tmp_path / "evaluation.json")
    as_evaluation = replace(ALL, conf_thres=0.001, iou_thres=0.7, multi_label=True, annotations=truth)
    done = predict(run, [str(pictures / "**" / "*.*g")], tmp_path / "out", as_evaluation)
    tables = [
        np.array(
            [(row["image_id"], row["category_id"], *row["bbox"], row["score"]) for row in json.loads(text)]
        )
        for text in ((tmp_path / "evaluation.json").read_text(), done.paths["coco"].read_text())
    ]
    assert len(tables[0]) == len(tables[1]) > 40
    # The network is fused here, which changes the last digits and the order of equal scores.
    tolerance = (0, 0, 0.05, 0.05, 0.05, 0.05, 0.001)
    for row in tables[0]:
        assert (np.abs(tables[1] - row) <= tolerance).all(1).any(), row


def test_without_annotations_images_are_numbered_and_listed(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "clip.avi", 3)
    done = predict(run, [str(pictures / "a"), str(clip)], tmp_path / "out", ALL)
    listed = json.loads((tmp_path / "out" / "images_coco.json").read_text())
    rows = json.loads(done.paths["json"].read_text())
    results = json.loads(done.paths["coco"].read_text())
    assert [image["id"] for image in listed["images"]] == [1, 2, 3, 4, 5]
    assert [image["file_name"] for image in listed["images"]] == [row["file"] for row in rows]
    assert [image.get("frame") for image in listed["images"]] == [None, None, 0, 1, 2]
    assert listed["categories"] == [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    assert len(results) == sum(len(row["detections"]) for row in rows)
    for result in results:
        known = [
            found
            for found in rows[result["image_id"] - 1]["detections"]
            if found["score"] == result["score"] and found["class"] == result["category_id"] - 1
        ]
        x, y, w, h = result["bbox"]
        assert any(np.allclose(found["box_xyxy"], (x, y, x + w, y + h), atol=0.02) for found in known)


def test_yolo_labels_are_shares_of_the_picture_and_clashing_names_are_told_apart(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    settings = replace(ALL, save_images=True)
    done = predict(run, [str(pictures / "**" / "*.*g")], tmp_path / "out", settings)
    with (tmp_path / "out" / "labels.csv").open(newline="") as file:
        label_of = {row["file"]: row["label"] for row in csv.DictReader(file)}
    assert len({label.lower() for label in label_of.values()}) == len(SIZES_HW)
    for row in json.loads(done.paths["json"].read_text()):
        label = done.paths["yolo"] / label_of[row["file"]]
        assert label.stem == Path(row["picture"]).stem
        values = np.array([line.split() for line in label.read_text().splitlines()], float).reshape(-1, 6)
        centre, half = values[:, 1:3], values[:, 3:5] / 2
        size = (row["width"], row["height"])
        boxes = np.concatenate(((centre - half) * size, (centre + half) * size), 1)
        expected = [found["box_xyxy"] for found in row["detections"]]
        np.testing.assert_allclose(boxes, np.array(expected).reshape(-1, 4), atol=0.02)
        assert [found["score"] for found in row["detections"]] == values[:, 5].tolist()
        assert [found["class"] for found in row["detections"]] == values[:, 0].tolist()


def test_an_image_without_objects_has_an_empty_label_file_and_a_row(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    done = predict(run, [str(pictures / "a")], tmp_path / "out", replace(ALL, conf_thres=1.0))
    assert [path.read_text() for path in sorted(done.paths["yolo"].iterdir())] == ["", ""]
    assert [row["detections"] for row in json.loads(done.paths["json"].read_text())] == [[], []]
    assert json.loads(done.paths["coco"].read_text()) == []
    assert len(json.loads((tmp_path / "out" / "images_coco.json").read_text())["images"]) == 2


def test_each_frame_of_a_video_has_its_label_file(run: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 3)
    done = predict(run, [str(clip)], tmp_path / "out", ALL)
    names = sorted(
        path.relative_to(done.paths["yolo"]).as_posix() for path in done.paths["yolo"].rglob("*.txt")
    )
    assert names == ["clip/000000.txt", "clip/000001.txt", "clip/000002.txt"]


def test_pictures_without_an_id_and_images_not_predicted_are_named(
    run: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = annotated(run, pictures, CATEGORIES)
    other = write_images(tmp_path / "other", {"z.png": (40, 40), "x.jpg": (40, 40)})
    sources = [str(pictures / "a" / "x.jpg"), str(other)]
    done = predict(run, sources, tmp_path / "out", replace(ALL, annotations=truth))
    assert [(Path(problem.file).name, problem.kind) for problem in done.problems] == [
        ("x.jpg", "no-image-id"),
        ("z.png", "no-image-id"),
    ]
    assert "3 of its images were not predicted" in caplog.text
    assert {row["image_id"] for row in json.loads(done.paths["coco"].read_text())} == {70}
    assert len(json.loads(done.paths["json"].read_text())) == 3
    assert len(json.loads((tmp_path / "out" / "problems.json").read_text())) == 2


def test_a_file_name_agrees_with_the_end_of_a_path_or_with_a_base_name_that_is_there_once(
    tmp_path: Path,
) -> None:
    names = ["a/x.jpg", "b/x.jpg", "x.jpg", "deep/only.jpg"]
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "ant"}]}))
    problems: list[Problem] = []
    ids = CocoIds(path, problems)
    assert ids.take("/data/deep/only.jpg") == 3
    assert ids.take("other/only.jpg") is None  # taken already
    assert ids.take("/data/a/x.jpg") is None  # it ends like two of them
    assert ids.take("unknown.jpg") is None
    assert [problem.file for problem in problems] == ["other/only.jpg", "/data/a/x.jpg", "unknown.jpg"]
    assert ids.num_left == 3
    assert CocoIds(path, []).take("elsewhere/only.jpg") == 3


def test_ids_that_are_texts_and_names_of_other_systems_are_taken(tmp_path: Path) -> None:
    images = [
        {"id": "img1", "file_name": "images\\1\\a.jpg"},
        {"id": "img2", "file_name": "images\\2\\a.jpg"},
        {"id": "img3", "file_name": "b.jpg"},
        {"id": "img4", "file_name": "b.jpg"},
        {"file_name": "c.jpg"},
    ]
    path = tmp_path / "some.json"
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "ant"}]}))
    ids = CocoIds(path, [])
    assert ids.take("/data/images/2/a.jpg") == "img2"
    assert ids.take("b.jpg") == "img3"
    assert ids.num_left == 1


def test_annotations_that_do_not_fit_are_clear_errors(run: Path, pictures: Path, tmp_path: Path) -> None:
    truth = annotated(run, pictures, CATEGORIES)
    content = json.loads(truth.read_text())
    content["categories"][2]["name"] = "bees"
    truth.write_text(json.dumps(content))
    settings = replace(ALL, annotations=truth)
    with pytest.raises(YoloflowError, match="no category 'bee', a class of the run; did you mean bees"):
        predict(run, [str(pictures / "a")], tmp_path / "out", settings)
    done = predict(run, [str(pictures / "a")], tmp_path / "out", replace(settings, classes=["ant", "7"]))
    assert {row["category_id"] for row in json.loads(done.paths["coco"].read_text())} <= {4, 9}
    truth.write_text('{"images": [{"id": 1}]}')
    with pytest.raises(YoloflowError, match=r'val\.json: is no COCO json: "categories" is missing'):
        predict(run, [str(pictures / "a")], tmp_path / "two", settings)
    with pytest.raises(YoloflowError, match="format coco, which is not asked for"):
        PredictSettings(annotations=truth)
    with pytest.raises(YoloflowError, match="format 'coc' is not known; did you mean coco"):
        predict(run, [str(pictures / "a")], tmp_path / "two", PredictSettings(device="cpu", formats=["coc"]))


def test_no_format_overwrites_what_another_left(run: Path, pictures: Path, tmp_path: Path) -> None:
    predict(run, [str(pictures / "a")], tmp_path / "out", replace(ALL, formats=["yolo"]))
    with pytest.raises(YoloflowError, match="labels exists already"):
        predict(run, [str(pictures / "a")], tmp_path / "out", replace(ALL, formats=["json"]))


def test_many_pictures_of_one_name_all_get_names_of_their_own(tmp_path: Path) -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    image = np.zeros((4, 4, 3), np.uint8)
    with PredictionWriter(tmp_path / "out", Naming(NAMES), ["yolo"], save_images=False) as writer:
        for folder in range(300):
            writer.write(Frame(Path(str(folder), "img.jpg"), image), nothing)
        writer.write(Frame(Path("img-7.jpg"), image), nothing)
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 301


def test_files_that_cannot_be_read_make_exit_code_1_and_a_list(
    run: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (pictures / "a" / "text.png").write_text("hello")
    out = tmp_path / "out"
    options = ["--device", "cpu", "--save-dir", str(out), "--format", "yolo", "--format", "json"]
    assert command(monkeypatch, "predict", str(run), str(pictures / "a"), *options) == 1
    assert capsys.readouterr().out.split() == [str(out / "labels"), str(out / "predictions.json")]
    assert "1 problem, such as" in caplog.text
    (problem,) = json.loads((out / "problems.json").read_text())
    assert Path(problem["file"]).name == "text.png"
    assert read_image(out / "x.jpg").shape == (50, 80, 3)


def test_a_file_name_that_is_no_text_keeps_its_bytes_in_labels_csv(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    odd = os.fsencode(pictures) + b"/\xe4.jpg"
    Path(os.fsdecode(odd)).write_bytes((pictures / "a/x.jpg").read_bytes())
    settings = replace(ALL, formats=("json", "yolo"))
    predict(run, [os.fsdecode(odd)], tmp_path / "out", settings)
    assert odd in (tmp_path / "out" / "labels.csv").read_bytes()


def test_labels_without_scores_are_read_as_a_data_set(run: Path, pictures: Path, tmp_path: Path) -> None:
    # Beside a folder `images` the labels lie where a YOLO data set has them.
    folder = tmp_path / "set"
    write_images(folder / "images", {"x.jpg": (50, 80), "y.png": (90, 64)})
    settings = replace(ALL, formats=("yolo",), scores=False)
    done = predict(run, [str(folder / "images")], folder, settings)
    assert done.num_detections > 0
    assert (folder / "classes.txt").read_text().split() == NAMES
    index = read_index(str(folder / "images"), names=NAMES)
    assert (
        len(index.classes) + len([p for p in index.problems if p.action == "drop-box"]) == done.num_detections
    )
    assert not [problem for problem in index.problems if problem.action.startswith("drop-image")]


def test_crops_hold_each_object_in_a_folder_of_its_class(run: Path, pictures: Path, tmp_path: Path) -> None:
    source = write_video(pictures / "a" / "clip.avi", 2)
    settings = replace(ALL, formats=("crops", "json"))
    done = predict(run, [str(pictures / "a" / "x.jpg"), str(source)], tmp_path / "out", settings)
    rows = json.loads(done.paths["json"].read_text())
    with (tmp_path / "out" / "crops.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == done.num_detections == sum(len(row["detections"]) for row in rows)
    first, found = listed[0], rows[0]["detections"][0]
    x1, y1, x2, y2 = found["box_xyxy"]
    crop = read_image(tmp_path / "out" / "crops" / first["crop"])
    assert Path(first["crop"]).parts == (found["name"], "x-1.jpg")
    assert crop.shape[:2] == (int(np.ceil(y2)) - int(y1), int(np.ceil(x2)) - int(x1))
    assert {row["frame"] for row in listed} == {"", "0", "1"}
    assert all((tmp_path / "out" / "crops" / row["crop"]).is_file() for row in listed)


def test_class_names_become_folder_names_that_differ(tmp_path: Path) -> None:
    naming = Naming(["a/b", "a:b", "..", "x" * 300])
    with PredictionWriter(tmp_path / "out", naming, ["crops"], save_images=False) as writer:
        found = Detections(
            np.array([[0, 0, 5, 5]] * 4, np.float32),
            np.full(4, 0.5, np.float32),
            np.arange(4, dtype=np.int64),
        )
        writer.write(Frame(Path("y" * 240 + ".jpg"), np.zeros((9, 9, 3), np.uint8)), found)
    folders = sorted(path.name for path in (tmp_path / "out" / "crops").iterdir())
    assert folders == ["2", "a-b", "a-b-1", "x" * 200]


@pytest.mark.parametrize("fps", [119.987, 211.222, 90000.0, 59.94006, 0.0333])
def test_a_video_of_any_rate_is_drawn(fps: float, tmp_path: Path) -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    with PredictionWriter(tmp_path / "out", Naming(NAMES)) as writer:
        for number in range(3):
            writer.write(Frame(Path("clip.avi"), np.zeros((16, 24, 3), np.uint8), number, fps), nothing)
    written = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert written.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert written.get(cv2.CAP_PROP_FPS) == pytest.approx(min(fps, 65535), rel=0.01)


def test_a_video_that_cannot_be_drawn_is_a_problem_of_that_video(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    problems: list[Problem] = []
    with PredictionWriter(tmp_path / "out", Naming(NAMES), problems=problems) as writer:
        for name, shape in (("wide.avi", (16, 9000, 3)), ("clip.avi", (16, 24, 3))):
            for number in range(2):
                writer.write(Frame(Path(name), np.zeros(shape, np.uint8), number, 25.0), nothing)
    (problem,) = problems
    assert (problem.file, problem.kind) == ("wide.avi", "not-drawn")
    assert "cannot write MPEG-4 video of 9000 x 16 pixels" in problem.detail
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [row["picture"] for row in rows] == [None, None, "clip.mp4", "clip.mp4"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip.mp4", "predictions.json"]
    assert "ERROR" not in capfd.readouterr().err
