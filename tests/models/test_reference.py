"""Every family against the reference: outputs in both modes, running statistics, loss, items, gradients.

The figures of `figures/<family>_reference.npz` are a compact part of what the reference gave: of every array
the sum, the largest entry and about 128 entries. Weights, images and boxes are drawn again from their seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.reference import (
    FIGURES,
    reference_arrays,
    reference_inputs,
    reference_loss,
    reference_network,
)
from yoloflow.weights.mindyolo import mindyolo_names

# One line for each folder of reference figures.
FAMILIES = [
    "yolov3",
    "yolov4",
    "yolov5",
    "yolov7",
    "yolov7_base",
    "yolov7_aux",
    "yolov8",
    "yolov9",
    "yolov10",
    "yolov11",
    "yolox",
    "yolox_nano",
]
OUTPUT_TOLERANCE = 1e-4
STATISTICS_TOLERANCE = 2e-5
# In train mode, with batch statistics of 32 values a channel, rounding grows through deep random networks.
# The reference's own float32 figures are this far from the same network's in float64 (docs/proof.md): outputs
# 4e-4 (YOLOv4), 3e-4 (YOLOv9), 1.3e-4 (YOLOX-Nano); gradients 12 % (YOLOv4, first rows), 0.1 % (YOLOv9).
TRAIN_OUTPUT_TOLERANCE = {"yolov4": 1e-3, "yolov7_aux": 2e-4, "yolov9": 1e-3, "yolox_nano": 4e-4}
GRADIENT_TOLERANCE = {"yolov4": 0.2, "yolov7": 2e-3, "yolov9": 4e-3}
YOLOV4_LAST_ROW, YOLOV4_LAST_ROW_TOLERANCE = "model.model.66.", 2e-4


class Results(NamedTuple):
    """What our network and loss give for the reference's weights and batch, by the reference's names."""

    outputs: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    loss: float
    loss_items: np.ndarray
    gradients: dict[str, np.ndarray]


def flatten(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of a nested output, named by their positions."""
    if isinstance(value, Tensor):
        yield name, value.detach().numpy()
    else:
        for number, entry in enumerate(value):
            yield from flatten(f"{name}_{number}", entry)


