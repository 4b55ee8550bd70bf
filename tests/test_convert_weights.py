"""Weights files that are used alone, or with a recipe's name."""

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from yoloflow import load_config
from yoloflow.cli import app
from yoloflow.config.fitting import recipes_that_fit
from yoloflow.config.run_files import weights_facts
from yoloflow.convert_weights import convert_weights
from yoloflow.data.image_files import decode_image
from yoloflow.detector import Detector, find_parts
from yoloflow.detector.detector import to_batch
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.structures import YoloflowError
from yoloflow.trainer.start import load_start
from yoloflow.weights.dialects import dialects_of
from yoloflow.weights.files import read_weights, save_weights
from yoloflow.weights.published import find_published, weights_folder

NARROW = ["network.width_multiple=0.125", "img_size=64"]
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def network_of(recipe: str, classes: int, *overrides: str) -> Network:
    torch.manual_seed(0)
    config = load_config(recipe, overrides)
    return create_model(config.network.model_name, config.network_table(), classes)


@pytest.fixture
def torch_file(tmp_path: Path) -> Path:
    """A file of another project: numbered rows and class names, in half precision."""
    network = network_of("yolov8n", 2, *NARROW)
    state = network.state_dict()
    names = dict(dialects_of(network))["numbered rows"]
    tensors = {f"model.{theirs}": state[ours].half() for theirs, ours in names.items()}
    torch.save({"model": tensors, "names": ["cat", "dog"], "license": "MIT"}, tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_a_recipe_with_a_file_of_another_project_detects_with_its_classes(torch_file: Path) -> None:
    detector = Detector.load("yolov8n", device="cpu", overrides=[*NARROW, f"weight={torch_file}"])
    assert detector.names == ["cat", "dog"]
    detector(IMAGE)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_converted_weights_detect_the_same(suffix: str, torch_file: Path, tmp_path: Path) -> None:
    convert_weights("yolov8n", tmp_path / f"own{suffix}", [*NARROW, f"weight={torch_file}"])
    first = Detector.load("yolov8n", device="cpu", overrides=[*NARROW, f"weight={torch_file}"])
    if suffix == ".safetensors":
        second = Detector.load(tmp_path / "own.safetensors", device="cpu")  # it says all itself
    else:
        overrides = [*NARROW, f"weight={tmp_path / 'own.ckpt'}", "data.names=[cat, dog]"]
        second = Detector.load("yolov8n", device="cpu", overrides=overrides)
    assert (second.names, second.img_size) == (["cat", "dog"], 64)
    found = second.network.state_dict()
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_conversion_overwrites_nothing_and_knows_two_formats(torch_file: Path, tmp_path: Path) -> None:
    (tmp_path / "there.ckpt").touch()
    for name, message in (("there.ckpt", "exists already"), ("x.onnx", r"\.ckpt and \.safetensors")):
        with pytest.raises(YoloflowError, match=message):
            convert_weights("yolov8n", tmp_path / name, [*NARROW, f"weight={torch_file}"])


@pytest.mark.training
def test_a_file_alone_that_does_not_say_its_network_is_told_the_recipe(tmp_path: Path) -> None:
    network = network_of("yolox-nano", 3)
    state = network.state_dict()
    tensors = {theirs: state[ours] for theirs, ours in dict(dialects_of(network))["YOLOX"].items()}
    torch.save({"model": tensors}, tmp_path / "nano.pth")
    assert recipes_that_fit(tmp_path / "nano.pth") == ["yolox-nano-original", "yolox-nano"]
    with pytest.raises(
        YoloflowError,
        match=r"recipe before it: yolox-nano-original weight=.*fits the recipe yolox-nano-original",
    ):
        find_parts(tmp_path / "nano.pth")


@pytest.mark.training
def test_weights_of_another_size_are_told_with_their_recipe(tmp_path: Path) -> None:
    save_weights(tmp_path / "n.safetensors", network_of("yolov5n", 80).state_dict())
    with pytest.raises(YoloflowError, match=r"does not fit the network[\s\S]*fits the recipe yolov5n"):
        Detector.load("yolov5s", device="cpu", overrides=[f"weight={tmp_path / 'n.safetensors'}"])


def test_a_recipe_without_weights_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(YoloflowError, match="give weight=FILE, or weight=published"):
        find_parts("yolov8n")
    with pytest.raises(YoloflowError, match="`yoloflow weights get yolov8n` downloads them"):
        find_parts("yolov8n", overrides=["weight=published"])


def test_published_weights_have_coco_s_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = weights_folder() / find_published("yolov8n").file_name
    file.parent.mkdir(parents=True)
    file.touch()
    names = find_parts("yolov8n", "published").names
    assert names is not None
    assert (len(names), names[0], names[-1]) == (80, "person", "toothbrush")


def test_an_onnx_file_of_convolutions_gives_yolox_its_weights(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    from yoloflow.models.unfolded import _in_order

    network = network_of("yolox-nano", 2)
    kernels, nodes = [], []
    for number, (_, module) in enumerate(_in_order(network)):
        conv = getattr(module, "conv", module)
        kernel = np.full(conv.weight.shape, number, np.float32)
        bias = np.full(len(kernel), number + 0.5, np.float32)
        kernels += [
            numpy_helper.from_array(kernel, f"w{number}"),
            numpy_helper.from_array(bias, f"b{number}"),
        ]
        nodes.append(helper.make_node("Conv", [f"x{number}", f"w{number}", f"b{number}"], [f"x{number + 1}"]))
    graph = helper.make_graph(nodes, "g", [], [], kernels)
    onnx.save(helper.make_model(graph), tmp_path / "nano.onnx")
    assert read_weights(tmp_path / "nano.onnx").format == "ONNX"
    report = load_pretrain(network, tmp_path / "nano.onnx", strict=True)
    assert report.is_folded
    assert network.get_parameter("stem.conv.conv.weight").unique().tolist() == [0]
    assert network.get_parameter("p2_down.depthwise.bn.bias").unique().tolist() == [1.5]
    with pytest.raises(YoloflowError, match=r"has \d+ convolutions, the network \d+"):
        load_pretrain(network_of("yolov8n", 2), tmp_path / "nano.onnx")


def test_a_file_of_our_export_is_no_file_of_weights_and_says_what_is(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    # A kernel that is computed, as torch's exporter leaves some.
    graph = helper.make_graph([helper.make_node("Conv", ["x", "computed"], ["y"])], "g", [], [])
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(YoloflowError, match=r"other\.onnx: .* a quantised file gives no weights"):
        read_weights(tmp_path / "other.onnx")
    model.metadata_props.add(key="yoloflow", value="{}")
    onnx.save(model, tmp_path / "ours.onnx")
    with pytest.raises(
        YoloflowError, match=r"ours\.onnx: is a file of `yoloflow export`.*give the run, or its"
    ):
        read_weights(tmp_path / "ours.onnx")


def folded_weights(folder: Path) -> tuple[Network, Path]:
    """A small network whose BatchNorms are mere shifts, as those of an ONNX file, and its file."""
    network = network_of("yolov8n", 2, *NARROW).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, (1 + module.eps) ** 0.5)
            nn.init.normal_(module.bias, std=0.1)
    facts = weights_facts(load_config("yolov8n", NARROW), ["cat", "dog"], None)
    save_weights(folder / "folded.safetensors", network.state_dict(), facts)
    return network, folder / "folded.safetensors"


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_folded_weights_are_refused_as_a_start_in_any_format(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, file = folded_weights(tmp_path)
    convert_weights(file, tmp_path / f"again{suffix}")
    assert f"again{suffix}: BatchNorm is folded in these weights: good for test, predict" in caplog.text
    assert "--images FOLDER has its statistics measured on your images" in caplog.text
    with pytest.raises(YoloflowError, match=r"folded into its convolutions.*--images FOLDER"):
        load_start(network, tmp_path / f"again{suffix}", "auto", ["cat", "dog"])


@pytest.mark.parametrize("recipe", ["yolov8n", "yolov11n", "yolox-nano"])
def test_a_torch_file_of_a_fused_network_gives_its_function_and_is_known_as_folded(
    recipe: str, tmp_path: Path
) -> None:
    network = network_of(recipe, 2, *NARROW)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(cast(Tensor, tensor), 0.5, 1.0)
    images = torch.rand(1, 3, 64, 64)
    expected = network.eval()(images)
    torch.save(network.fuse().state_dict(), tmp_path / "fused.pt")
    loaded = network_of(recipe, 2, *NARROW)
    assert load_pretrain(loaded, tmp_path / "fused.pt", strict=True).is_folded
    torch.testing.assert_close(loaded.eval()(images), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(YoloflowError, match="folded into its convolutions"):
        load_start(network_of(recipe, 2, *NARROW), tmp_path / "fused.pt", "auto", ["cat", "dog"])


def test_statistics_from_images_make_folded_weights_a_start(tmp_path: Path) -> None:
    network, file = folded_weights(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (60, 50, 3), np.uint8))
    out = tmp_path / "new.safetensors"
    result = CliRunner().invoke(app, ["weights", "convert", str(file), str(out), "--images", str(tmp_path)])
    assert result.exit_code == 0, result.output

    started = network_of("yolov8n", 2, *NARROW)
    load_start(started, out, "auto", ["cat", "dog"])
    detector = Detector.load(out)
    samples = [detector.prepare(decode_image(str(tmp_path / f"{number}.png"))) for number in range(20)]
    images = to_batch(samples)
    torch.testing.assert_close(started.eval()(images), network(images), rtol=1e-3, atol=1e-3)
    # What a step of the training normalises with is now near what evaluation does.
    norm = started.get_submodule("stem.bn")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.momentum = None
    before = norm.running_var.clone()
    norm.reset_running_stats()
    started.train()(images)
    torch.testing.assert_close(norm.running_var, before, rtol=0.01, atol=1e-4)


def test_statistics_are_those_of_squares_where_evaluation_takes_rectangles(tmp_path: Path) -> None:
    _, file = folded_weights(tmp_path)
    for name, shape in (("wide", (30, 60, 3)), ("high", (60, 30, 3))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full(shape, 90, np.uint8))
    for out, overrides in (("square", ()), ("rectangle", ("data.test_rect=true",))):
        convert_weights(file, tmp_path / f"{out}.safetensors", overrides, images=tmp_path)
    one, other = (read_weights(tmp_path / f"{out}.safetensors").tensors for out in ("square", "rectangle"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("content", [None, "film.mp4"])
def test_a_folder_without_images_gives_no_statistics(content: str | None, tmp_path: Path) -> None:
    _, file = folded_weights(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()
    if content is not None:
        (folder / content).touch()
    with pytest.raises(YoloflowError, match="holds no image"):
        convert_weights(file, tmp_path / "new.safetensors", images=folder)
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("yolov8n-seg", NARROW),
        pytest.param("yolov8x-seg", ["img_size=64"], marks=pytest.mark.full),
    ],
)
def test_weights_that_segment_go_to_mindyolo_s_names_and_back(
    recipe: str, changes: list[str], tmp_path: Path
) -> None:
    network = network_of(recipe, 80, *changes)
    save_weights(tmp_path / "own.safetensors", network.state_dict())
    convert_weights(recipe, tmp_path / "their.ckpt", [*changes, f"weight={tmp_path / 'own.safetensors'}"])
    names = set(read_weights(tmp_path / "their.ckpt").tensors)
    branches = {f"model.model.22.cv4.{level}.2.{part}" for level in range(3) for part in ("weight", "bias")}
    prototypes = {f"model.model.22.proto.{part}.conv.weight" for part in ("cv1", "cv2", "cv3")}
    upsampling = {f"model.model.22.proto.upsample.{part}" for part in ("weight", "bias")}
    assert branches | prototypes | upsampling <= names
    convert_weights(recipe, tmp_path / "back.safetensors", [*changes, f"weight={tmp_path / 'their.ckpt'}"])
    first, second = (
        read_weights(tmp_path / name).tensors for name in ("own.safetensors", "back.safetensors")
    )
    values = [name for name in first if not name.endswith("num_batches_tracked")]
    constants = {name for name in names if ".dfl." in name}
    assert len(values) == len(names - constants), "MindSpore counts no batches; all else has a name"
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in values)
