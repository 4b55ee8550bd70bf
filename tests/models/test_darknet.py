"""Darknet's files: each value finds its place, and the network computes what Darknet's layers compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.darknet_layers import V3_ANCHORS, V4_ANCHORS, Darknet, yolov3, yolov4
from yoloflow import load_config, train
from yoloflow.config.fitting import recipes_that_fit
from yoloflow.evaluate import evaluate_run
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.models.darknet import name_values
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights

ORIGINALS = {"yolov3-darknet": (yolov3, V3_ANCHORS), "yolov4-darknet": (yolov4, V4_ANCHORS)}
WIDTH, CLASSES = 0.25, 4


def original(recipe: str, classes: int = CLASSES) -> Darknet:
    sections, anchors = ORIGINALS[recipe]
    return Darknet(sections(), anchors, classes, WIDTH, seed=1)


def network_of(recipe: str, classes: int = CLASSES, width: float = WIDTH, **settings: float) -> Network:
    torch.manual_seed(0)
    config = load_config(recipe, [f"network.width_multiple={width}"])
    table = {**config.network_table(), **settings}
    return create_model(config.network.model_name, table, classes)


@pytest.fixture(scope="module", params=ORIGINALS)
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def darknet(recipe: str) -> Darknet:
    return original(recipe)


@pytest.fixture(scope="module")
def file(darknet: Darknet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("darknet") / "any.bin"
    path.write_bytes(darknet.write())
    return path


def test_a_file_gives_the_function_of_darknet_s_layers(recipe: str, darknet: Darknet, file: Path) -> None:
    network = network_of(recipe)
    report = load_pretrain(network, file, strict=True)
    assert (report.format, report.dialect, report.faults()) == ("Darknet", "", "")
    assert report.producer == "Darknet 0.2.0, 32,013,312 images seen"
    images = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = darknet(images)
        for tested in (network.eval(), network.fuse()):
            torch.testing.assert_close(tested(images)[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "published"), [("yolov3-darknet", 62_001_757), ("yolov4-darknet", 64_429_405)]
)
def test_the_published_files_have_exactly_as_many_values(name: str, published: int) -> None:
    with torch.device("meta"):
        network = network_of(name, 80, 1.0)
    tensors = name_values(network, torch.zeros(1).expand(published))
    state = network.state_dict()
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        key: tensor.shape for key, tensor in state.items() if not key.endswith("num_batches_tracked")
    }


def test_a_file_of_other_classes_begins_a_training_with_its_boxes(
    darknet: Darknet, recipe: str, file: Path
) -> None:
    network = network_of(recipe, 2)
    report = load_pretrain(network, file)
    assert len(report.partly) == 6
    assert report.faults() == ""
    assert f"{file}: Darknet, layers in order; Darknet 0.2.0" in report.describe(file, network)
    outputs = [layer for layer in darknet.values if "biases" in layer and "scales" not in layer]
    largest = max(outputs, key=lambda layer: layer["weights"].shape[1])
    found = network.get_parameter("head.convs.0.bias").detach().view(3, -1)[:, :5]
    np.testing.assert_array_equal(found, largest["biases"].reshape(3, -1)[:, :5])
    with pytest.raises(YoloflowError, match=r"head.convs.0.weight: \(27, 256, 1, 1\) in the file, \(21, "):
        load_pretrain(network, file, strict=True)


@pytest.mark.oracle
def test_the_first_layers_alone_are_taken_over_when_that_is_allowed(
    recipe: str, darknet: Darknet, file: Path, tmp_path: Path
) -> None:
    first = [sum(part.size for part in layer.values()) for layer in darknet.values[:75]]
    (tmp_path / "first.conv.74").write_bytes(file.read_bytes()[: 20 + 4 * sum(first)])
    network = network_of(recipe)
    with pytest.raises(YoloflowError, match=r"strict_load=false takes over the \d+ keys .*\n  missing in"):
        load_pretrain(network, tmp_path / "first.conv.74")
    report = load_pretrain(network, tmp_path / "first.conv.74", strict=False)
    assert sum(network.state_dict()[name].numel() for name in report.loaded) == sum(first)
    assert report.unexpected == []


@pytest.mark.parametrize("change", [-4, 4, -4000, 4 * 5385])
def test_a_file_that_does_not_come_out_even_is_refused(
    recipe: str, change: int, file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    content = content[:change] if change < 0 else content + bytes(change)
    (tmp_path / "x.weights").write_bytes(content)
    with pytest.raises(
        YoloflowError, match=r"x.weights: has [\d,]+ values; this network has .* with no number"
    ):
        load_pretrain(network_of(recipe), tmp_path / "x.weights", strict=False)


def test_a_cut_value_an_empty_file_and_a_header_alone_are_refused(tmp_path: Path) -> None:
    header = b"\0\0\0\0\2\0\0\0\0\0\0\0" + bytes(8)
    for content in (header, header[:14], header + bytes(7)):
        (tmp_path / "x.weights").write_bytes(content)
        with pytest.raises(
            YoloflowError, match=r"x.weights: no whole Darknet file: \d bytes after its header"
        ):
            read_weights(tmp_path / "x.weights")


def test_version_1_counts_images_in_4_bytes(tmp_path: Path) -> None:
    values = np.arange(5, dtype="<f4")
    (tmp_path / "x.weights").write_bytes(b"\0\0\0\0\1\0\0\0\5\0\0\0" + b"\7\0\0\0" + values.tobytes())
    found = read_weights(tmp_path / "x.weights")
    assert found.producer == "Darknet 0.1.5, 7 images seen"
    assert found.values is not None
    assert found.values.tolist() == [0, 1, 2, 3, 4]


def test_a_negative_variance_shows_that_the_values_are_of_another_network(tmp_path: Path) -> None:
    darknet = original("yolov3-darknet")
    darknet.values[0]["variance"][3] = -1
    (tmp_path / "x.weights").write_bytes(darknet.write())
    with pytest.raises(YoloflowError, match="stem.bn.running_var would be negative"):
        load_pretrain(network_of("yolov3-darknet"), tmp_path / "x.weights")


@pytest.mark.parametrize("name", ["yolov3", "yolov4", "yolov8n"])
def test_a_network_of_another_function_is_refused_though_the_shapes_may_fit(name: str, file: Path) -> None:
    with pytest.raises(YoloflowError, match="any.bin: of Darknet, whose networks differ"):
        load_pretrain(network_of(name), file, strict=False)


def test_another_epsilon_is_refused(recipe: str, file: Path) -> None:
    with pytest.raises(YoloflowError, match="BatchNorm"):
        load_pretrain(network_of(recipe, norm_eps=1e-3), file)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (8_858_734, "yolov3-tiny of 80 classes has, but is no recipe"),
        (6_062_814, "yolov4-tiny of 80 classes"),
        (63_052_381, "yolov3-spp of 80 classes"),
        (50_983_561, "yolov2 of 80 classes"),
        (8_662_384 + 2310 * 7, "yolov3-tiny of 2 classes"),
    ],
)
def test_known_networks_without_a_recipe_are_named(values: int, message: str) -> None:
    with torch.device("meta"):
        network = network_of("yolov3-darknet", 80, 1.0)
    with pytest.raises(YoloflowError, match=message):
        name_values(network, torch.zeros(1).expand(values))


@pytest.mark.oracle
@pytest.mark.parametrize("name", ORIGINALS)
def test_the_recipe_that_a_file_fits_is_found(name: str, tmp_path: Path) -> None:
    published = {"yolov3-darknet": 62_001_757, "yolov4-darknet": 64_429_405}[name] - (80 - 7) * 5385
    with (tmp_path / "x.weights").open("wb") as file:  # a file with a hole, of zeros
        file.write(b"\0\0\0\0\2\0\0\0\0\0\0\0")
        file.truncate(20 + 4 * published)
    assert recipes_that_fit(tmp_path / "x.weights") == [name]


@pytest.mark.oracle
def test_weights_are_looked_at_before_any_data(tmp_path: Path) -> None:
    (tmp_path / "x.weights").write_bytes(b"\0\0\0\0\2\0\0\0\0\0\0\0" + bytes(8 + 4 * 9))
    overrides = [f"save_dir={tmp_path / 'runs'}", "device=cpu", "data.train_set=none", "data.val_set=none"]
    for weight, message in (("x.weights", "x.weights: has 9 values"), ("gone.pt", "no such weights file")):
        weights = f"weight={tmp_path / weight}"
        with pytest.raises(YoloflowError, match=message):
            train(load_config("yolov3-darknet", [*overrides, weights]))
        with pytest.raises(YoloflowError, match=message):
            evaluate_run("yolov3-darknet", [*overrides, weights])
    assert not (tmp_path / "runs").exists()
