"""YOLOv8's loss in float64 with plain loops, from the papers' formulas: the oracle of the fast one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

EPS = 1e-7


def ciou(first: Tensor, second: Tensor) -> Tensor:
    """Zheng et al. 2020, equations 7, 8, 10 and 11, of two corner boxes (4,)."""
    w1, h1 = first[2] - first[0], first[3] - first[1] + EPS
    w2, h2 = second[2] - second[0], second[3] - second[1] + EPS
    overlap_w = (torch.minimum(first[2], second[2]) - torch.maximum(first[0], second[0])).clamp(min=0)
    overlap_h = (torch.minimum(first[3], second[3]) - torch.maximum(first[1], second[1])).clamp(min=0)
    inter = overlap_w * overlap_h
    iou = inter / (w1 * h1 + w2 * h2 - inter + EPS)
    hull_w = torch.maximum(first[2], second[2]) - torch.minimum(first[0], second[0])
    hull_h = torch.maximum(first[3], second[3]) - torch.minimum(first[1], second[1])
    centre = (first[:2] + first[2:] - second[:2] - second[2:]).square().sum() / 4
    v = 4 / math.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    trade_off = (v / (v - iou + 1 + EPS)).detach()
    return iou - centre / (hull_w**2 + hull_h**2 + EPS) - trade_off * v


def assign(
    scores: np.ndarray, overlaps: np.ndarray, inside: np.ndarray, topk: int, everyone: bool
) -> dict[int, tuple[int, float]]:
    """One image: anchor -> (object, target score), from (G, A) scores, CIoU and `anchor is inside object`."""
    objects, anchors = scores.shape
    positive = np.maximum(overlaps, 0)
    metrics = scores**0.5 * positive**6
    claimants: dict[int, list[int]] = {}
    for g in range(objects):
        candidates = [a for a in range(anchors) if inside[g, a] and metrics[g, a] > 0]
        for a in sorted(candidates, key=(-metrics[g]).__getitem__)[:topk]:
            claimants.setdefault(a, []).append(g)
    owners = {}
    for a, claims in claimants.items():
        rivals = range(objects) if everyone and len(claims) > 1 else claims
        owners[a] = max(rivals, key=overlaps[:, a].__getitem__)
    targets = {}
    for a, g in owners.items():
        mine = [b for b, owner in owners.items() if owner == g]
        best_metric = max(metrics[g, b] for b in mine)
        best_overlap = max(positive[g, b] for b in mine)
        targets[a] = g, metrics[g, a] * best_overlap / (best_metric + 1e-9)
    return targets


def yolov8_loss(
    outputs: list[Tensor],
    labels: Tensor,
    image_size: int,
    stride: list[int],
    topk: int = 10,
    everyone: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss and items (total, box, class, DFL) with the usual gains; outputs are float64 leaves."""
    batch, num_classes = len(labels), outputs[0].shape[1] - 64
    cells = [
        (x, y, s, level)
        for level, s in enumerate(stride)
        for y in range(image_size // s)
        for x in range(image_size // s)
    ]
    box = cls = dfl = torch.zeros((), dtype=torch.float64)
    total_score = 0.0
    for image in range(batch):
        objects = [row for row in labels[image].double() if row[1] >= 0]
        boxes = [
            torch.stack((r[2] - r[4] / 2, r[3] - r[5] / 2, r[2] + r[4] / 2, r[3] + r[5] / 2)) * image_size
            for r in objects
        ]
        raw = [outputs[level][image, :, y, x] for x, y, _, level in cells]
        decoded = []
        for (x, y, s, _), channels in zip(cells, raw, strict=True):
            sides = channels[:64].view(4, 16).softmax(1) @ torch.arange(16.0, dtype=torch.float64)
            centre = torch.tensor((x + 0.5, y + 0.5), dtype=torch.float64)
            decoded.append(torch.cat((centre - sides[:2], centre + sides[2:])) * s)
        table = (max(len(objects), 1), len(cells))
        scores, overlaps, inside = np.zeros(table), np.zeros(table), np.zeros(table, bool)
        for g, truth in enumerate(boxes):
            for a, (x, y, s, _) in enumerate(cells):
                scores[g, a] = raw[a][64 + int(objects[g][1])].sigmoid().item()
                overlaps[g, a] = ciou(truth, decoded[a]).item()
                cx, cy = (x + 0.5) * s, (y + 0.5) * s
                inside[g, a] = truth[0] < cx < truth[2] and truth[1] < cy < truth[3]
        targets = assign(scores, overlaps, inside, topk, everyone)
        for a, (x, y, s, _) in enumerate(cells):
            wanted = torch.zeros(num_classes, dtype=torch.float64)
            if a in targets:
                g, score = targets[a]
                wanted[int(objects[g][1])] = score
                total_score += score
                box = box + (1 - ciou(decoded[a] / s, boxes[g] / s)) * score
                centre = torch.tensor((x + 0.5, y + 0.5) * 2, dtype=torch.float64)
                sides = ((boxes[g] / s - centre) * torch.tensor((-1, -1, 1, 1))).clamp(0, 14.99)
                for side, logits in zip(sides, raw[a][:64].view(4, 16).log_softmax(1), strict=True):
                    left = int(side)
                    dfl = (
                        dfl
                        - (logits[left] * (left + 1 - side) + logits[left + 1] * (side - left)) / 4 * score
                    )
            cls = cls + torch.nn.functional.binary_cross_entropy_with_logits(
                raw[a][64:], wanted, reduction="sum"
            )
    items = torch.stack(
        [torch.as_tensor(term, dtype=torch.float64) for term in (7.5 * box, 0.5 * cls, 1.5 * dfl)]
    )
    items = items / max(total_score, 1)
    return items.sum() * batch, torch.cat((items.sum()[None], items)).detach()
