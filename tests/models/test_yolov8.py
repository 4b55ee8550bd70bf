"""YOLOv8 against the reference's figures, and its published sizes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.support.reference import (
    FIGURES,
    reference_arrays,
    reference_config,
    reference_inputs,
    reference_network,
)
from yoloflow.config.reader import load_config
from yoloflow.models import Network, create_model
from yoloflow.models.network import Variant
from yoloflow.weights.mindyolo import load_mindyolo

RECIPES = Path(str(files("yoloflow"))) / "recipes/yolov8"
SIZES = {
    "n": (0.33, 0.25, 1024, 3_157_200),
    "s": (0.33, 0.50, 1024, 11_166_560),
    "m": (0.67, 0.75, 768, 25_902_640),
    "l": (1.0, 1.0, 512, 43_691_520),
    "x": (1.0, 1.25, 512, 68_229_648),
}
SAMPLE_STEP = 97


def run_reference_network() -> tuple[dict[str, np.ndarray], Network]:
    """Eval mode, then one forward pass in train mode; outputs by the figures' keys."""
    network = reference_network("yolov8")
    images = torch.from_numpy(reference_inputs("yolov8")[0])
    with torch.no_grad():
        decoded, raw = network.eval()(images)
        trained = network.train()(images)
    outputs = {"eval_0": decoded}
    outputs |= {f"eval_1_{level}": tensor for level, tensor in enumerate(raw)}
    outputs |= {f"train_{level}": tensor for level, tensor in enumerate(trained)}
    return {key: tensor.numpy() for key, tensor in outputs.items()}, network


def running_statistics(network: Network) -> dict[str, np.ndarray]:
    """By the reference's names."""
    leaves = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    statistics = {}
    for name, buffer in network.named_buffers():
        path, _, leaf = name.rpartition(".")
        if leaf in leaves:
            path = path.replace("class_branches", "cv3").replace("box_branches", "cv2")
            statistics[f"model.model.{path}.{leaves[leaf]}"] = buffer.numpy()
    return statistics


def compare_running_statistics(network: Network, figures: np.lib.npyio.NpzFile) -> None:
    statistics = running_statistics(network)
    for key in figures.files:
        if key.startswith("bn_after/"):
            name = key.removeprefix("bn_after/")
            np.testing.assert_allclose(statistics[name], figures[key], rtol=0, atol=1e-6, err_msg=name)
    total = sum(np.abs(values.astype(np.float64)).sum() for values in statistics.values())
    np.testing.assert_allclose(total, figures["bn_after_all_sum"], rtol=1e-6)


def test_outputs_and_running_statistics_equal_the_reference_on_its_compact_figures() -> None:
    outputs, network = run_reference_network()
    with np.load(FIGURES / "yolov8_network.npz") as figures:
        for key, output in outputs.items():
            scale = figures[f"{key}/abs_max"]
            sample = output.ravel()[::SAMPLE_STEP]
            np.testing.assert_allclose(
                sample, figures[f"{key}/sample"], rtol=0, atol=1e-4 * scale, err_msg=key
            )
            total = np.abs(output.astype(np.float64)).sum()
            np.testing.assert_allclose(total, figures[f"{key}/abs_sum"], rtol=1e-5, err_msg=key)
        compare_running_statistics(network, figures)


def test_outputs_and_running_statistics_equal_the_reference_entry_by_entry(shared: Path) -> None:
    outputs, network = run_reference_network()
    with np.load(shared / "fixtures/yolov8/io_pynative_fp32.npz") as figures:
        expected = {key for key in figures.files if key.startswith(("train", "eval"))}
        assert set(outputs) == expected
        for key, output in outputs.items():
            scale = np.abs(figures[key]).max()
            np.testing.assert_allclose(output, figures[key], rtol=0, atol=1e-4 * scale, err_msg=key)
        compare_running_statistics(network, figures)


def test_the_compact_figures_are_taken_from_the_reference(shared: Path) -> None:
    with (
        np.load(FIGURES / "yolov8_network.npz") as compact,
        np.load(shared / "fixtures/yolov8/io_pynative_fp32.npz") as full,
    ):
        for key in compact.files:
            if key.endswith("/sample"):
                name = key.removesuffix("/sample")
                np.testing.assert_array_equal(compact[key], full[name].ravel()[::SAMPLE_STEP])


