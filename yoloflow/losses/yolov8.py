"""The loss of anchor-free heads with distributed box sides, as YOLOv8 has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.losses.distribution_focal import (
    distances_to_xyxy,
    distribution_focal_loss,
    expected_distances,
    xyxy_to_distances,
)
from yoloflow.losses.loss import Loss
from yoloflow.losses.task_aligned import Assignment, Objects, TaskAlignedAssigner
from yoloflow.structures import YoloflowError


class YOLOv8Loss(Loss):
    """Class loss (BCE), box loss (1 - CIoU) and distribution focal loss over task-aligned anchors.

    Box and distribution terms are weighted by the anchor's target score; each of the three is a sum over all
    anchors divided by the sum of the target scores (at least 1). Everything is float32, of fixed shape, and
    nothing waits for the device.

    Args:
        stride: pixels a cell, level by level.
        nc: number of classes.
        box: gain of the box loss.
        cls: gain of the class loss.
        dfl: gain of the distribution focal loss.
        reg_max: bins a box side.
        tal_topk: anchors an object may claim.
        variant: "published", or "mindyolo" for the reference's rule for anchors that several objects claim.
    """

    def __init__(
        self,
        *,
        stride: Sequence[int],
        nc: int,
        box: float = 7.5,
        cls: float = 0.5,
        dfl: float = 1.5,
        reg_max: int = 16,
        tal_topk: int = 10,
        variant: str = "published",
    ) -> None:
        super().__init__()
        self.loss_item_name = ["loss", "lbox", "lcls", "dfl"]
        self.stride, self.nc, self.reg_max = tuple(stride), nc, reg_max
        self.box, self.cls, self.dfl = box, cls, dfl
        self.assign = TaskAlignedAssigner(tal_topk, conflict="all" if variant == "mindyolo" else "claimants")

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch.

        Args:
            outputs: per level (B, 4 * reg_max + nc, H, W), box logits first.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; class -1 in padding rows.
            images: (B, 3, H, W), for their size alone.

        Returns:
            the scalar to differentiate (the sum of the items times B), and the detached items of
            `loss_item_name` without that factor.

        Raises:
            YoloflowError: the outputs do not fit stride, nc and reg_max.
        """
        self._check_outputs(outputs)
        raw = torch.cat([level.flatten(2) for level in outputs], 2).float()
        box_logits, class_logits = raw.split((4 * self.reg_max, self.nc), 1)
        anchors_xy, strides = _anchor_grid(outputs, self.stride)
        objects = _objects(labels, images.shape[2:])
        with torch.no_grad():
            cells = expected_distances(box_logits.unflatten(1, (4, self.reg_max)))
            boxes_xyxy = distances_to_xyxy(anchors_xy, cells * strides[:, None])
        entries = self.assign(class_logits.detach(), boxes_xyxy, anchors_xy, objects)

        box, dfl = self._box_losses(box_logits, anchors_xy, strides, objects.boxes_xyxy, entries)
        # BCE(x, t) = softplus(x) - x * t, and t is zero but at the entries: no (B, nc, A) table of targets.
        classes = objects.classes.gather(1, entries.objects)
        entry_logits = class_logits.flatten(1).gather(1, classes * raw.shape[2] + entries.anchors)
        cls = softplus(class_logits).sum() - (entry_logits * entries.scores).sum()

        terms = torch.stack((box * self.box, cls * self.cls, dfl * self.dfl)) / entries.scores.sum().clamp(1)
        total = terms.sum()
        return total * len(raw), torch.cat((total[None], terms)).detach()

    def _box_losses(
        self,
        box_logits: Tensor,
        anchors_xy: Tensor,
        strides: Tensor,
        objects_xyxy: Tensor,
        entries: Assignment,
    ) -> tuple[Tensor, Tensor]:
        """Sums of (1 - CIoU) and distribution focal loss over the entries, in cells, weighted by the scores."""
        index = entries.anchors[:, None].expand(-1, box_logits.shape[1], -1)
        logits = box_logits.gather(2, index).unflatten(1, (4, self.reg_max))
        stride = strides[entries.anchors][..., None]
        centres = anchors_xy[entries.anchors] / stride
        objects = objects_xyxy.gather(1, entries.objects[..., None].expand(-1, -1, 4)) / stride
        boxes = distances_to_xyxy(centres, expected_distances(logits))
        overlaps = box_iou(boxes, objects, "ciou")
        focal = distribution_focal_loss(logits, xyxy_to_distances(centres, objects))
        return ((1 - overlaps) * entries.scores).sum(), (focal * entries.scores).sum()

    def _check_outputs(self, outputs: Sequence[Tensor]) -> None:
        channels = 4 * self.reg_max + self.nc
        found = [level.shape[1] for level in outputs]
        if found != [channels] * len(self.stride):
            raise YoloflowError(
                f"loss: the network gives {len(found)} levels of {found} channels; stride {list(self.stride)}, "
                f"nc={self.nc} and reg_max={self.reg_max} need {len(self.stride)} of {channels}"
            )


def _objects(labels: Tensor, image_size_hw: Sequence[int]) -> Objects:
    labels = labels.float()
    is_object = labels[..., 1] >= 0
    height, width = image_size_hw
    left, top, right, bottom = cxcywh_to_xyxy(labels[..., 2:6]).unbind(2)
    boxes_xyxy = torch.stack((left * width, top * height, right * width, bottom * height), 2)
    boxes_xyxy = torch.where(is_object[..., None], boxes_xyxy, 0)
    return Objects(boxes_xyxy, labels[..., 1].long().clamp(0))


def _anchor_grid(levels: Sequence[Tensor], stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cell centres (A, 2) x y in pixels and their strides (A,), level by level, row by row."""
    centres, strides = [], []
    for level, step in zip(levels, stride, strict=True):
        height, width = level.shape[2:]
        y = (torch.arange(height, device=level.device, dtype=torch.float32) + 0.5) * step
        x = (torch.arange(width, device=level.device, dtype=torch.float32) + 0.5) * step
        centres.append(torch.stack((x.repeat(height), y.repeat_interleave(width)), 1))
        strides.append(torch.full_like(centres[-1][:, 0], step))
    return torch.cat(centres), torch.cat(strides)
