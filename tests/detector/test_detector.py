"""The detector in Python: what it takes, what it gives, and that it may be copied and sent."""

import copy
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from tests.support.tiny_run import read_image, tiny_run, write_images, write_video
from yoloflow.config.reader import load_config
from yoloflow.detector import Detector, DetectSettings, Result
from yoloflow.detector.images import ImageInput
from yoloflow.detector.loading import find_parts
from yoloflow.models import Prediction
from yoloflow.structures import YoloflowError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def detector(run: Path) -> Detector:
    return Detector.load(run, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"a.png": (50, 80), "b.png": (90, 64), "c.png": (20, 200)})


def equal(some: Result, others: Result) -> bool:
    return list(some) == list(others)


def test_a_detector_that_was_used_is_copied_and_sent_to_another_process(
    detector: Detector, images: Path, tmp_path: Path
) -> None:
    (found,) = detector(images / "a.png", conf_thres=0.0)
    for other in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert equal(other(images / "a.png", conf_thres=0.0)[0], found)
    torch.save(detector.network, tmp_path / "network.pt")


def test_files_arrays_pil_images_and_bytes_of_one_image_give_the_same(
    detector: Detector, images: Path
) -> None:
    path = images / "a.png"
    pixels = read_image(path)
    (expected,) = detector(path, conf_thres=0.0)
    assert len(expected) > 5
    alike: list[ImageInput] = [
        str(path),
        pixels,
        path.read_bytes(),
        io.BytesIO(path.read_bytes()),
        Image.open(path),
        np.dstack([pixels, pixels[..., :1]]),
        pixels[:, ::-1][:, ::-1],
        Image.fromarray(np.dstack([pixels[..., ::-1], pixels[..., :1]])),
    ]
    for found in detector(alike, conf_thres=0.0):
        assert equal(found, expected)
    with path.open("rb") as file:
        assert equal(detector(file, conf_thres=0.0)[0], expected)
    assert equal(detector((given for given in [pixels]), conf_thres=0.0)[0], expected)


def test_grey_images_are_taken_in_all_forms(detector: Detector) -> None:
    grey = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    alike: list[ImageInput] = [
        grey,
        grey[..., None],
        np.dstack([grey] * 3),
        Image.fromarray(grey),
        Image.fromarray(grey.astype(np.uint16) * 256),
    ]
    expected, *others = detector(alike, conf_thres=0.0)
    assert all(equal(found, expected) for found in others)


def test_a_pil_image_is_turned_as_its_exif_says(detector: Detector, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), (200, 30, 60)).save(tmp_path / "turned.jpg", exif=exif)
    found = detector([Image.open(tmp_path / "turned.jpg"), tmp_path / "turned.jpg"], conf_thres=0.0)
    assert [(result.width, result.height) for result in found] == [(40, 80)] * 2


def test_folders_and_patterns_give_a_result_for_each_image_that_can_be_read(
    detector: Detector, images: Path
) -> None:
    (images / "broken.png").write_text("hello")
    assert [Path(found.source).name for found in detector(images)] == ["a.png", "b.png", "c.png"]
    assert [Path(found.source).name for found in detector([str(images / "[ab].png"), images / "c.png"])] == [
        *("a.png", "b.png", "c.png")
    ]
    with pytest.raises(YoloflowError, match=r"broken\.png: not an image"):
        detector([images / "a.png", images / "broken.png"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "images is None: cv2.imread gives None"),
        ([np.zeros((8, 8, 3), np.uint8), None], r"images\[1\] is None"),
        (5, "images: int is no image"),
        ([1.5], r"images\[0\]: float is no image"),
        (torch.zeros(3, 8, 8), r"images\[0\]: Tensor; give \(H, W, 3\) uint8 BGR"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"should be \(H, W, 3\) uint8.*list\(batch\)"),
        (np.zeros((3, 8, 9), np.uint8), "channels come last"),
        (np.full((8, 8, 3), 0.5), r"found \(8, 8, 3\) float64; scale it"),
        (np.zeros((0, 8, 3), np.uint8), r"found \(0, 8, 3\) uint8"),
        (b"", "zero bytes"),
        (b"nonsense", "not an image"),
        (io.BytesIO(), r"nothing is left to read; go back to the file's beginning: seek\(0\)"),
        ([io.StringIO("text")], r"images\[0\]: a file that is open for text; open it with mode 'rb'"),
        (Image.new("F", (5, 5)), "PIL image of mode F"),
        ("gone.jpg", "gone.jpg: there is no such file or folder"),
        ("", "an empty text is no source"),
        ("camera:0", r"use detector\.stream\('camera:0'\)"),
        ("rtsp://host/door", r"use detector\.stream\('rtsp://host/door'\)"),
    ],
)
def test_what_is_no_image_is_named(detector: Detector, given: object, message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        detector(given)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["0.5", None, -1, 2, float("nan")])
def test_a_threshold_that_is_no_share_is_named(detector: Detector, images: Path, value: object) -> None:
    with pytest.raises(YoloflowError, match="conf_thres=.*: must be a number between 0 and 1"):
        detector(images / "a.png", conf_thres=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("max_det", "5"), ("max_det", 2.5), ("batch_size", None)])
