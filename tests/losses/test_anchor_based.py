"""The published losses of heads with anchors against plain loops in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from yoloflow.losses import create_loss
from yoloflow.structures import YoloflowError

STRIDE, CLASSES, SIDE = [8, 16, 32], 4, 96
ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
BALANCE = (4.0, 1.0, 0.4)


def batch(seed: int, count: int = 9) -> tuple[list[Tensor], Tensor, Tensor]:
    """Raw maps, labels with padding between the objects, and images."""
    rng = np.random.default_rng(seed)
    maps = [
        torch.from_numpy(rng.normal(0, 1.5, (2, 3, SIDE // s, SIDE // s, 5 + CLASSES)).astype(np.float32))
        for s in STRIDE
    ]
    labels = np.full((2, count, 6), -1.0, np.float32)
    for image in range(2):
        for row in range(count):
            if row % 3 == 1:
                continue
            w, h = rng.uniform(0.03, 0.9, 2)
            x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
            labels[image, row] = (image, rng.integers(CLASSES), x, y, w, h)
    return maps, torch.from_numpy(labels), torch.zeros(2, 3, SIDE, SIDE)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def cross_entropy(logit: float, target: float) -> float:
    return max(logit, 0) - logit * target + math.log1p(math.exp(-abs(logit)))


def ciou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Complete IoU of two boxes cx, cy, w, h (Zheng et al. 2020)."""
    (x, y, w, h), (u, v, p, q) = first, second
    width = max(0.0, min(x + w / 2, u + p / 2) - max(x - w / 2, u - p / 2))
    height = max(0.0, min(y + h / 2, v + q / 2) - max(y - h / 2, v - q / 2))
    overlap = width * height / (w * h + p * q - width * height)
    around_w = max(x + w / 2, u + p / 2) - min(x - w / 2, u - p / 2)
    around_h = max(y + h / 2, v + q / 2) - min(y - h / 2, v - q / 2)
    distance = ((x - u) ** 2 + (y - v) ** 2) / (around_w**2 + around_h**2)
    shape = 4 / math.pi**2 * (math.atan(p / q) - math.atan(w / h)) ** 2
    return overlap - distance - shape * shape / (shape - overlap + 1 + 1e-7)


def cells_of(x: float, y: float, side: int) -> list[tuple[int, int]]:
    """The cell under a centre (in cells) and the neighbours that it is nearer to."""
    cells = [(int(x), int(y))]
    if x % 1 < 0.5 and x > 1:
        cells.append((int(x) - 1, int(y)))
    if y % 1 < 0.5 and y > 1:
        cells.append((int(x), int(y) - 1))
    if (side - x) % 1 < 0.5 and side - x > 1:
        cells.append((int(x) + 1, int(y)))
    if (side - y) % 1 < 0.5 and side - y > 1:
        cells.append((int(x), int(y) + 1))
    return cells


def loss_in_loops(maps: list[Tensor], labels: Tensor) -> tuple[float, float, float]:
    """Box, objectness and class terms with the default gains."""
    box = obj = cls = 0.0
    for level, (raw, stride) in enumerate(zip(maps, STRIDE, strict=True)):
        values, side = raw.double().numpy(), SIDE // stride
        targets = np.zeros(values.shape[:4])
        overlaps, class_losses = [], []
        for image, number, *cxcywh in labels.reshape(-1, 6).double().tolist():
            if number < 0:
                continue
            x, y, w, h = (part * side for part in cxcywh)
            for anchor in range(3):
                wide, high = (part / stride for part in ANCHORS[level][2 * anchor : 2 * anchor + 2])
                if max(w / wide, wide / w, h / high, high / h) >= 4:
                    continue
                for column, row in cells_of(x, y, side):
                    cell = values[int(image), anchor, row, column]
                    found = (
                        sigmoid(cell[0]) * 2 - 0.5 + column,
                        sigmoid(cell[1]) * 2 - 0.5 + row,
                        (2 * sigmoid(cell[2])) ** 2 * wide,
                        (2 * sigmoid(cell[3])) ** 2 * high,
                    )
                    overlap = ciou(found, (x, y, w, h))
                    overlaps.append(overlap)
                    place = (int(image), anchor, row, column)
                    targets[place] = max(targets[place], overlap)
                    class_losses += [
                        cross_entropy(cell[5 + index], float(index == number)) for index in range(CLASSES)
                    ]
        if overlaps:
            box += 1 - float(np.mean(overlaps))
            cls += float(np.mean(class_losses))
        logits = values[..., 4].ravel()
        losses = [cross_entropy(*pair) for pair in zip(logits, targets.ravel(), strict=True)]
        obj += BALANCE[level] * float(np.mean(losses))
    return 0.05 * box, 1.0 * (SIDE / 640) ** 2 * obj, 0.5 * CLASSES / 80 * cls


