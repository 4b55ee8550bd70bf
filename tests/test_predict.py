"""The predict flow, with a small network of random weights saved as a run."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import yoloflow
from tests.support.images import read_image
from tests.support.tiny_run import NAMES, tiny_run, write_images, write_video
from yoloflow.data.dataset import COCODataset
from yoloflow.data.read_ahead import read_frames
from yoloflow.data.sources import Frame, open_sources
from yoloflow.detector import Detector, DetectSettings
from yoloflow.predict import PredictSettings, predict
from yoloflow.report.prediction_formats import Naming
from yoloflow.report.prediction_writer import PredictionWriter
from yoloflow.structures import Detections, Problem, YoloflowError

EVERYTHING = DetectSettings(conf_thres=0.0, iou_thres=0.6)
CPU = PredictSettings(device="cpu")
EVERY = PredictSettings(device="cpu", conf_thres=0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    sizes_hw = {"a/x.jpg": (50, 80), "a/y.png": (90, 64), "b/x.jpg": (64, 64), "b/X.png": (33, 200)}
    return write_images(tmp_path / "pictures", sizes_hw)


def video_frames(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    while True:
        is_read, frame = capture.read()
        if not is_read:
            return frames
        frames.append(frame)


def test_pictures_give_json_and_drawn_pictures(run: Path, pictures: Path, tmp_path: Path) -> None:
    summary = predict(run, [str(pictures / "a")], save_dir=tmp_path / "out", settings=EVERY)
    rows = json.loads(summary.paths["json"].read_text())
    assert [Path(row["file"]).name for row in rows] == ["x.jpg", "y.png"]
    assert [(row["height"], row["width"], row["frame"]) for row in rows] == [(50, 80, None), (90, 64, None)]
    assert summary.num_images == 2
    assert summary.num_detections == sum(len(row["detections"]) for row in rows) > 0
    for row in rows:
        original = read_image(row["file"])
        drawn = read_image(tmp_path / "out" / row["picture"])
        assert drawn.shape == original.shape
        scores = [found["score"] for found in row["detections"]]
        assert scores == sorted(scores, reverse=True)
        for found in row["detections"]:
            x1, y1, x2, y2 = found["box_xyxy"]
            assert 0 <= x1 <= x2 <= row["width"]
            assert 0 <= y1 <= y2 <= row["height"]
            assert NAMES[found["class"]] == found["name"]


def test_pictures_of_equal_stem_do_not_overwrite_each_other(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    summary = predict(run, [str(pictures / "**" / "*")], save_dir=tmp_path / "out", settings=CPU)
    names = [row["picture"] for row in json.loads(summary.paths["json"].read_text())]
    assert len({name.lower() for name in names}) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*names, "predictions.json"])


def test_a_video_is_read_and_written_frame_by_frame(run: Path, tmp_path: Path) -> None:
    for suffix in (".mp4", ".avi"):
        source = write_video(tmp_path / f"clip{suffix}")
        summary = predict(
            run, [str(source)], save_dir=tmp_path / suffix[1:], settings=replace(CPU, batch_size=3)
        )
        rows = json.loads(summary.paths["json"].read_text())
        assert [row["frame"] for row in rows] == list(range(7))
        assert {row["picture"] for row in rows} == {"clip.mp4"}
        written = cv2.VideoCapture(str(tmp_path / suffix[1:] / "clip.mp4"))
        assert round(written.get(cv2.CAP_PROP_FPS)) == 12
        frames = video_frames(tmp_path / suffix[1:] / "clip.mp4")
        assert len(frames) == 7
        assert frames[0].shape == (64, 96, 3)


def test_detections_of_a_batch_equal_those_one_by_one(run: Path, pictures: Path) -> None:
    detector = Detector.load(run, device="cpu")
    images = [frame.image for frame in read_frames(open_sources([str(pictures / "*" / "*")]), [])]
    together = detector.detect(images, EVERYTHING)
    for image, expected in zip(images, together, strict=True):
        (alone,) = detector.detect([image], EVERYTHING)
        assert len(alone) == len(expected) > 0
        np.testing.assert_allclose(alone.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(alone.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)


def test_a_picture_is_prepared_as_in_evaluation(run: Path, pictures: Path) -> None:
    detector = Detector.load(run, device="cpu")
    content = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(("x.jpg", "y.png"))],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (pictures / "a" / "set.json").write_text(json.dumps(content))
    dataset = COCODataset(str(pictures / "a" / "set.json"), 64, [{"func_name": "letterbox"}])
    assert len(dataset) == 2
    for k in range(len(dataset)):
        expected = dataset.get(0, k)
        image = read_image(dataset.index.image_paths[k])
        prepared = detector.prepare(image)
        assert np.array_equal(prepared.image, expected.image)
        assert prepared.scale_xy == expected.scale_xy
        assert prepared.pad_xy == expected.pad_xy


def test_only_the_classes_asked_for_are_reported(run: Path, pictures: Path) -> None:
    sources = [str(pictures / "a")]
    detector = Detector.load(run, device="cpu")
    for asked, number in (("bee", 1), (1, 1), ("7", 2), ("0", 0)):
        for _, found in detector.stream(sources, conf_thres=0.0, classes=[asked]):
            assert set(found.classes.tolist()) <= {number}
    every = [found for _, found in detector.stream(sources, conf_thres=0.0)]
    assert len(set(np.concatenate([found.classes for found in every]).tolist())) > 1


def test_other_classes_do_not_use_up_the_limit_of_detections(run: Path) -> None:
    detector = Detector.load(run, device="cpu")
    (every,) = detector.detect([np.full((64, 64, 3), 90, np.uint8)], EVERYTHING)
    asked = next(number for number in range(len(NAMES)) if number not in every.classes[:2])
    few = replace(EVERYTHING, classes=(asked,), max_det=2)
    (found,) = detector.detect([np.full((64, 64, 3), 90, np.uint8)], few)
    expected = every.scores[every.classes == asked][:2]
    assert np.array_equal(found.scores, expected)
    assert len(found) == 2


def test_the_exif_rotation_of_a_picture_is_respected(run: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), (200, 30, 60)).save(tmp_path / "turned.jpg", exif=exif)
    summary = predict(run, [str(tmp_path / "turned.jpg")], save_dir=tmp_path / "out", settings=CPU)
    (row,) = json.loads(summary.paths["json"].read_text())
    assert (row["width"], row["height"]) == (40, 80)


def test_unreadable_files_are_named_and_passed_over(run: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "a" / "empty.jpg").write_bytes(b"")
    (pictures / "a" / "text.png").write_text("hello")
    (pictures / "a" / "broken.mp4").write_bytes(b"no video at all" * 50)
    (pictures / "a" / "notes.txt").write_text("not looked at")
    whole = (pictures / "a" / "x.jpg").read_bytes()
    (pictures / "a" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    summary = predict(run, [str(pictures / "a")], save_dir=tmp_path / "out", settings=CPU)
    assert summary.num_images == 2
    found = {(Path(problem.file).name, problem.kind) for problem in summary.problems}
    assert found == {
        ("empty.jpg", "unreadable-image"),
        ("text.png", "unreadable-image"),
        ("cut.jpg", "unreadable-image"),
        ("broken.mp4", "unreadable-video"),
    }


def test_if_nothing_can_be_read_it_is_an_error(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(YoloflowError, match=r"none of the 1 files.*text\.png"):
        predict(run, [str(tmp_path / "text.png")], save_dir=tmp_path / "out", settings=CPU)


def test_a_video_that_ends_early_is_named_and_its_frames_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", num_frames=40)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    problems: list[Problem] = []
    frames = list(read_frames([path], problems))
    assert 0 < len(frames) < 40
    assert [frame.number for frame in frames] == list(range(len(frames)))
    assert len(problems) <= 1
    assert all(problem.kind == "short-video" for problem in problems)


def test_sources_that_are_not_there_are_clear_errors(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    cases = {
        str(pictures / "a" / "x.jpeg"): f"no such file or folder; did you mean {pictures / 'a' / 'x.jpg'}?",
        str(pictures / "c" / "x.jpg"): "there is no folder",
        str(pictures): r"holds no image or video.*\*\*.*looks into its 2 folders",
        str(tmp_path / "hollow"): "holds no image or video",
        str(pictures / "a" / "*.bmp"): "holds no image or video",
    }
    for source, message in cases.items():
        with pytest.raises(YoloflowError, match=message):
            open_sources([source])
    with pytest.raises(YoloflowError, match="no source given"):
        open_sources([])


def test_a_file_named_twice_is_taken_once(pictures: Path) -> None:
    files = open_sources([str(pictures / "a" / "y.png"), str(pictures / "a"), str(pictures / "a" / "*.jpg")])
    assert [path.name for path in files if isinstance(path, Path)] == ["y.png", "x.jpg"]


def test_predictions_are_never_overwritten(run: Path, pictures: Path) -> None:
    first = predict(run, [str(pictures / "a")], settings=replace(CPU, save_images=False))
    second = predict(run, [str(pictures / "a")], settings=replace(CPU, save_images=False))
    assert (first.save_dir, second.save_dir) == (run / "predictions", run / "predictions-2")
    assert [path.name for path in first.save_dir.iterdir()] == ["predictions.json"]
    with pytest.raises(YoloflowError, match="exists already"):
        predict(run, [str(pictures / "a")], save_dir=first.save_dir, settings=CPU)


def test_an_interrupted_prediction_leaves_valid_json_of_what_was_done(pictures: Path, tmp_path: Path) -> None:
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    image = np.zeros((20, 30, 3), np.uint8)

    def interrupted() -> None:
        with PredictionWriter(tmp_path / "out", Naming(NAMES)) as writer:
            writer.write(Frame(Path("x.jpg"), image), nothing)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 1
    with PredictionWriter(tmp_path / "none", Naming(NAMES)):
        pass
    assert json.loads((tmp_path / "none" / "predictions.json").read_text()) == []


def test_a_weights_file_inside_a_run_is_taken_as_named(run: Path) -> None:
    by_file = Detector.load(run / "weights" / "best.safetensors", device="cpu")
    assert by_file.names == NAMES
    assert by_file.img_size == 64


def test_a_run_or_size_or_class_that_is_not_usable_is_a_clear_error(
    run: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "lonely.safetensors").write_bytes(b"")
    with pytest.raises(YoloflowError, match=r"lonely\.safetensors: is empty; copy it again"):
        Detector.load(tmp_path / "lonely.safetensors")
    with pytest.raises(YoloflowError, match="no such file or folder"):
        Detector.load(tmp_path / "nowhere")
    with pytest.raises(YoloflowError, match="multiple of 32"):
        Detector.load(run, img_size=100)
    with pytest.raises(YoloflowError, match="no class 'be'.*did you mean bee"):
        Detector.load(run, device="cpu").class_numbers(["be"])
    with pytest.raises(YoloflowError, match=r"conf_thres=1\.5"):
        predict(run, [str(pictures / "a")], settings=replace(CPU, conf_thres=1.5))
    with pytest.raises(YoloflowError, match="batch_size=0"):
        PredictSettings(batch_size=0)


def test_names_recorded_in_the_run_come_before_those_of_its_settings(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "weights").mkdir(parents=True)
    weights = (run / "weights" / "best.safetensors").read_bytes()
    (other / "weights" / "last.safetensors").write_bytes(weights)
    text = (run / "config.yaml").read_text()
    (other / "config.yaml").write_text(text)
    (other / "names.json").write_text('["one", "two", "three"]')
    assert Detector.load(other, device="cpu").names == ["one", "two", "three"]


def test_the_detector_takes_files_and_pixels_one_or_several(run: Path, pictures: Path) -> None:
    detector = yoloflow.Detector.load(run, device="cpu")
    paths = [pictures / "a" / "x.jpg", pictures / "a" / "y.png", pictures / "b" / "x.jpg"]
    found = detector(paths, conf_thres=0.0, iou_thres=0.6, batch_size=2)
    for path, expected in zip(paths, found, strict=True):
        pixels = read_image(path)
        several: tuple[str | np.ndarray | list[np.ndarray], ...] = (str(path), pixels, [pixels])
        for given in several:
            (alone,) = detector(given, conf_thres=0.0, iou_thres=0.6)
            np.testing.assert_allclose(alone.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)
            assert len(alone) > 0
    assert detector([]) == []
    (bees,) = detector(paths[0], conf_thres=0.0, classes=["bee"])
    (same,) = detector(paths[0], conf_thres=0.0, classes="bee")
    assert np.array_equal(same.scores, bees.scores)
    assert set(bees.classes.tolist()) == {1}


def test_a_run_that_is_evaluated_in_rectangles_predicts_in_rectangles(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "rect", "yolov8n", "data.test_rect=true")
    sizes_hw = {"wide.png": (20, 64), "high.png": (64, 30), "square.png": (60, 64), "flat.png": (25, 64)}
    folder = write_images(tmp_path / "set", sizes_hw)
    content = {
        "images": [{"id": k, "file_name": name} for k, name in enumerate(sizes_hw)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "ant"}],
    }
    (folder / "set.json").write_text(json.dumps(content))
    dataset = COCODataset(str(folder / "set.json"), 64, [{"func_name": "letterbox"}])
    detector = Detector.load(run, device="cpu")
    images = [read_image(path) for path in dataset.index.image_paths]
    shapes = [(32, 64), (64, 32), (64, 64), (32, 64)]
    for k, (image, shape_hw) in enumerate(zip(images, shapes, strict=True)):
        expected, prepared = dataset.get(0, k, shape_hw), detector.prepare(image)
        assert prepared.image.shape[:2] == shape_hw
        assert np.array_equal(prepared.image, expected.image)
        assert prepared.pad_xy == expected.pad_xy
    for image, together in zip(images, detector.detect(images, EVERYTHING), strict=True):
        (alone,) = detector.detect([image], EVERYTHING)
        np.testing.assert_allclose(alone.boxes_xyxy, together.boxes_xyxy, atol=1e-2)


@pytest.mark.parametrize("recipe", ["yolov10n", "yolox-tiny"])
def test_heads_of_other_kinds_predict(recipe: str, tmp_path: Path, pictures: Path) -> None:
    run = tiny_run(tmp_path / "run", recipe, "network.width_multiple=0.125")
    detector = Detector.load(run, device="cpu")
    for frame, found in detector.stream(str(pictures / "a"), conf_thres=0.0):
        assert 0 < len(found) <= 300
        height, width = frame.image.shape[:2]
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= (width, height, width, height)).all()
        assert (np.diff(found.scores) <= 0).all()
        assert set(found.classes.tolist()) <= {0, 1, 2}


def test_sources_of_which_nothing_can_be_read_leave_no_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "none.jpg").write_bytes(b"")
    for source in ("notes.txt", "none.jpg"):
        with pytest.raises(YoloflowError, match="none of the 1 files could be read"):
            predict(run, [str(tmp_path / source)], tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()