@cache
def results(family: str) -> Results:
    network = reference_network(family)
    images, labels = (torch.from_numpy(array) for array in reference_inputs(family))
    with torch.no_grad():
        decoded, raw = network.eval()(images)
    # YOLOv9's figures hold the auxiliary branch's decoding too, ours is the main branch alone.
    outputs = {"eval_0_1" if family.startswith("yolov9") else "eval_0": decoded.numpy()}
    outputs |= dict(flatten("eval_1", raw))
    trained = network.train()(images)
    outputs |= dict(flatten("train", trained))
    names = mindyolo_names(network)
    statistics = {
        names[name]: buffer.clone().numpy() for name, buffer in network.named_buffers() if name in names
    }
    loss, items = reference_loss(family)(trained, labels, images)
    loss.backward()
    gradients = {names[name]: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    return Results(outputs, statistics, loss.item(), items.numpy(), gradients)


@cache
def figures(family: str) -> dict[str, np.ndarray]:
    with np.load(FIGURES / f"{family}_reference.npz") as file:
        return dict(file)


def compare(found: np.ndarray, expected: dict[str, np.ndarray], key: str, tolerance: float) -> None:
    """An array against its compact figures, relative to its largest entry."""
    scale = float(expected[f"{key}/abs_max"])
    assert np.isfinite(scale)
    sample = found.ravel()[:: int(expected[f"{key}/step"])]
    np.testing.assert_allclose(sample, expected[f"{key}/sample"], rtol=0, atol=tolerance * scale, err_msg=key)
    total = np.abs(found.astype(np.float64)).sum()
    np.testing.assert_allclose(total, expected[f"{key}/abs_sum"], rtol=tolerance, err_msg=key)


def compared_outputs(family: str, keys: set[str]) -> set[str]:
    """Those of the reference's outputs that ours must equal.

    All but YOLOv9's decoded auxiliary branch, and YOLOv4's in eval mode, where the reference gives only NaN.
    """
    outputs = {key for key in keys if key.startswith(("train", "eval"))}
    left_out = {"yolov9": ("eval_0_0",), "yolov4": ("eval",)}.get(family, ())
    return {key for key in outputs if not key.startswith(left_out)}


def output_tolerance(family: str, key: str) -> float:
    """How far an output may be from the reference's, relative to the largest entry."""
    return (
        TRAIN_OUTPUT_TOLERANCE.get(family, OUTPUT_TOLERANCE) if key.startswith("train") else OUTPUT_TOLERANCE
    )


def gradient_tolerance(family: str) -> float:
    """How far a gradient may be from the reference's, relative to its largest entry."""
    return GRADIENT_TOLERANCE.get(family, float(figures(family)["gradient_tolerance"]))


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_equal_the_reference(family: str) -> None:
    expected, outputs = figures(family), results(family).outputs
    keys = {key.removesuffix("/sample") for key in expected if key.endswith("/sample")}
    for key in compared_outputs(family, keys):
        compare(outputs[key], expected, key, output_tolerance(family, key))


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_running_statistics_after_a_forward_pass_equal_the_reference(family: str) -> None:
    expected, statistics = figures(family), results(family).statistics
    for key in expected:
        if key.startswith("bn_after/"):
            name = key.removeprefix("bn_after/")
            atol = STATISTICS_TOLERANCE * np.abs(expected[key]).max()
            np.testing.assert_allclose(statistics[name], expected[key], rtol=0, atol=atol, err_msg=name)
    total = sum(np.abs(values.astype(np.float64)).sum() for values in statistics.values())
    np.testing.assert_allclose(total, expected["bn_after_all_sum"], rtol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_and_its_items_equal_the_reference(family: str) -> None:
    expected, found = figures(family), results(family)
    tolerance = float(expected["loss_tolerance"])
    assert found.loss == pytest.approx(float(expected["loss"]), rel=tolerance)
    largest = np.abs(expected["loss_items"]).max()
    np.testing.assert_allclose(found.loss_items, expected["loss_items"], rtol=0, atol=tolerance * largest)


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_every_gradient_s_norm_and_four_gradients_equal_the_reference(family: str) -> None:
    expected, gradients = figures(family), results(family).gradients
    tolerance = gradient_tolerance(family)
    names = list(reference_arrays(family))
    trained = [names[place] for place in expected["grad_places"]]
    largest = float(expected["grad_norms"].max())
    for name, norm in zip(trained, expected["grad_norms"], strict=True):
        found = np.linalg.norm(gradients[name].astype(np.float64)) if name in gradients else 0.0
        is_close_to_loss = family == "yolov4" and name.startswith(YOLOV4_LAST_ROW)
        rel = YOLOV4_LAST_ROW_TOLERANCE if is_close_to_loss else tolerance
        assert found == pytest.approx(float(norm), rel=rel, abs=1e-6 * largest), name
    for key in expected:
        if key.startswith("grad/") and key.endswith("/sample"):
            name = key.removeprefix("grad/").removesuffix("/sample")
            compare(gradients[name], expected, f"grad/{name}", tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_equal_the_reference_entry_by_entry(family: str, shared: Path) -> None:
    folder, found = shared / "fixtures" / family, results(family)
    exact = folder / "io_pynative_fp32.npz"
    with np.load(exact if exact.exists() else folder / "io_pynative.npz") as full:
        for key in compared_outputs(family, {key for key in full.files if full[key].ndim}):
            scale = np.abs(full[key]).max()
            atol = output_tolerance(family, key) * scale
            np.testing.assert_allclose(found.outputs[key], full[key], rtol=0, atol=atol, err_msg=key)
        for key in full.files:
            if key.startswith("grad/"):
                scale = np.abs(full[key]).max()
                gradient = found.gradients[key.removeprefix("grad/")]
                atol = gradient_tolerance(family) * scale
                np.testing.assert_allclose(gradient, full[key], rtol=0, atol=atol, err_msg=key)
            if key.startswith("bn_after/"):
                name = key.removeprefix("bn_after/")
                atol = STATISTICS_TOLERANCE * np.abs(full[key]).max()
                np.testing.assert_allclose(found.statistics[name], full[key], rtol=0, atol=atol, err_msg=name)


@pytest.mark.oracle
@pytest.mark.parametrize("family", FAMILIES)
def test_the_compact_figures_and_the_drawn_weights_are_the_reference_s(family: str, shared: Path) -> None:
    folder, compact = shared / "fixtures" / family, figures(family)
    exact = folder / "io_pynative_fp32.npz"
    with np.load(exact if exact.exists() else folder / "io_pynative.npz") as full:
        for key in compact:
            if key.endswith("/sample"):
                name = key.removesuffix("/sample")
                np.testing.assert_array_equal(
                    compact[key], full[name].ravel()[:: int(compact[f"{name}/step"])]
                )
        images, targets = reference_inputs(family)
        np.testing.assert_array_equal(images, full["images"])
        np.testing.assert_array_equal(targets, full["targets"])
    arrays = reference_arrays(family)
    with np.load(folder / "weights.npz") as weights:
        assert set(weights.files) == set(arrays)
        for name in weights.files:
            np.testing.assert_array_equal(arrays[name], weights[name], err_msg=name)
