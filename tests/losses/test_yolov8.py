"""YOLOv8's loss against a float64 oracle of plain loops, and the properties that any such loss has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.loss_oracle import yolov8_loss
from yoloflow.decoding import expected_distances
from yoloflow.losses import Loss, create_loss
from yoloflow.losses.yolov8 import distribution_focal_loss
from yoloflow.structures import YoloflowError

STRIDE, NUM_CLASSES, SIDE = [8, 16, 32], 3, 64
VARIANTS = ["published", "mindyolo"]


def scene(seed: int, boxes_per_image: tuple[int, ...], rows: int = 12) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random raw outputs, padded labels and images."""
    random = torch.Generator().manual_seed(seed)
    batch = len(boxes_per_image)
    outputs = [torch.randn(batch, 64 + NUM_CLASSES, SIDE // s, SIDE // s, generator=random) for s in STRIDE]
    labels = torch.full((batch, rows, 6), -1.0)
    for image, number in enumerate(boxes_per_image):
        labels[image, :, 0] = image
        size = torch.rand(number, 2, generator=random) * 0.6 + 0.1
        labels[image, :number, 1] = torch.randint(NUM_CLASSES, (number,), generator=random).float()
        labels[image, :number, 2:4] = size / 2 + torch.rand(number, 2, generator=random) * (1 - size)
        labels[image, :number, 4:] = size
    return [level.requires_grad_() for level in outputs], labels, torch.zeros(batch, 3, SIDE, SIDE)


def loss_of(variant: str = "published", **hyper_parameters: Any) -> Loss:
    return create_loss("YOLOv8Loss", stride=STRIDE, nc=NUM_CLASSES, variant=variant, **hyper_parameters)


def gradients(loss: Tensor, outputs: list[Tensor]) -> list[np.ndarray]:
    return [gradient.numpy() for gradient in torch.autograd.grad(loss, outputs)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("seed", "boxes_per_image", "topk"),
    [
        (0, (3, 5), 10),
        pytest.param(1, (0, 9), 10, marks=pytest.mark.oracle),
        pytest.param(2, (6, 4), 1, marks=pytest.mark.oracle),
    ],
)
def test_loss_and_gradients_equal_plain_loops_in_float64(
    variant: str, seed: int, boxes_per_image: tuple[int, int], topk: int
) -> None:
    outputs, labels, images = scene(seed, boxes_per_image)
    loss, items = loss_of(variant, tal_topk=topk)(outputs, labels, images)
    exact_outputs = [level.detach().double().requires_grad_() for level in outputs]
    exact, exact_items = yolov8_loss(
        exact_outputs, labels, SIDE, STRIDE, topk, everyone=variant == "mindyolo"
    )
    assert loss.item() == pytest.approx(exact.item(), rel=2e-6)
    np.testing.assert_allclose(items, exact_items, rtol=5e-6)
    for found, wanted in zip(gradients(loss, outputs), gradients(exact, exact_outputs), strict=True):
        assert np.abs(found - wanted).max() < 2e-5 * np.abs(wanted).max()


def test_the_variants_differ_only_where_an_anchor_is_claimed_twice() -> None:
    crowded, lonely = scene(3, (9, 9)), scene(4, (1, 1))
    assert loss_of("published")(*crowded)[0] != loss_of("mindyolo")(*crowded)[0]
    assert loss_of("published")(*lonely)[0] == loss_of("mindyolo")(*lonely)[0]
    outputs, labels, images = lonely
    apart = labels[:, :2].clone()
    apart[:, 0, 1:] = torch.tensor((0, 0.25, 0.25, 0.4, 0.4))
    apart[:, 1, 1:] = torch.tensor((1, 0.75, 0.75, 0.4, 0.4))
    assert loss_of("published")(outputs, apart, images)[0] == loss_of("mindyolo")(outputs, apart, images)[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_the_boxes_does_not_matter(variant: str) -> None:
    outputs, labels, images = scene(5, (8, 6))
    shuffled = labels[:, torch.randperm(labels.shape[1], generator=torch.Generator().manual_seed(0))]
    first, second = (
        loss_of(variant)(outputs, labels, images)[0],
        loss_of(variant)(outputs, shuffled, images)[0],
    )
    assert second.item() == pytest.approx(first.item(), rel=1e-6)
    for one, other in zip(gradients(first, outputs), gradients(second, outputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_rows_do_not_matter(variant: str) -> None:
    outputs, labels, images = scene(6, (8, 6), rows=8)
    padding = torch.full((2, 100, 6), -1.0)
    padding[:, 50:, 2:] = 0.5  # whatever stands in a row of class -1
    padded = torch.cat((padding[:, ::2], labels, padding[:, 1::2]), 1)
    loss, loss_padded = (
        loss_of(variant)(outputs, labels, images)[0],
        loss_of(variant)(outputs, padded, images)[0],
    )
    assert loss_padded.item() == pytest.approx(loss.item(), rel=1e-6)


def test_two_equal_boxes_count_as_one() -> None:
    outputs, labels, images = scene(7, (1, 1), rows=2)
    twice = labels.clone()
    twice[:, 1] = twice[:, 0]
    assert loss_of()(outputs, twice, images)[0] == loss_of()(outputs, labels, images)[0]


def strange_labels() -> dict[str, Tensor]:
    many = scene(8, (300, 300), rows=300)[1]
    giant, flat, point = (torch.full((2, 5, 6), -1.0) for _ in range(3))
    giant[:, 0, 1:] = torch.tensor((1, 0.5, 0.5, 1, 1))
    flat[:, 0, 1:] = torch.tensor((1, 0.5, 0.5, 0.3, 0))
    flat[:, 1, 1:] = torch.tensor((1, 0.5, 0.5, 0, 0.3))
    point[:, 0, 1:] = torch.tensor((0, 0.5, 0.5, 0, 0))
    return {
        "no objects": torch.full((2, 5, 6), -1.0),
        "no rows": torch.zeros(2, 0, 6),
        "one giant": giant,
        "many": many,
        "flat": flat,
        "point": point,
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", strange_labels())
@pytest.mark.parametrize("size_of_logits", [0.0, 1.0, 200.0])
def test_strange_boxes_and_extreme_logits_give_finite_losses_and_gradients(
    variant: str, kind: str, size_of_logits: float
) -> None:
    outputs, _, images = scene(9, (0, 0))
    outputs = [(level * size_of_logits).detach().requires_grad_() for level in outputs]
    loss, items = loss_of(variant)(outputs, strange_labels()[kind], images)
    assert loss.isfinite()
    assert items.isfinite().all()
    assert all(np.isfinite(gradient).all() for gradient in gradients(loss, outputs))
    if kind in ("no objects", "no rows", "flat", "point"):
        assert items[1] == items[3] == 0 < items[2]


@pytest.mark.compile
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_as_one_graph_it_gives_the_same(variant: str) -> None:
    outputs, labels, images = scene(10, (5, 7))
    loss_fn = loss_of(variant)
    loss, items = loss_fn(outputs, labels, images)
    compiled = torch.compile(loss_fn, fullgraph=True, backend="aot_eager")
    compiled_loss, compiled_items = compiled(outputs, labels, images)
    np.testing.assert_allclose(compiled_items, items, rtol=1e-6)
    for one, other in zip(gradients(loss, outputs), gradients(compiled_loss, outputs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_images_taken_together_or_apart_are_assigned_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, labels, images = scene(11, (5, 0, 12, 3))
    together = loss_of()(outputs, labels, images)[1]
    monkeypatch.setattr("yoloflow.losses.yolov8.CACHED_ENTRIES", 1)
    torch.testing.assert_close(loss_of()(outputs, labels, images)[1], together, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_computes_in_float32_whatever_the_precision_around_it(dtype: torch.dtype) -> None:
    outputs, labels, images = scene(12, (4, 4))
    halves = [level.detach().to(dtype).requires_grad_() for level in outputs]
    with torch.autocast("cpu", torch.bfloat16):
        loss, items = loss_of()(halves, labels, images)
    wanted = loss_of()([level.float() for level in halves], labels, images)[0]
    assert loss.dtype == items.dtype == torch.float32
    assert loss == wanted
    assert torch.autograd.grad(loss, halves)[0].dtype == dtype


def test_a_side_between_two_bins_is_learnt_by_both() -> None:
    distances = torch.tensor([2.25, 0.0, 7.0, 40.0]).view(1, 1, 4)
    logits = torch.full((1, 4, 16, 1), -30.0)
    for side, bins in enumerate([{2: 0.75, 3: 0.25}, {0: 1.0}, {7: 1.0}, {14: 0.01, 15: 0.99}]):
        for number, share in bins.items():
            logits[0, side, number] = np.log(share)
    np.testing.assert_allclose(expected_distances(logits)[0, 0], [2.25, 0, 7, 14.99], atol=1e-5)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25) + 0.01 * np.log(0.01) + 0.99 * np.log(0.99)) / 4
    assert distribution_focal_loss(logits, distances).item() == pytest.approx(entropy, abs=1e-5)


def test_the_class_loss_ignores_what_the_boxes_gain_and_each_gain_scales_its_own_item() -> None:
    arguments = scene(13, (4, 4))
    usual, other = loss_of()(*arguments)[1], loss_of(box=15, cls=0, dfl=3)(*arguments)[1]
    np.testing.assert_allclose(other[1:], usual[1:] * torch.tensor((2, 0, 2)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "YOLOv8Los"}, "did you mean YOLOv8Loss"),
        ({"variant": "mindyol"}, "did you mean mindyolo"),
        ({"boxx": 1.0}, "loss.boxx: .* did you mean box"),
        ({"box": "7.5"}, "loss.box: should be a valid number, not '7.5'"),
        ({"reg_max": 16.5}, "loss.reg_max: should be a valid integer, not 16.5"),
        ({"cls": -1.0}, "loss.cls: .* greater than or equal to 0, not -1.0"),
        ({"box": True}, "loss.box: .* a valid number, not True"),
        ({"anchors": [[1, 2]]}, "works without anchors"),
    ],
)
def test_mistakes_in_the_loss_section_are_named(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"name": "YOLOv8Loss", "stride": STRIDE, "nc": 3} | changed
    with pytest.raises(YoloflowError, match=message):
        create_loss(**arguments)


def test_outputs_of_another_network_are_refused() -> None:
    outputs, labels, images = scene(14, (1, 1))
    loss_fn = create_loss("YOLOv8Loss", stride=STRIDE, nc=NUM_CLASSES + 1)
    with pytest.raises(YoloflowError, match=r"levels of \[67, 67, 67\] channels; .* need 3 levels of 68"):
        loss_fn(outputs, labels, images)


def test_the_reference_section_is_understood() -> None:
    names = set(loss_of().settings_class.model_fields)
    assert {"box", "cls", "dfl", "reg_max"} <= names
    assert not {"anchors", "stride", "nc", "variant", "name"} & names
    assert loss_of().loss_item_name == ["loss", "lbox", "lcls", "dfl"]
