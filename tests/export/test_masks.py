"""Exported networks that segment: rows and prototypes come out, and masks are those of torch."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.tiny_run import NUM_MASKS, tiny_segment_run, write_images
from yoloflow.detector import Detector, DetectSettings, Result
from yoloflow.export import ExportSettings, InnerNms, export
from yoloflow.export.comparison import compare
from yoloflow.models.exported import ExportedInfo, ExportedNetwork
from yoloflow.models.layers.contract import HeadOutput
from yoloflow.predict import PredictSettings, predict

pytestmark = pytest.mark.compile

SIZES_HW = {"a.png": (40, 64), "b.png": (64, 30), "c.png": (50, 100), "d.png": (64, 64)}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), SIZES_HW)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_segment_run(tmp_path_factory.mktemp("runs") / "tiny")


def assert_equal_masks(found: Result, expected: Result, agreement: float = 0.995) -> None:
    """Each mask has a partner of its class, score and pixels; almost equal scores may swap."""
    assert len(found) == len(expected)
    masks = found.mask_array
    for detection, mask in zip(expected, expected.mask_array, strict=True):
        alike = (abs(found.scores - detection.score) < 0.02) & (found.classes == detection.class_number)
        assert (masks[alike] == mask).mean((1, 2)).max(initial=0) > agreement


def test_the_file_has_rows_and_prototypes_and_says_what_they_are(run: Path, tmp_path: Path) -> None:
    done = export(str(run), out=tmp_path / "file.onnx", settings=ExportSettings(check_images=0))
    assert done.deviation < 1e-5
    session = onnxruntime.InferenceSession(done.path)
    assert [output.name for output in session.get_outputs()] == ["predictions", "prototypes"]
    for batch in (1, 3):
        rows, prototypes = session.run(None, {"images": np.zeros((batch, 3, 64, 64), np.uint8)})
        assert rows.shape == (batch, 80, 4 + 3 + NUM_MASKS)
        assert prototypes.shape == (batch, NUM_MASKS, 16, 16)
        assert rows.dtype == prototypes.dtype == np.float32
    says = json.loads(session.get_modelmeta().custom_metadata_map["yoloflow"])
    assert says["output_kind"] == {
        "has_objectness": False,
        "end_to_end": False,
        "mask_channels": NUM_MASKS,
    }
    assert says["output"].endswith(f"score of each class, {NUM_MASKS} mask coefficients")
    assert says["masks"].startswith(f"prototypes: float32 (B, {NUM_MASKS}, h, w), a quarter of the input's")


@pytest.mark.parametrize(
    "settings",
    [
        ExportSettings(),
        ExportSettings(opset=11),
        ExportSettings(half=True),
        ExportSettings(dynamic=True),
        ExportSettings(img_size=(48, 64)),
        ExportSettings(nms=InnerNms(0.5, 0.7, 300), opset=12),
        ExportSettings(nms=InnerNms(0.5, 0.7, 300), half=True, dynamic=True),
    ],
    ids=["plain", "opset 11", "half", "dynamic", "48 x 64", "nms", "nms, half, dynamic"],
)
def test_every_kind_of_file_gives_the_masks_of_torch(
    settings: ExportSettings, run: Path, images: Path, tmp_path: Path
) -> None:
    done = export(str(run), out=tmp_path / "file.onnx", settings=replace(settings, check_images=0))
    file, network = Detector.load(done.path, device="cpu"), Detector.load(run, device="cpu")
    network = replace(network, shape_hw=file.shape_hw)
    assert file.network.output_kind == HeadOutput(False, settings.nms is not None, NUM_MASKS)
    for found, expected in zip(file(images, conf_thres=0.5), network(images, conf_thres=0.5), strict=True):
        if settings.half:
            assert abs(len(found) - len(expected)) <= 2
            assert found.mask_array.any((1, 2)).any()
        else:
            assert len(expected) > 3
            assert_equal_masks(found, expected)


def test_a_file_with_suppression_inside_has_coefficients_behind_its_rows(run: Path, tmp_path: Path) -> None:
    settings = ExportSettings(nms=InnerNms(0.5, 0.7, 90), check_images=0)
    done = export(str(run), out=tmp_path / "file.onnx", settings=settings)
    says = ExportedNetwork(done.path).info
    assert says.output == (
        f"predictions: float32 (B, 90, {6 + NUM_MASKS}): x1, y1, x2, y2 in input pixels, score, class, "
        f"{NUM_MASKS} mask coefficients; needs no suppression; rows with score 0 are empty"
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), np.uint8).repeat(8, 2).repeat(8, 3)
    rows, prototypes = onnxruntime.InferenceSession(done.path).run(None, {"images": images})
    assert rows.shape == (2, 90, 6 + NUM_MASKS)
    assert prototypes.shape == (2, NUM_MASKS, 16, 16)
    assert not rows[rows[..., 4] == 0].any(), "rows without a detection are zero"
    assert rows[rows[..., 4] > 0][:, 6:].any(1).all()


def test_what_is_wrong_with_masks_alone_is_a_deviation(run: Path, tmp_path: Path) -> None:
    done = export(str(run), out=tmp_path / "file.onnx", settings=ExportSettings(check_images=0))
    file, network = Detector.load(done.path, device="cpu"), Detector.load(run, device="cpu")
    assert compare(network, file, DetectSettings(), None, 0).deviation < 1e-5
    for name, change in (("prototypes.last.conv.weight", 1.01), ("mask_branches.0.2.weight", 1.01)):
        other = Detector.load(run, device="cpu")
        dict(other.network.named_parameters())[f"head.{name}"].data *= change
        assert compare(other, file, DetectSettings(), None, 0).deviation > 1e-3


def test_predict_takes_the_file_and_draws_its_masks(run: Path, images: Path, tmp_path: Path) -> None:
    done = export(str(run), out=tmp_path / "file.onnx", settings=ExportSettings(check_images=0))
    settings = PredictSettings(device="cpu", conf_thres=0.5, formats=("json", "cutouts"))
    summary = predict(done.path, [str(images)], settings=settings)
    rows = json.loads(summary.paths["json"].read_text())
    assert summary.num_detections > 10
    assert all(
        row["segmentation"]["size"] == [image["height"], image["width"]]
        for image in rows
        for row in image["detections"]
    )


def test_a_file_of_an_older_version_is_read(run: Path, tmp_path: Path) -> None:
    done = export(str(run), out=tmp_path / "file.onnx", settings=ExportSettings(check_images=0))
    content = json.loads(done.info.to_text())
    del content["masks"], content["output_kind"]["mask_channels"]
    assert ExportedInfo.from_text(json.dumps(content)).output_kind == HeadOutput()


def test_the_example_of_the_docs_makes_the_masks_of_the_detector(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/segmentation.md").read_text()
    (code,) = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) <= 30
    write_images(tmp_path, {"photo.png": (64, 64)})
    settings = ExportSettings(nms=InnerNms(0.5, 0.7, 300), check_images=0)
    export(str(run), out=tmp_path / "best.onnx", settings=settings)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    (expected,) = Detector.load(run, device="cpu")("photo.png", conf_thres=0.5)
    assert len(names["found"]) == len(expected) > 3
    for (name, score, mask), detection in zip(names["found"], expected, strict=True):
        assert name == detection.name
        assert abs(score - detection.score) < 1e-3
        assert (mask == detection.mask_array).mean() > 0.95
