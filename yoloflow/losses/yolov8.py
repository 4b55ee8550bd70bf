"""The loss of anchor-free heads with distributed box sides, as YOLOv8 has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.decoding import cell_centres
from yoloflow.losses.distribution_focal import (
    distances_to_xyxy,
    distribution_focal_loss,
    expected_distances,
    xyxy_to_distances,
)
from yoloflow.losses.loss import Loss
from yoloflow.losses.task_aligned import Assignment, TaskAlignedAssigner
from yoloflow.structures import YoloflowError

# Entries of a (images, objects, anchors) table of which a few fit the second-level cache of a core,
# and of which a few are a small part of an accelerator's memory.
CACHED_ENTRIES = 1 << 17
LARGEST_TABLE = 1 << 24


class YOLOv8Loss(Loss):
    """Class loss (BCE), box loss (1 - CIoU) and distribution focal loss over task-aligned anchors.

    Box and distribution terms are weighted by the anchor's target score; each of the three is a sum over all
    anchors divided by the sum of the target scores (at least 1, see `normalizer`). Everything is float32, of
    fixed shape, and nothing waits for the device.

    Args:
        stride: pixels a cell, level by level.
        nc: number of classes.
        box: gain of the box loss.
        cls: gain of the class loss.
        dfl: gain of the distribution focal loss.
        reg_max: bins a box side.
        tal_topk: anchors an object may claim.
        variant: "published", or "mindyolo" for the reference's rule for anchors that several objects claim,
            and a sum of target scores for each device.
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
        super().__init__(variant)
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
        raw = torch.cat([level.flatten(2).float() for level in outputs], 2)
        box_logits, class_logits = torch.split(raw, [4 * self.reg_max, self.nc], 1)
        grid = _anchor_grid(outputs, self.stride)
        objects = _objects(labels, images.shape[2:])
        with torch.no_grad():
            entries = self._assign(box_logits, class_logits, grid, objects)
        box, dfl = self._box_losses(box_logits, grid, objects.boxes_xyxy, entries)
        # BCE(x, t) = softplus(x) - x * t, and t is zero but at the entries: no (B, nc, A) table of targets.
        classes = objects.classes.gather(1, entries.objects)
        entry_logits = class_logits.flatten(1).gather(1, classes * raw.shape[2] + entries.anchors)
        cls = softplus(class_logits).sum() - (entry_logits * entries.scores).sum()

        terms = torch.stack((box * self.box, cls * self.cls, dfl * self.dfl))
        terms = terms / self.normalizer(entries.scores.sum())
        total = terms.sum()
        return total * len(raw), torch.cat((total[None], terms)).detach()

    def _assign(self, box_logits: Tensor, class_logits: Tensor, grid: _Grid, objects: _Objects) -> Assignment:
        """So many images at a time that their (G, A) tables stay small; no image depends on another."""
        parts = []
        step = _images_at_once(box_logits, objects.classes.shape[1])
        for box, cls, truth_xyxy, classes in zip(
            *(torch.split(tensor, step) for tensor in (box_logits, class_logits, *objects)), strict=True
        ):
            cells = expected_distances(box.reshape(-1, 4, self.reg_max, box.shape[2]))
            boxes_xyxy = distances_to_xyxy(grid.centres_xy, cells * grid.strides[:, None])
            rows = torch.arange(len(cls), device=cls.device)[:, None]
            parts.append(self.assign(cls[rows, classes].sigmoid_(), boxes_xyxy, grid.centres_xy, truth_xyxy))
        return Assignment(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _box_losses(
        self, box_logits: Tensor, grid: _Grid, objects_xyxy: Tensor, entries: Assignment
    ) -> tuple[Tensor, Tensor]:
        """Sums over the entries of 1 - CIoU and of the distribution focal loss, weighted by the scores."""
        index = entries.anchors[:, None].expand(-1, box_logits.shape[1], -1)
        logits = box_logits.gather(2, index).reshape(-1, 4, self.reg_max, index.shape[2])
        stride = grid.strides[entries.anchors][..., None]
        centres = grid.centres_xy[entries.anchors] / stride
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
                f"loss: the network gives {len(found)} levels of {found} channels; reg_max={self.reg_max}, "
                f"nc={self.nc} and stride {list(self.stride)} need {len(self.stride)} levels of {channels}"
            )


class _Objects(NamedTuple):
    """The ground truth: boxes_xyxy (B, G, 4) in pixels and classes (B, G), zeros in padding rows."""

    boxes_xyxy: Tensor
    classes: Tensor


class _Grid(NamedTuple):
    """The anchors of all levels: centres_xy (A, 2) in pixels, strides (A,) pixels a cell."""

    centres_xy: Tensor
    strides: Tensor


def _objects(labels: Tensor, image_size_hw: Sequence[int]) -> _Objects:
    labels = labels.float()
    if labels.shape[1] == 0:
        labels = labels.new_full((len(labels), 1, 6), -1)
    is_object = labels[..., 1] >= 0
    height, width = image_size_hw
    left, top, right, bottom = cxcywh_to_xyxy(labels[..., 2:6]).unbind(2)
    boxes_xyxy = torch.stack((left * width, top * height, right * width, bottom * height), 2)
    boxes_xyxy = torch.where(is_object[..., None], boxes_xyxy, 0)
    return _Objects(boxes_xyxy, labels[..., 1].long().clamp(0))


def _images_at_once(box_logits: Tensor, num_objects: int) -> int:
    """How many images to assign together; a compiled graph has its own ways with the cache."""
    in_cache = box_logits.device.type == "cpu" and not torch.compiler.is_compiling()
    entries = CACHED_ENTRIES if in_cache else LARGEST_TABLE
    return max(1, entries // (num_objects * box_logits.shape[2]))


def _anchor_grid(levels: Sequence[Tensor], stride: Sequence[int]) -> _Grid:
    centres, strides = cell_centres([level.shape[2:] for level in levels], stride, levels[0].device)
    return _Grid(centres * strides, strides[:, 0])