def test_a_number_of_boxes_or_images_that_is_no_count_is_named(
    detector: Detector, images: Path, name: str, value: object
) -> None:
    with pytest.raises(YoloflowError, match=f"{name}=.*: must be a whole number, 1 or more"):
        detector(images / "a.png", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, 0, np.zeros((8, 8, 3), np.uint8), [io.BytesIO()]])
def test_what_is_no_source_of_a_stream_is_named(detector: Detector, given: object) -> None:
    with pytest.raises(YoloflowError, match=r"give files, folders, .* for the detector itself"):
        detector.stream(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([None], {}, "None: a run folder, a file of weights or a recipe's name is expected"),
        (["yolov5n"], {}, "a recipe has no weights of its own; give weight=FILE"),
        (["yolov5n", "best.safetensors"], {}, "img_size='best.safetensors': must be a whole number"),
        (["yolov5n"], {"weight": "gone.pt"}, "gone.pt: there is no such weights file"),
        (["yolov5n"], {"overrides": "weight=gone.pt"}, "should be a list of texts"),
    ],
)
def test_what_cannot_be_loaded_is_named(arguments: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        Detector.load(*arguments, **options)


def test_weights_are_given_to_a_recipe_as_an_argument(run: Path, detector: Detector) -> None:
    weights = run / "weights" / "best.safetensors"
    other = Detector.load(run / "config.yaml", weight=weights, device="cpu")
    image = np.full((64, 64, 3), 90, np.uint8)
    assert equal(other(image, conf_thres=0.0)[0], detector(image, conf_thres=0.0)[0])


def test_an_onnx_file_of_others_is_for_its_recipe(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    kernel = onnx.numpy_helper.from_array(np.zeros((4, 3, 1, 1), np.float32), "kernel")
    node = onnx.helper.make_node("Conv", ["x", "kernel"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 8, 8])
    graph = onnx.helper.make_graph([node], "bare", [value], [result], [kernel])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "bare.onnx")
    with pytest.raises(YoloflowError, match=r"the recipe before it: RECIPE weight=.*bare\.onnx$"):
        Detector.load(tmp_path / "bare.onnx")


def test_a_video_is_for_the_stream(detector: Detector, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 3)
    with pytest.raises(YoloflowError, match=r"clip\.avi: is a video.*use detector\.stream"):
        detector(clip)
    results = [found for _, found in detector.stream(clip, conf_thres=0.0)]
    assert [found.frame for found in results] == [0, 1, 2]
    assert results[1].save(tmp_path).name == "clip-000001.jpg"


@pytest.mark.parametrize("classes", [1, np.int64(1), "bee", ["bee"], np.array([1]), (np.int32(1),)])
def test_a_class_is_named_or_numbered_by_any_kind_of_integer(detector: Detector, classes: object) -> None:
    (found,) = detector(np.full((64, 64, 3), 90, np.uint8), conf_thres=0.0, classes=classes)  # type: ignore[arg-type]
    assert set(found.classes.tolist()) == {1}


@pytest.mark.parametrize("classes", [3, -1, 1.0, True, "be", [None]])
def test_a_class_that_is_not_there_is_named(detector: Detector, classes: object) -> None:
    with pytest.raises(YoloflowError, match="classes: no class"):
        detector(np.zeros((64, 64, 3), np.uint8), classes=classes)  # type: ignore[arg-type]


def test_the_limit_of_detections_is_the_runs_and_reaching_it_is_said(
    run: Path, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    few = Detector.load(run, device="cpu", overrides=["max_det=4"])
    (found,) = few(image, conf_thres=0.0)
    assert len(found) == 4
    assert "1 of 1 images have as many detections as max_det=4 allows" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(few(image, conf_thres=0.0, max_det=9)[0]) == 9
        assert len(detector(image, conf_thres=0.0)[0]) > 9
    assert caplog.text == ""
    with pytest.raises(YoloflowError, match="max_det=0: must be a whole number, 1 or more"):
        detector(image, max_det=0)


def test_no_box_lies_in_the_border_alone(detector: Detector) -> None:
    # 64 x 32 in the middle of 64 x 64: rows 16 to 48 are the image.
    samples = [detector.prepare(np.zeros((32, 64, 3), np.uint8))]
    rows = torch.tensor(
        [[[32.0, 8, 20, 10, 0, 0.9, 0], [32, 16, 20, 10, 0, 0, 0.8], [80, 32, 9, 9, 0, 0.7, 0]]]
    )
    (found,) = detector.detections(Prediction(rows), samples, DetectSettings())
    assert found.boxes_xyxy.tolist() == [[22.0, 0.0, 42.0, 5.0]]
    assert found.classes.tolist() == [2]


def test_a_result_is_looked_through_drawn_saved_and_made_a_dictionary(
    detector: Detector, images: Path, tmp_path: Path
) -> None:
    (found,) = detector(images / "a.png", conf_thres=0.3)
    first = next(iter(found))
    assert first == found[0]
    assert first.name == detector.names[first.class_number]
    assert found[:2] == [found[0], found[1]]
    assert first.score == found.scores[0]
    assert first.box_xyxy == tuple(found.boxes_xyxy[0].tolist())
    assert sum(found.counts.values()) == len(found) == len(list(found))
    assert repr(found).startswith(f"Result({images / 'a.png'}, 80 x 50: ")
    assert len(repr(found)) < 200
    assert repr(detector) == "Detector(yolov8, 3 classes, 64 px)"
    drawn = found.plot()
    assert drawn.shape == (50, 80, 3)
    assert not np.array_equal(drawn, read_image(images / "a.png"))
    assert np.array_equal(read_image(found.save(tmp_path / "drawn.png")), drawn)
    assert [found.save(tmp_path).name for _ in range(2)] == ["a.jpg", "a-2.jpg"]
    content = found.to_dict()
    assert (content["file"], content["width"], content["height"]) == (str(images / "a.png"), 80, 50)
    assert content["detections"][0]["name"] == first.name
    with pytest.raises(YoloflowError, match="never overwritten"):
        found.save(images / "a.png")
    with pytest.raises(YoloflowError, match=r"no image format; give a name that ends in \.jpg"):
        found.save(tmp_path / "drawn.txt")


def test_a_result_of_pixels_is_drawn_on_them(detector: Detector, tmp_path: Path) -> None:
    pixels = np.full((40, 60, 3), 90, np.uint8)
    (found,) = detector(pixels, conf_thres=0.3)
    assert found.to_dict()["file"] is None
    assert found.plot().shape == (40, 60, 3)
    assert (pixels == 90).all()
    assert repr(detector.detect([pixels], DetectSettings(0.999))[0]) == "Detections(0 boxes)"
    assert cv2.imread(str(found.save(tmp_path))) is not None


def test_a_notebook_shows_a_result_as_a_small_picture(detector: Detector, tmp_path: Path) -> None:
    pixels = np.full((900, 1280, 3), 90, np.uint8)
    (found,) = detector(pixels)
    shown = found._repr_png_()
    assert shown is not None
    picture = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (450, 640, 3)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[:30, :20])
    (found,) = detector(tmp_path / "a.png")
    assert found._repr_png_() is not None
    (tmp_path / "a.png").unlink()
    assert found._repr_png_() is None


def test_weights_that_are_evaluated_do_not_change_the_recipe_as_a_finetuning_would(tmp_path: Path) -> None:
    weights = tiny_run(tmp_path / "run") / "weights" / "best.safetensors"
    parts = find_parts("yolov5n", overrides=[f"weight={weights}"])
    assert parts.config.per_batch_size == load_config("yolov5n").per_batch_size == 32
