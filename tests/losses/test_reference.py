"""YOLOv8's loss and the whole network's gradients against the reference's float32 figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.reference import FIGURES, reference_inputs, reference_loss, reference_network
from yoloflow.weights.mindyolo import mindyolo_names

SAMPLE_STEP = 13

Trained = tuple[nn.Module, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The reference's network after one forward and backward pass, its loss and its items."""
    network = reference_network("yolov8")
    images, labels = (torch.from_numpy(array) for array in reference_inputs("yolov8"))
    loss, items = reference_loss("yolov8")(network.train()(images), labels, images)
    loss.backward()
    return network, loss, items


def gradients_by_reference_name(network: nn.Module) -> dict[str, np.ndarray]:
    gradients = {name: weight.grad for name, weight in network.named_parameters()}
    names = mindyolo_names(network).items()
    return {theirs: grad.numpy() for ours, theirs in names if (grad := gradients.get(ours)) is not None}


def test_loss_and_items_equal_the_reference(trained: Trained) -> None:
    _, loss, items = trained
    with np.load(FIGURES / "yolov8_loss.npz") as figures:
        assert loss.item() == pytest.approx(figures["loss"].item(), rel=2e-5)
        np.testing.assert_allclose(items, figures["loss_items"], rtol=2e-5)


def test_every_gradient_norm_equals_the_reference(trained: Trained) -> None:
    gradients = gradients_by_reference_name(trained[0])
    with np.load(FIGURES / "yolov8_loss.npz") as figures:
        assert set(gradients) == set(figures["grad_names"].tolist())
        found = np.array([np.linalg.norm(gradients[name]) for name in figures["grad_names"].tolist()])
        np.testing.assert_allclose(
            found, figures["grad_norms"], rtol=0, atol=1e-3 * figures["grad_norms"].max()
        )


def test_sampled_gradients_equal_the_reference(trained: Trained) -> None:
    gradients = gradients_by_reference_name(trained[0])
    with np.load(FIGURES / "yolov8_loss.npz") as figures:
        for key in [key for key in figures.files if key.startswith("grad/")]:
            found = gradients[key.removeprefix("grad/")].ravel()
            sample = found[:: SAMPLE_STEP if found.size > 1000 else 1]
            np.testing.assert_allclose(sample, figures[key], rtol=0, atol=1e-3 * figures[f"max/{key}"])


def test_complete_gradients_equal_the_reference(trained: Trained, shared: Path) -> None:
    gradients = gradients_by_reference_name(trained[0])
    with np.load(shared / "fixtures/yolov8/io_pynative_fp32.npz") as figures:
        for key in [key for key in figures.files if key.startswith("grad/")]:
            error = np.abs(gradients[key.removeprefix("grad/")] - figures[key]).max()
            assert error < 1e-3 * np.abs(figures[key]).max()


@pytest.mark.parametrize(("file", "tolerance"), [("io_pynative_fp32", 1e-5), ("io_pynative", 1e-3)])
@pytest.mark.parametrize("family", ["yolov8", "yolov11"])
def test_the_reference_outputs_give_the_reference_loss(
    shared: Path, family: str, file: str, tolerance: float
) -> None:
    folder = shared / "fixtures" / family
    with np.load(folder / f"{file}.npz") as figures:
        outputs = [torch.from_numpy(figures[f"train_{level}"]) for level in range(3)]
        labels, images = torch.from_numpy(figures["targets"]), torch.from_numpy(figures["images"])
        loss, items = reference_loss(family)(outputs, labels, images)
        assert loss.item() == pytest.approx(figures["loss"].item(), rel=tolerance)
        np.testing.assert_allclose(items, figures["loss_items"], rtol=tolerance)
        unpadded = torch.from_numpy(figures["targets"])[:, :8]
        assert reference_loss(family)(outputs, unpadded, images)[0].item() == pytest.approx(
            loss.item(), rel=1e-6
        )