@pytest.mark.parametrize("size", SIZES)
def test_a_size_has_the_published_number_of_parameters(size: str) -> None:
    depth, width, max_channels, expected = SIZES[size]
    table = yaml.safe_load((RECIPES / "network.yaml").read_text())["network"]
    scaling = {"depth_multiple": depth, "width_multiple": width, "max_channels": max_channels}
    with torch.device("meta"):
        network = create_model("yolov8", table | scaling, 80)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["head.dfl.conv.weight"]


def test_named_rows_compute_what_the_reference_s_numbered_rows_compute() -> None:
    table = yaml.safe_load((RECIPES / "network.yaml").read_text())["network"]
    scaling = {"depth_multiple": 0.33, "width_multiple": 0.125, "max_channels": 1024}
    named = create_model("yolov8", table | scaling, 5).eval()
    load_mindyolo(named, reference_arrays("yolov8"))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            named(images)[0], reference_network("yolov8").eval()(images)[0], rtol=0, atol=0
        )
    assert "stem.conv.weight" in named.state_dict()


def test_a_box_is_decoded_from_the_cell_and_the_expected_distances() -> None:
    head = reference_network("yolov8").head_layer
    raw = [torch.full((1, 69, 128 // stride, 128 // stride), -20.0) for stride in head.stride]
    cell_y, cell_x, distances = 3, 2, (1, 4, 2, 6)  # left, top, right, bottom in cells of level 1
    for side, distance in enumerate(distances):
        raw[1][0, side * 16 + distance, cell_y, cell_x] = 20.0
    raw[1][0, 64 + 3, cell_y, cell_x] = 0.0
    row = head.decode(raw)[0, 16 * 16 + cell_y * 8 + cell_x]
    x1, y1, x2, y2 = (2.5 - 1) * 16, (3.5 - 4) * 16, (2.5 + 2) * 16, (3.5 + 6) * 16
    expected = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0, 0, 0, 0.5, 0])
    torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)


def test_a_new_head_expects_few_objects() -> None:
    head = create_model("yolov8", reference_config("yolov8")["network"], 5).head_layer
    scores = head.get_parameter("class_branches.0.2.bias").sigmoid()
    torch.testing.assert_close(scores, torch.full((5,), 5 / 5 / 80**2), rtol=1e-3, atol=0)
    assert (head.get_parameter("box_branches.0.2.bias") == 1).all()


def test_the_class_branches_widths_differ_only_beyond_a_hundred_classes() -> None:
    def width(variant: Variant, num_classes: int) -> int:
        head = create_model("yolov8", table | scaling, num_classes, variant=variant).head_layer
        return head.get_parameter("class_branches.0.2.weight").shape[1]

    table = yaml.safe_load((RECIPES / "network.yaml").read_text())["network"]
    scaling = {"depth_multiple": 0.33, "width_multiple": 0.25, "max_channels": 1024}  # 64 channels at P3
    with torch.device("meta"):
        assert width("published", 80) == width("mindyolo", 80) == 80
        assert width("published", 365) == 100
        assert width("mindyolo", 365) == 365


def test_decoding_under_autocast_stays_in_float32() -> None:
    network = reference_network("yolov8").eval()
    raw = [torch.randn(1, 69, 64 // stride, 64 // stride) for stride in network.stride]
    with torch.autocast("cpu", torch.bfloat16):
        decoded = network.head_layer.decode(raw)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, network.head_layer.decode(raw), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("recipe", "momentum", "bias_lr"),
    [
        ("yolov8n", 0.03, 0.1),
        ("yolov8n-small-data", 0.3, 0.05),
        ("yolov5n-small-data", 0.3, 0.05),
        ("quickstart", 0.03, 0.1),
    ],
)
def test_statistics_follow_the_weights_in_short_trainings(
    recipe: str, momentum: float, bias_lr: float
) -> None:
    config = load_config(recipe, ["data.nc=2"])
    assert config.optimizer.warmup_bias_lr == bias_lr
    with torch.device("meta"):
        network = create_model(config.network.model_name, config.network_table(), 2, sync_bn=True)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {momentum}
