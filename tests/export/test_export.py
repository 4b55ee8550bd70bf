"""Exported files predict and are evaluated as the networks that they came from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.support.tiny_run import tiny_run
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.result import EvaluationResult
from yoloflow.export import ExportSettings, ExportSummary, export
from yoloflow.flow import train
from yoloflow.models import Network, create_model
from yoloflow.models.exported import ExportedNetwork, require_packages
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import save_weights

SCENES = SceneRecipe(num_train=16, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))

# A recipe of the smallest size of each family.
SMALLEST = (
    *("yolov3", "yolov4", "yolov5n", "yolov5n6", "yolov7-tiny", "yolov7-w6", "yolov8n", "yolov9t"),
    *("yolov10n", "yolov11n", "yolox-nano", "yolox-nano-original"),
)


@pytest.fixture(scope="module")
def val_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_dataset("val", SCENES, tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def run(val_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training, its network made one whose boxes and scores, all alike so early, differ."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = [
        f"data.train_set={digits_dataset('train', SCENES, folder)}",
        *(f"data.val_set={val_set}", f"save_dir={folder}", "name=short"),
        *("img_size=64", "per_batch_size=4", "epochs=1", "network.width_multiple=0.125"),
        *("run_eval=false", "data.num_parallel_workers=0", "device=cpu"),
    ]
    train(load_config("quickstart", overrides))
    network = lively(network_of(str(folder / "short"), 10))
    save_weights(folder / "short/weights/last_ema.safetensors", network.state_dict())
    return folder / "short"


@pytest.fixture(scope="module")
def exported(run: Path) -> ExportSummary:
    return export(str(run))


def network_of(recipe: str, num_classes: int) -> Network:
    """Random weights, and running statistics that matter."""
    config = load_config(recipe)
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def lively(network: Network) -> Network:
    """The network with scores that differ from cell to cell, as a trained one's do."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8))
        for name, parameter in network.head_layer.named_parameters():
            if re.fullmatch(r"class_branches\.\d\.2\.weight", name):
                parameter.normal_(0, 1 / parameter.shape[1] ** 0.5)
            if re.fullmatch(r"class_branches\.\d\.2\.bias", name):
                parameter.fill_(-2.0)
    return network


def saved(network: Network, folder: Path) -> str:
    save_weights(folder / "weights.safetensors", network.state_dict())
    return str(folder / "weights.safetensors")


def assert_equal_detections(found: EvaluationResult, expected: EvaluationResult) -> None:
    assert found.stats == pytest.approx(expected.stats, abs=1e-3)
    for position, wanted in expected.detections.items():
        np.testing.assert_allclose(found.detections[position].scores, wanted.scores, atol=1e-4)
        np.testing.assert_allclose(found.detections[position].boxes_xyxy, wanted.boxes_xyxy, atol=1e-2)
        np.testing.assert_array_equal(found.detections[position].classes, wanted.classes)


@pytest.mark.compile
def test_an_exported_file_is_evaluated_as_the_weights(run: Path, exported: ExportSummary) -> None:
    assert exported.deviation < 1e-4
    assert exported.path.parent == run / "weights"
    expected = evaluate_run(str(run))
    found = evaluate_run(str(run), weight=str(exported.path))
    assert sum(map(len, expected.detections.values())) > 100
    assert_equal_detections(found, expected)
    assert found.settings["shape"] == "square"
    assert found.settings["img_size"] == 64


@pytest.mark.compile
def test_an_exported_file_is_evaluated_without_the_run(
    run: Path, exported: ExportSummary, val_set: Path, tmp_path: Path
) -> None:
    expected = evaluate_run(str(run))
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(exported.path.read_bytes())
    assert_equal_detections(evaluate_run(str(moved), [f"data.val_set={val_set}"]), expected)


