"""The loss of masks against a slow version in numpy, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from yoloflow.losses import create_loss, segment
from yoloflow.losses.segment import SMALLEST_AREA, YOLOv8SegLoss
from yoloflow.structures import YoloflowError

STRIDE, CLASSES, SIDE, MASKS = [8, 16, 32], 3, 64, 8

Batch = tuple[tuple[list[Tensor], Tensor, Tensor], Tensor, Tensor]


def loss_of(**settings: Any) -> YOLOv8SegLoss:
    loss_fn = create_loss("YOLOv8SegLoss", stride=STRIDE, nc=CLASSES, nm=MASKS, **settings)
    assert isinstance(loss_fn, YOLOv8SegLoss)
    return loss_fn


def batch_of(num_images: int = 3, objects: Sequence[int] = (4, 1, 0), seed: int = 0) -> Batch:
    """Outputs, labels and images; the objects of an image lie anywhere."""
    generator = torch.Generator().manual_seed(seed)
    levels = [
        torch.randn(num_images, 64 + CLASSES, SIDE // stride, SIDE // stride, generator=generator)
        for stride in STRIDE
    ]
    cells = sum(level[0, 0].numel() for level in levels)
    coefficients = torch.randn(num_images, MASKS, cells, generator=generator)
    prototypes = torch.randn(num_images, MASKS, SIDE // 4, SIDE // 4, generator=generator)
    labels = torch.full((num_images, max(*objects, 1), 6), -1.0)
    for image, number in enumerate(objects):
        labels[image, :, 0] = image
        labels[image, :number, 1] = torch.arange(number) % CLASSES
        labels[image, :number, 2:4] = 0.3 + 0.4 * torch.rand(number, 2, generator=generator)
        labels[image, :number, 4:] = 0.2 + 0.3 * torch.rand(number, 2, generator=generator)
    return (levels, coefficients, prototypes), labels, torch.zeros(num_images, 3, SIDE, SIDE)


def separate_masks(labels: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (*labels.shape[:2], SIDE // 4, SIDE // 4)
    return (torch.rand(shape, generator=generator) > 0.5).to(torch.uint8)


def joined(masks: Tensor) -> Tensor:
    """The overlap map of separate masks, later rows on top."""
    result = torch.zeros_like(masks[:, 0])
    for row in range(masks.shape[1]):
        result = torch.where(masks[:, row] > 0, row + 1, result)
    return result.to(torch.uint8)


def slow_mask_loss(loss_fn: YOLOv8SegLoss, batch: Batch, masks: Tensor, limit: int) -> float:
    """The same with loops, from the assignment on."""
    (levels, coefficients, prototypes), labels, images = batch
    found = loss_fn._detection_terms(levels, labels, images)
    per_image = []
    for image in range(len(images)):
        order = np.argsort(-found.entries.scores[image].numpy(), kind="stable")[:limit]
        losses = []
        for entry in order:
            if found.entries.scores[image, entry] <= 0:
                continue
            row = int(found.entries.objects[image, entry])
            cell = coefficients[image, :, found.entries.anchors[image, entry]].double().numpy()
            logits = np.tensordot(cell, prototypes[image].double().numpy(), 1)
            target = (masks[image, row] > 0).double().numpy()
            bce = np.logaddexp(0, logits) - logits * target
            cx, cy, w, h = labels[image, row, 2:].double().numpy()
            side = SIDE // 4
            y, x = np.mgrid[:side, :side]
            inside = (x >= (cx - w / 2) * side) & (x < (cx + w / 2) * side)
            inside &= (y >= (cy - h / 2) * side) & (y < (cy + h / 2) * side)
            losses.append((bce * inside).mean() / max(w * h, SMALLEST_AREA))
        per_image.append(np.mean(losses) if losses else 0.0)
    return float(np.mean(per_image)) * loss_fn.settings.box


@pytest.mark.parametrize("limit", [600, 7])
def test_the_mask_loss_equals_a_slow_version(limit: int) -> None:
    batch, loss_fn = batch_of(), loss_of(overlap=False, max_object_num=limit)
    masks = separate_masks(batch[1])
    _, items = loss_fn(*batch, masks)
    assert items[2].item() == pytest.approx(slow_mask_loss(loss_fn, batch, masks, limit), rel=1e-5)


def test_one_map_of_all_objects_and_a_mask_for_each_mean_the_same() -> None:
    batch = batch_of()
    one_map = joined(separate_masks(batch[1]))
    rows = torch.arange(1, batch[1].shape[1] + 1)[None, :, None, None]
    separate = (one_map[:, None] == rows).to(torch.uint8)
    first, second = loss_of()(*batch, one_map), loss_of(overlap=False)(*batch, separate)
    torch.testing.assert_close(first, second)


def test_box_class_and_distribution_terms_are_those_of_the_loss_without_masks() -> None:
    batch = batch_of()
    _, items = loss_of()(*batch, joined(separate_masks(batch[1])))
    plain = create_loss("YOLOv8Loss", stride=STRIDE, nc=CLASSES)
    _, expected = plain(batch[0][0], *batch[1:])
    assert torch.equal(items[[1, 3, 4]], expected[1:])


def entries_of(
    num_images: int = 3, entries: int = 12, objects: int = 4, side: int = 10
) -> tuple[Tensor, ...]:
    """What the loss of masks is made of; boxes reach out of the image, some entries are unused."""
    generator = torch.Generator().manual_seed(2)
    coefficients = torch.randn(num_images, entries, MASKS, generator=generator, dtype=torch.float64)
    prototypes = torch.randn(num_images, MASKS, side, side + 2, generator=generator, dtype=torch.float64)
    low = torch.rand(num_images, objects, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.3
    boxes = torch.cat((low, low + torch.rand(low.shape, generator=generator, dtype=torch.float64) * 0.8), 2)
    boxes[0, 0] = torch.tensor([0.51, 0.51, 0.53, 0.53])
    rows = torch.randint(0, objects, (num_images, entries), generator=generator)
    weights = torch.rand(num_images, entries, generator=generator, dtype=torch.float64)
    weights[0, 5:], weights[2] = 0, 0
    boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    return coefficients.requires_grad_(), prototypes.requires_grad_(), rows, boxes, weights


def masks_of(kind: str) -> Tensor:
    separate = (torch.rand(3, 4, 10, 12, generator=torch.Generator().manual_seed(3)) > 0.5).to(torch.uint8)
    return joined(separate) if kind == "one map" else separate


@pytest.mark.parametrize("kind", ["one map", "separate"])
@pytest.mark.parametrize("largest_table", [1 << 22, 1])
def test_loss_and_gradient_by_object_are_those_by_image(
    kind: str, largest_table: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "LARGEST_MASKS", largest_table)
    coefficients, prototypes, rows, boxes, weights = entries_of()
    tables = (coefficients.detach(), prototypes.detach(), masks_of(kind), rows, boxes, weights)
    by_object, by_image = segment._losses_by_object(*tables), segment._losses_by_image(*tables)
    assert by_object[0] > 0
    torch.testing.assert_close(by_object, by_image)


@pytest.mark.parametrize("path", ["_losses_by_object", "_losses_by_image"])
def test_the_gradient_is_that_of_differences(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "_losses_by_object", getattr(segment, path))
    coefficients, prototypes, *rest = entries_of()

    def loss(coefficients: Tensor, prototypes: Tensor) -> Tensor:
        found: Tensor = segment._WeightedMaskLoss.apply(coefficients, prototypes, masks_of("one map"), *rest)
        return found * 3

    assert torch.autograd.gradcheck(loss, (coefficients, prototypes), fast_mode=True)


@pytest.mark.parametrize("objects", [(0, 0, 0), (4, 0, 0)])
def test_images_without_objects_have_a_finite_loss_and_gradient(objects: Sequence[int]) -> None:
    batch = batch_of(objects=objects)
    _, coefficients, prototypes = batch[0]
    coefficients.requires_grad_(), prototypes.requires_grad_()
    loss, items = loss_of()(*batch, joined(separate_masks(batch[1])))
    loss.backward()
    assert items.isfinite().all()
    assert coefficients.grad is not None
    assert coefficients.grad.isfinite().all()
    assert (items[2] > 0) == (sum(objects) > 0)


def test_large_logits_stay_finite() -> None:
    (levels, coefficients, prototypes), labels, images = batch_of()
    loss, _ = loss_of()(
        (levels, coefficients * 1e4, prototypes * 1e4), labels, images, joined(separate_masks(labels))
    )
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, lambda masks: None, "the batch has none; segment_poly2mask must end data.train_transforms"),
        ({}, lambda masks: masks[:, None], "a mask for each object, loss.overlap is True"),
        ({"overlap": False}, lambda masks: masks, "one map an image, loss.overlap is False"),
        ({}, lambda masks: masks[:, ::2], "masks of 8 x 16 cells do not fit prototypes of 16 x 16"),
    ],
)
def test_masks_that_do_not_fit_are_refused(settings: dict[str, bool], change: object, message: str) -> None:
    batch = batch_of()
    assert callable(change)
    with pytest.raises(YoloflowError, match=message):
        loss_of(**settings)(*batch, change(joined(separate_masks(batch[1]))))


def test_outputs_with_another_number_of_coefficients_are_refused() -> None:
    batch = batch_of()
    loss_fn = create_loss("YOLOv8SegLoss", stride=STRIDE, nc=CLASSES, nm=16)
    with pytest.raises(YoloflowError, match="gives 8 mask coefficients and 8 prototypes; loss.nm is 16"):
        loss_fn(*batch, joined(separate_masks(batch[1])))


@pytest.mark.compile
@pytest.mark.parametrize("largest_table", [1 << 22, 1])
def test_the_loss_compiles_into_one_graph(largest_table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "LARGEST_MASKS", largest_table)

    def results(loss_fn: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor | None]:
        batch = batch_of()
        _, coefficients, prototypes = batch[0]
        coefficients.requires_grad_(), prototypes.requires_grad_()
        loss, items = loss_fn(*batch, joined(separate_masks(batch[1])))
        loss.backward()
        return [loss, items, coefficients.grad, prototypes.grad]

    torch._dynamo.reset()
    compiled = torch.compile(loss_of(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled), results(loss_of()))
