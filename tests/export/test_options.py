"""Every kind of exported file detects what torch detects, on images with objects."""

import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.tiny_run import NAMES, tiny_run, write_images
from yoloflow.detector import Detector
from yoloflow.evaluate import evaluate_run
from yoloflow.export import ExportSettings, ExportSummary, InnerNms, export
from yoloflow.models.exported import ExportedInfo
from yoloflow.predict import PredictSettings, predict
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights, save_weights

SIZES_HW = {"a.png": (40, 64), "b.png": (64, 30), "c.png": (50, 100), "d.png": (64, 64)}
SMALL = """# Recipe: two levels, a few convolutions
__BASE__: yolov8n
network:
  stride: [8, 16]
  backbone:
    - [stem, -1, 1, ConvNormAct, [16, 3, 2]]
    - [p2, -1, 1, ConvNormAct, [32, 3, 2]]
    - [p3, -1, 1, ConvNormAct, [32, 3, 2]]
    - [p4, -1, 1, ConvNormAct, [32, 3, 2]]
  head:
    - [head, [p3, p4], 1, YOLOv8Head, [nc, reg_max, stride]]
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), SIZES_HW)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.yaml").write_text(SMALL)
    made = tiny_run(folder / "small", str(folder / "small.yaml"), f"data.val_set={images / 'val.json'}")
    weights = made / "weights" / "best.safetensors"
    state = load_weights(weights)
    for name, tensor in state.items():
        if "class_branches" in name and name.endswith("2.bias"):
            tensor.fill_(-0.5)
        if "class_branches" in name and name.endswith("2.weight"):
            tensor *= 5
    save_weights(weights, state)
    truth(Detector.load(made, device="cpu"), images)
    return made


def truth(detector: Detector, images: Path) -> None:
    """Objects near some of the network's own detections."""
    rows: list[dict[str, object]] = []
    for number, name in enumerate(SIZES_HW):
        (found,) = detector(images / name, conf_thres=0.3)
        for box, label in list(zip(found.boxes_xyxy.tolist(), found.classes.tolist(), strict=True))[::3]:
            x1, y1, x2, y2 = (value * 0.97 for value in box)
            row = {"id": len(rows) + 1, "image_id": number, "category_id": label}
            rows.append(row | {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, "area": 50.0})
    listed = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, (height, width)) in enumerate(SIZES_HW.items())
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": listed, "annotations": rows, "categories": categories}
    (images / "val.json").write_text(json.dumps(content))


def exported(run: Path, folder: Path, settings: ExportSettings) -> ExportSummary:
    return export(str(run), out=folder / "file.onnx", settings=settings)