@pytest.mark.compile
def test_an_exported_file_can_be_used_with_what_it_says_alone(exported: ExportSummary) -> None:
    session = onnxruntime.InferenceSession(exported.path)
    says = json.loads(session.get_modelmeta().custom_metadata_map["yoloflow"])
    assert says["names"] == [str(digit) for digit in range(10)]
    assert says["test_transforms"] == [{"func_name": "letterbox"}]
    assert says["output_kind"] == {"has_objectness": False, "end_to_end": False, "mask_channels": 0}
    assert says["input"] == "images: uint8 RGB (B, 3, 64, 64)"
    for batch in (1, 3):
        images = np.zeros((batch, 3, says["img_size"], says["img_size"]), np.uint8)
        (predictions,) = session.run(["predictions"], {"images": images})
        assert predictions.shape == (batch, 84, 14)


@pytest.mark.compile
def test_an_exported_file_tells_no_path_of_the_machine(run: Path, exported: ExportSummary) -> None:
    assert str(run.parent).encode() not in exported.path.read_bytes()


@pytest.mark.compile
def test_an_end_to_end_head_is_exported_with_its_last_step(tmp_path: Path) -> None:
    network = network_of("yolov10n", 3)
    weight, out = saved(network, tmp_path), tmp_path / "v10.onnx"
    done = export("yolov10n", ["data.nc=3"], weight=weight, out=out, settings=ExportSettings(img_size=64))
    assert done.info.output_kind.end_to_end
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    (found,) = ExportedNetwork(done.path)(images)
    with torch.inference_mode():
        expected = network.fuse()(images)[0]
    assert found.shape == expected.shape == (2, 84, 6)
    torch.testing.assert_close(found[..., 4], expected[..., 4], rtol=0, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("recipe", SMALLEST)
@pytest.mark.compile
def test_every_family_is_exported(recipe: str, tmp_path: Path) -> None:
    network = network_of(recipe, 3)
    side = 2 * max(network.stride)
    done = export(
        recipe,
        ["data.names=[a,b,c]"],
        weight=saved(network, tmp_path),
        out=tmp_path / "a.onnx",
        settings=ExportSettings(img_size=side),
    )
    assert done.deviation < 1e-4


@pytest.mark.compile
def test_other_data_and_other_sizes_are_refused_in_words(exported: ExportSummary, run: Path) -> None:
    network = ExportedNetwork(exported.path)
    with pytest.raises(YoloflowError, match="predicts 10 classes .* the data set has 1"):
        network.check_names(["cat"])
    with pytest.raises(YoloflowError, match="takes images of 64 x 64 pixels, found 32 x 64"):
        network(torch.zeros(1, 3, 32, 64, dtype=torch.uint8))
    with pytest.raises(YoloflowError, match="img_size=50: must be a multiple of 32"):
        export(str(run), settings=ExportSettings(img_size=50))
    with pytest.raises(YoloflowError, match=r"exported networks are \.onnx files"):
        export(str(run), out="model.pt")


@pytest.mark.compile
def test_files_that_are_no_export_are_refused_in_words(tmp_path: Path, exported: ExportSummary) -> None:
    with pytest.raises(YoloflowError, match="there is no such file"):
        ExportedNetwork(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(YoloflowError, match=r"broken\.onnx: not a readable ONNX file"):
        ExportedNetwork(broken)
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(YoloflowError, match=r"bare\.onnx: does not say how to use it"):
        ExportedNetwork(tmp_path / "bare.onnx")


def test_a_missing_package_is_named_with_the_extra() -> None:
    with pytest.raises(YoloflowError, match=r"export needs nowhere: pip install 'yoloflow\[export\]'"):
        require_packages(("json", "nowhere"), "export")


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    with pytest.raises(YoloflowError, match="img_size=50: must be a multiple of 32"):
        export(str(run), settings=ExportSettings(img_size=50))
    with pytest.raises(YoloflowError, match=r"exported networks are \.onnx files"):
        export(str(run), out=tmp_path / "model.pt")
    assert [path.name for path in (run / "weights").iterdir()] == ["best.safetensors"]


def test_weights_of_another_network_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    with pytest.raises(YoloflowError, match="does not fit the network"):
        export("yolov8n", weight=str(run / "weights" / "best.safetensors"))
    assert [path.name for path in (run / "weights").iterdir()] == ["best.safetensors"]


def test_what_is_no_exported_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="there is no such file"):
        ExportedNetwork(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(YoloflowError, match=r"broken\.onnx: not a readable ONNX file"):
        ExportedNetwork(tmp_path / "broken.onnx")
