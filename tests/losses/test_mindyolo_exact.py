"""variant="mindyolo" chooses cells as the reference does, told here literally in loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from yoloflow.losses import create_loss
from yoloflow.losses.mindyolo import MindYOLOv7Loss, MindYOLOXLoss
from yoloflow.losses.objects import read_objects

Array = NDArray[np.float64]


def corners(cxcywh: Array) -> Array:
    return np.concatenate((cxcywh[..., :2] - cxcywh[..., 2:] / 2, cxcywh[..., :2] + cxcywh[..., 2:] / 2), -1)


def iou(first: Array, second: Array) -> float:
    """Of two corner boxes."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    return common / (float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - common)


def sigmoid(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-values))
    return result


def entropy(scores: Array, chosen: int) -> float:
    """Binary cross-entropy of all classes' scores, where one class is the right one."""
    return float(sum(-np.log(s if c == chosen else 1 - s) for c, s in enumerate(scores)))


def yolox_in_loops(outputs: Array, truth: Array, classes: list[int], side: int) -> dict[int, int]:
    """Cell -> object of one square image; outputs (N, 5 + C), truth (G, 4) cx, cy, w, h in pixels."""
    cells = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride in (8, 16, 32)
        for row in range(side // stride)
        for column in range(side // stride)
    ]
    boxes = corners(truth)
    inside = np.array([[b[0] < x < b[2] and b[1] < y < b[3] for x, y, _ in cells] for b in boxes])
    central = np.array(
        [[abs(x - t[0]) < 1.5 * s and abs(y - t[1]) < 1.5 * s for x, y, s in cells] for t in truth]
    )
    in_some_box = inside.any(0)
    predicted = corners(outputs[:, :4])
    cost, overlaps = np.full(inside.shape, 1000.0), np.zeros(inside.shape)
    for g in range(len(truth)):
        for n in np.flatnonzero(in_some_box).tolist():
            overlaps[g, n] = iou(boxes[g], predicted[n])
            scores = np.sqrt(sigmoid(outputs[n, 5:]) * sigmoid(outputs[n, 4]))
            price = 0.0 if inside[g, n] and central[g, n] else 1000.0
            cost[g, n] = entropy(scores, classes[g]) - 3 * np.log(overlaps[g, n] + 1e-8) + price
    takes = np.zeros(inside.shape, bool)
    for g in range(len(truth)):
        k = max(1, int(np.float32(np.sort(overlaps[g])[::-1][:10].sum())))
        # Cells outside all boxes stand in this ranking, at 1,000 each.
        takes[g] = (cost[g] < np.sort(cost[g])[k]) & in_some_box
    found: dict[int, int] = {}
    for n in range(len(cells)):
        chosen = int(np.where(takes[:, n], cost[:, n], 2000.0).argmin())
        if takes[chosen, n]:
            found[n] = chosen
    return found


def match_yolox(outputs: Array, truth: Array, classes: list[int], side: int) -> dict[int, int]:
    loss = create_loss("YOLOXLoss", stride=(8, 16, 32), nc=outputs.shape[1] - 5, variant="mindyolo")
    assert isinstance(loss, MindYOLOXLoss)
    images = torch.zeros(1, 3, side, side)
    raw = torch.from_numpy(outputs).float()[None]
    centres, strides = loss._cells(raw, images)
    boxes = torch.from_numpy(truth).float()[None]
    is_object = torch.ones(1, len(truth), dtype=torch.bool)
    found = loss._match(raw, centres, strides, boxes, torch.tensor([classes]), is_object)
    cells = found.is_matched[0].nonzero()[:, 0].tolist()
    return {cell: int(found.objects[0, cell]) for cell in cells}


def yolox_case(seed: int) -> tuple[Array, Array, list[int]]:
    """Predictions of all 84 cells of a 64 px image near its objects, so that many cells overlap them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 4))
    truth = np.concatenate((rng.uniform(12, 52, (count, 2)), rng.uniform(6, 24, (count, 2))), 1)
    near = truth[rng.integers(count, size=84)]
    boxes = near * rng.uniform(0.9, 1.1, near.shape)
    return np.concatenate((boxes, rng.normal(0, 2, (84, 5))), 1), truth, rng.integers(4, size=count).tolist()


@pytest.mark.parametrize("seed", range(40))
def test_yolox_chooses_cells_as_the_reference(seed: int) -> None:
    outputs, truth, classes = yolox_case(seed)
    expected = yolox_in_loops(outputs, truth, classes, 64)
    assert match_yolox(outputs, truth, classes, 64) == expected


def test_an_object_with_few_central_cells_takes_none_of_the_others() -> None:
    # Of the 16 cells in a wide object's box 4 are around its centre. All predict it with an IoU of 0.75, so
    # k is 7; but a cell outside the box costs 1,000, and one in it that is off the centre more.
    truth = np.array([[32.0, 32.0, 60.0, 10.0]])
    outputs = np.concatenate((np.tile(truth * (1, 1, 0.75, 1), (84, 1)), np.zeros((84, 5))), 1)
    found = match_yolox(outputs, truth, [0], 64)
    assert found == yolox_in_loops(outputs, truth, [0], 64)
    assert list(found) == [27, 28, 35, 36]


def yolov7_case(height: int, width: int) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    maps = [
        torch.randn(1, 3, height // stride, width // stride, 9, generator=generator) for stride in (8, 16, 32)
    ]
    labels = torch.tensor([[[0, 1, 0.3, 0.4, 0.2, 0.3], [0, 2, 0.7, 0.6, 0.25, 0.5], [0, -1, 0, 0, 0, 0]]])
    return maps, labels, torch.zeros(1, 3, height, width)


ANCHORS = [[12, 16, 19, 36, 40, 28], [36, 75, 76, 55, 72, 146], [142, 110, 192, 243, 459, 401]]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (160, 64)])
def test_yolov7_compares_with_objects_multiplied_by_the_height(height: int, width: int) -> None:
    maps, labels, images = yolov7_case(height, width)
    loss = create_loss("YOLOv7Loss", anchors=ANCHORS, stride=(8, 16, 32), nc=4, variant="mindyolo")
    assert isinstance(loss, MindYOLOv7Loss)
    objects = read_objects(labels)
    candidates = loss._by_shape(maps, objects, reach=0.5)
    boxes, scores, used = [], [], []
    for raw, match, stride in zip(maps, candidates, (8, 16, 32), strict=True):
        for m in range(match.cells.shape[1]):
            share = sigmoid(raw.flatten(1, 3)[0, match.cells[0, m]].double().numpy())
            centre = (share[:2] * 2 - 0.5 + match.corners_xy[0, m].numpy()) * stride
            size = (share[2:4] * 2) ** 2 * match.anchors_wh[0, m].numpy() * stride
            boxes.append(corners(np.concatenate((centre, size))))
            scores.append(np.sqrt(share[5:] * share[4]))
            used.append(bool(match.is_used[0, m]))
    # The literal rule: all four numbers of a label times the height, on a batch of any shape.
    truth = corners(labels[0, :2, 2:].double().numpy() * height)
    cost, overlaps = np.full((3, len(boxes)), 1000.0), np.zeros((3, len(boxes)))
    for g in range(2):
        for m in np.flatnonzero(used).tolist():
            overlaps[g, m] = iou(truth[g], boxes[m])
            chosen = int(labels[0, g, 1])
            cost[g, m] = entropy(scores[m], chosen) - 3 * np.log(overlaps[g, m] + 1e-7)
    takes = np.zeros(cost.shape, bool)
    for g in range(2):
        k = int(np.clip(np.float32(np.sort(overlaps[g])[::-1][:10].sum()), 1, 10))
        takes[g] = (cost[g] <= np.sort(cost[g])[k - 1]) & used
    expected = {m: int(g) for m, g in enumerate(cost.argmin(0)) if takes[g, m]}
    matches = loss._matches(maps, objects, images)
    kept = torch.cat([match.is_used[0] for match in matches]).nonzero()[:, 0].tolist()
    chosen_objects = torch.cat([match.objects[0] for match in matches])
    assert {m: int(chosen_objects[m]) for m in kept} == expected
    assert expected