def test_an_exported_file_detects_what_torch_detects_and_its_ap_is_told(
    run: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yoloflow")
    done = exported(run, tmp_path, ExportSettings())
    compared = done.comparison
    assert compared.deviation < 1e-5
    assert compared.num_images == 4
    assert compared.ap_torch is not None
    assert compared.ap_torch > 0.05
    assert compared.ap_file == pytest.approx(compared.ap_torch, abs=1e-3)
    assert f"torch {compared.ap_torch:.4f}, file.onnx {compared.ap_file:.4f}" in caplog.text


@pytest.mark.compile
def test_an_exported_file_predicts_as_the_run(run: Path, images: Path, tmp_path: Path) -> None:
    done = exported(run, tmp_path, ExportSettings(check_images=0))
    expected = Detector.load(run, device="cpu")(images)
    file_found = Detector.load(done.path, device="cpu")(images)
    assert sum(map(len, expected)) > 10
    for some, others in zip(file_found, expected, strict=True):
        assert some.source == others.source
        np.testing.assert_allclose(some.boxes_xyxy, others.boxes_xyxy, atol=1e-2)
    summary = predict(done.path, [str(images)], settings=PredictSettings(device="cpu", save_images=False))
    assert summary.save_dir == tmp_path / "predictions"
    assert summary.num_detections == sum(map(len, expected))


@pytest.mark.compile
@pytest.mark.parametrize(
    "settings",
    [
        ExportSettings(opset=11),
        ExportSettings(opset=20),
        ExportSettings(half=True),
        ExportSettings(dynamic=True),
        ExportSettings(img_size=(48, 64)),
        ExportSettings(nms=InnerNms(0.3, 0.5, 7), opset=12),
        ExportSettings(nms=InnerNms(), half=True, dynamic=True),
    ],
    ids=["opset 11", "opset 20", "half", "dynamic", "48 x 64", "nms", "nms, half, dynamic"],
)
def test_every_kind_of_file_is_compared_with_torch(
    run: Path, images: Path, tmp_path: Path, settings: ExportSettings
) -> None:
    done = exported(run, tmp_path, settings)
    assert done.comparison.deviation < (5e-2 if settings.half else 1e-4)
    assert done.comparison.ap_file == pytest.approx(done.comparison.ap_torch, abs=0.01)
    model = onnx.load(done.path)
    assert model.opset_import[0].version == settings.opset
    detector = Detector.load(done.path, device="cpu")
    found = detector(images, conf_thres=0.3)
    assert sum(map(len, found)) > 5
    if settings.nms is not None and settings.nms.max_det == 7:
        assert max(map(len, found)) <= 7
    if settings.half:
        assert done.path.stat().st_size < 0.6 * (run / "weights" / "best.safetensors").stat().st_size


@pytest.mark.compile
def test_a_file_that_is_not_square_is_evaluated_and_says_its_size(
    run: Path, images: Path, tmp_path: Path
) -> None:
    done = exported(run, tmp_path, ExportSettings(img_size=(48, 64)))
    assert done.info.shape_hw == [48, 64]
    assert done.info.input == "images: uint8 RGB (B, 3, 48, 64)"
    result = evaluate_run(str(done.path), [f"data.val_set={images / 'val.json'}", "device=cpu"])
    assert result.settings["shape"] == "48 x 64"
    assert result.stats[0] == pytest.approx(done.comparison.ap_torch or 0.0, abs=2e-2)


@pytest.mark.compile
def test_a_file_with_suppression_inside_refuses_scores_that_it_has_not(run: Path, tmp_path: Path) -> None:
    done = exported(run, tmp_path, ExportSettings(nms=InnerNms(conf_thres=0.4), check_images=0))
    assert done.comparison.num_images == 0
    detector = Detector.load(done.path, device="cpu")
    with pytest.raises(YoloflowError, match=r"export again with --conf-thres 0\.25"):
        detector(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(YoloflowError, match="takes 64 x 64 pixels alone; export again with --img-size"):
        Detector.load(done.path, img_size=32)


@pytest.mark.compile
def test_an_evaluation_says_what_suppression_is_inside_the_file(
    run: Path, images: Path, tmp_path: Path
) -> None:
    done = exported(run, tmp_path, ExportSettings(nms=InnerNms(0.4, 0.6, 5), check_images=0))
    found = evaluate_run(str(done.path), [f"data.val_set={images / 'val.json'}", "device=cpu"])
    assert "NMS iou 0.6 inside the file, conf 0.4, max_det 5" in found.settings_line
    wanted = {"nms": True, "nms_inside": True, "multi_label": False, "conf_thres": 0.4, "max_det": 5}
    assert {key: found.settings[key] for key in wanted} == wanted
    strict = [f"data.val_set={images / 'val.json'}", "conf_thres=0.5", "max_det=3"]
    assert "conf 0.5, max_det 3" in evaluate_run(str(done.path), strict).settings_line


@pytest.mark.compile
def test_a_detector_of_an_exported_file_is_sent_to_another_process(run: Path, tmp_path: Path) -> None:
    detector = Detector.load(exported(run, tmp_path, ExportSettings(check_images=0)).path, device="cpu")
    image = np.full((40, 64, 3), 90, np.uint8)
    (found,), (same,) = detector(image), pickle.loads(pickle.dumps(detector))(image)
    assert list(found) == list(same)


def test_settings_that_cannot_be_written_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="opset=21: 11 to 20 can be written"):
        ExportSettings(opset=21)
    with pytest.raises(YoloflowError, match="a file of dynamic size takes any"):
        ExportSettings(dynamic=True, img_size=64)
    with pytest.raises(YoloflowError, match="img_size=48x50: must be a multiple of 16"):
        exported(run, tmp_path, ExportSettings(img_size=(48, 50)))
    assert list(tmp_path.iterdir()) == []


def test_metadata_of_the_first_files_are_read() -> None:
    before = {
        **{"names": ["a"], "img_size": 64, "stride": [8], "test_transforms": [], "test_shrink": "area"},
        **{"config": "", "version": "0.1.0", "input": "", "output": ""},
        "output_kind": {"has_objectness": False, "end_to_end": False},
    }
    read = ExportedInfo.from_text(json.dumps(before))
    assert (read.shape_hw, read.half, read.nms) == ([64, 64], False, None)
    assert ExportedInfo.from_text(read.to_text()) == read