@pytest.mark.parametrize("seed", range(12))
def test_the_published_loss_equals_plain_loops(seed: int) -> None:
    maps, labels, images = batch(seed)
    loss = create_loss("YOLOv5Loss", anchors=ANCHORS, stride=STRIDE, nc=CLASSES)
    total, items = loss(maps, labels, images)
    expected = loss_in_loops(maps, labels)
    np.testing.assert_allclose(items[1:], expected, rtol=2e-5)
    assert total.item() == pytest.approx(2 * sum(expected), rel=2e-5)


def test_labels_in_another_order_and_more_padding_change_nothing() -> None:
    for name in ("YOLOv5Loss", "YOLOv7Loss"):
        loss = create_loss(name, anchors=ANCHORS, stride=STRIDE, nc=CLASSES)
        maps, labels, images = batch(3)
        padding = torch.full((2, 4, 6), -1.0)
        moved = torch.cat((padding, labels.flip(1)), 1)
        torch.testing.assert_close(loss(maps, moved, images)[1], loss(maps, labels, images)[1])


def test_garbage_in_padding_rows_changes_nothing() -> None:
    maps, labels, images = batch(5)
    garbage = labels.clone()
    garbage[garbage[..., 1] < 0] = torch.tensor([0.0, -1, math.nan, math.inf, -3, 1e9])
    for name in ("YOLOv5Loss", "YOLOv7Loss"):
        loss = create_loss(name, anchors=ANCHORS, stride=STRIDE, nc=CLASSES)
        torch.testing.assert_close(loss(maps, garbage, images)[1], loss(maps, labels, images)[1])


def test_one_class_has_no_class_term_and_focus_and_smoothing_count() -> None:
    maps, labels, images = batch(1)
    labels[..., 1] = labels[..., 1].clamp(max=0)
    single = create_loss("YOLOv5Loss", anchors=ANCHORS, stride=STRIDE, nc=1)
    assert single([level[..., :6] for level in maps], labels, images)[1][3] == 0
    plain = create_loss("YOLOv5Loss", anchors=ANCHORS, stride=STRIDE, nc=CLASSES)(maps, labels, images)[1]
    changes: list[dict[str, Any]] = [{"fl_gamma": 0.1}, {"label_smoothing": 0.1}]
    for change in changes:
        other = create_loss("YOLOv5Loss", anchors=ANCHORS, stride=STRIDE, nc=CLASSES, **change)
        assert not torch.allclose(other(maps, labels, images)[1], plain)


def test_wrong_maps_and_missing_anchors_are_refused() -> None:
    maps, labels, images = batch(1)
    with pytest.raises(YoloflowError, match="anchors"):
        create_loss("YOLOv5Loss", anchors=1, stride=STRIDE, nc=CLASSES)
    loss = create_loss("YOLOv5Loss", anchors=ANCHORS, stride=STRIDE, nc=CLASSES + 1)
    with pytest.raises(YoloflowError):
        loss(maps, labels, images)


def test_the_gain_of_the_objectness_grows_with_the_images_unless_told_not_to() -> None:
    maps, labels, images = batch(2)
    facts: dict[str, Any] = {"anchors": ANCHORS, "stride": STRIDE, "nc": CLASSES}
    scaled = create_loss("YOLOv5Loss", **facts)(maps, labels, images)[1]
    plain = create_loss("YOLOv5Loss", **facts, scale_by_size=False)(maps, labels, images)[1]
    torch.testing.assert_close(scaled[[1, 3]], plain[[1, 3]])
    torch.testing.assert_close(scaled[2], plain[2] * (SIDE / 640) ** 2)
