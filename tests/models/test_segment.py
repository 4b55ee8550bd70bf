"""YOLOv8's head with masks, and its loss, against the reference's float32 figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

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
from yoloflow.losses import segment
from yoloflow.models import Network, predict, prepare_for_inference
from yoloflow.models.layers.contract import HeadOutput
from yoloflow.weights.mindyolo import mindyolo_names

FAMILY = "yolov8_seg"


@cache
def figures() -> dict[str, np.ndarray]:
    with np.load(FIGURES / f"{FAMILY}_reference.npz") as file:
        return dict(file)


def images() -> Tensor:
    return torch.from_numpy(reference_inputs(FAMILY)[0])


def named_outputs(prefix: str, raw: Any) -> dict[str, Tensor]:
    levels, coefficients, prototypes = raw
    named = {f"{prefix}_raw_{number}": level for number, level in enumerate(levels)}
    named[f"{prefix}_coefficients"] = coefficients.mT if prefix == "eval" else coefficients
    return named | {f"{prefix}_proto": prototypes}


def assert_as_the_reference(outputs: dict[str, Tensor]) -> None:
    for key, value in outputs.items():
        found, scale = value.detach().numpy(), float(figures()[f"{key}/abs_max"])
        sample = found.ravel()[:: int(figures()[f"{key}/step"])]
        np.testing.assert_allclose(sample, figures()[f"{key}/sample"], rtol=0, atol=1e-4 * scale, err_msg=key)
        total = np.abs(found.astype(np.float64)).sum()
        np.testing.assert_allclose(total, figures()[f"{key}/abs_sum"], rtol=1e-4, err_msg=key)


def test_outputs_equal_the_reference_in_both_modes() -> None:
    network = reference_network(FAMILY)
    with torch.no_grad():
        rows, raw = network.eval()(images())
        assert_as_the_reference({"eval_0": rows} | named_outputs("eval", raw))
        assert_as_the_reference(named_outputs("train", network.train()(images())))


@pytest.mark.parametrize("path", ["_losses_by_object", "_losses_by_image"])
def test_loss_items_and_gradient_norms_equal_the_reference(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "_losses_by_object", getattr(segment, path))
    network, loss_fn = reference_network(FAMILY).train(), reference_loss(FAMILY)
    labels, masks = (torch.from_numpy(figures()[key]) for key in ("targets", "masks"))
    loss, items = loss_fn(network(images()), labels, images(), masks)
    assert loss.item() == pytest.approx(figures()["loss"].item(), rel=2e-5)
    np.testing.assert_allclose(items, figures()["loss_items"], rtol=2e-5)
    loss.backward()
    names = mindyolo_names(network)
    norms = {
        names[name]: weight.grad.norm().item()
        for name, weight in network.named_parameters()
        if weight.grad is not None
    }
    expected = dict(zip(figures()["grad_names"].tolist(), figures()["grad_norms"].tolist(), strict=True))
    assert norms == pytest.approx(expected, rel=0, abs=1e-3 * max(expected.values()))


def test_weights_drawn_again_are_the_reference_s(shared: Path) -> None:
    with np.load(shared / "fixtures/yolov8_seg/weights.npz") as weights:
        for name, drawn in reference_arrays(FAMILY).items():
            np.testing.assert_allclose(drawn, weights[name], rtol=0, atol=1e-7, err_msg=name)


def test_complete_outputs_equal_the_reference(shared: Path) -> None:
    with torch.no_grad():
        rows, raw = reference_network(FAMILY).eval()(images())
    with np.load(shared / "fixtures/yolov8_seg/io_pynative_fp32.npz") as expected:
        for key, value in ({"eval_0": rows} | named_outputs("eval", raw)).items():
            error = np.abs(value.numpy() - expected[key]).max()
            assert error < 1e-5 * max(1, np.abs(expected[key]).max()), key


def network() -> Network:
    return reference_network(FAMILY).eval()


def test_a_network_made_ready_predicts_the_same_rows_and_prototypes() -> None:
    with torch.no_grad():
        rows, (_, coefficients, prototypes) = network()(images())
        found = predict(prepare_for_inference(network()), images())
    assert found.prototypes is not None
    torch.testing.assert_close(found.rows, rows, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.prototypes, prototypes, rtol=1e-4, atol=1e-4)
    assert torch.equal(rows[..., 4 + 5 :], coefficients.mT)
    assert network().output_kind == HeadOutput(mask_channels=32)


def test_networks_without_masks_predict_no_prototypes() -> None:
    with torch.no_grad():
        assert predict(reference_network("yolov8").eval(), images()).prototypes is None
