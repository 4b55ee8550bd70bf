"""YOLOv4's loss (Bochkovskiy et al. 2020): anchors by overlap of shape, GIoU, ignored near-misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.losses.anchor_based import Objects, read_objects
from yoloflow.losses.loss import Loss
from yoloflow.structures import YoloflowError

REFERENCE_DEVICES = 8


class YOLOv4Loss(Loss):
    """Box (1 - GIoU, more for small objects), objectness and class, sums over an image.

    An object is learnt by the cell under its centre with the anchor whose shape overlaps it most, and with
    all anchors that overlap it enough. Other cells whose box overlaps an object well learn no objectness.

    Args:
        anchors: (w, h) in pixels of all levels, level by level.
        stride: pixels a cell, level by level.
        nc: number of classes; with one class there is no class term.
        box: gain of the box loss.
        obj: gain of the objectness.
        cls: gain of the class loss.
        ignore_threshold: IoU of a prediction with an object from which its objectness is ignored.
        iou_threshold: IoU of shapes above which an anchor learns an object beside the best one.
        label_smoothing: how far class targets stay from 0 and 1.
        variant: "mindyolo" sums the losses of devices, divided by 8, weighs all boxes by 2, and teaches the
            first cell of the first image an object where there is padding.

    Raises:
        YoloflowError: the anchors do not divide by the levels.
    """

    anchors: Tensor

    def __init__(
        self,
        *,
        anchors: Sequence[Sequence[float]] | int,
        stride: Sequence[int],
        nc: int,
        box: float = 10.0,
        obj: float = 1.0,
        cls: float = 1.0,
        ignore_threshold: float = 0.7,
        iou_threshold: float = 0.213,
        label_smoothing: float = 0.0,
        variant: str = "published",
    ) -> None:
        super().__init__(variant)
        if isinstance(anchors, int) or len(anchors) % len(stride) or {len(row) for row in anchors} != {2}:
            raise YoloflowError(
                f"network.anchors: YOLOv4Loss needs pairs of width and height, equally many for each of the "
                f"{len(stride)} strides, found {anchors}"
            )
        self.loss_item_name = ["loss", "lbox", "lobj", "lcls"]
        self.num_levels, self.nc = len(stride), nc
        self.reduction = "sum" if variant == "mindyolo" else "mean"
        self.box, self.obj, self.cls, self.smoothing = box, obj, cls, label_smoothing
        self.ignore_threshold, self.iou_threshold = ignore_threshold, iou_threshold
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)

    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch.

        Args:
            outputs: per level raw (B, H, W, A, 5 + nc), and centres and sizes (B, H, W, A, 2) in 0..1.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; class -1 in padding rows.
            images: (B, 3, H, W), for their size alone.

        Returns:
            the scalar to differentiate (the mean over the images), and the detached items, which are the
            same means.
        """
        objects = read_objects(labels)
        fits = self._fitting_anchors(objects, images).chunk(self.num_levels, 1)
        terms = torch.stack(
            [self._level_terms(level, fit, objects) for level, fit in zip(outputs, fits, strict=True)]
        ).sum(0)
        items = terms * terms.new_tensor((self.box, self.obj, self.cls)) / len(images)
        total = items.sum()
        devices = REFERENCE_DEVICES if self.variant == "mindyolo" else 1
        return total / devices, torch.cat((total[None], items)).detach()

    def _fitting_anchors(self, objects: Objects, images: Tensor) -> Tensor:
        """(B, all anchors, G) which anchors learn which object."""
        height, width = images.shape[2:]
        sizes = objects.boxes_cxcywh[..., 2:] * objects.boxes_cxcywh.new_tensor((width, height))
        anchors = self.anchors.to(sizes.device)[:, None]
        shapes, truth = (torch.cat((-part / 2, part / 2), -1) for part in (anchors, sizes[:, None]))
        overlaps = box_iou(truth, shapes)
        fits = (overlaps == overlaps.amax(1, keepdim=True)) | (overlaps > self.iou_threshold)
        return fits & objects.is_object[:, None]

    def _level_terms(self, level: tuple[Tensor, Tensor, Tensor], fits: Tensor, objects: Objects) -> Tensor:
        """(3,) box, objectness and class sums of a level; `fits` (B, A, G)."""
        raw, centres, sizes = (part.float() for part in level)
        batch, height, width, num_anchors = raw.shape[:4]
        cells = self._cells(fits, objects, height, width)
        logits, predicted = raw.flatten(1, 3), torch.cat((centres, sizes), -1).flatten(1, 3)
        index = cells.flatten(1)[..., None]
        boxes = predicted.gather(1, index.expand(-1, -1, 4)).view(batch, num_anchors, -1, 4)
        truth = torch.where(fits[..., None], objects.boxes_cxcywh[:, None], boxes.detach())
        overlaps = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth), "giou")
        area = truth[..., 2] * truth[..., 3] if self.variant == "published" else torch.zeros_like(overlaps)
        box = torch.where(fits, (1 - overlaps) * (2 - area), 0).sum()
        scores = (
            logits[..., 5:].gather(1, index.expand(-1, -1, self.nc)).view(batch, num_anchors, -1, self.nc)
        )
        obj = self._objectness(logits[..., 4], predicted, cells, fits, objects)
        return torch.stack((box, obj, self._class_sum(scores, fits, objects)))

    def _cells(self, fits: Tensor, objects: Objects, height: int, width: int) -> Tensor:
        """(B, A, G) place in the level's H * W * A cells; 0 where an anchor does not fit."""
        size = objects.boxes_cxcywh.new_tensor((width, height))
        corners = torch.minimum((objects.boxes_cxcywh[..., :2] * size).trunc().clamp(min=0), size - 1)
        place = (corners[..., 1] * width + corners[..., 0]).nan_to_num().long()[:, None]
        num_anchors = fits.shape[1]
        anchor = torch.arange(num_anchors, device=place.device)[:, None]
        return torch.where(fits, place * num_anchors + anchor, 0)

    def _objectness(
        self, logits: Tensor, predicted: Tensor, cells: Tensor, fits: Tensor, objects: Objects
    ) -> Tensor:
        learns = torch.zeros_like(logits).scatter_reduce(
            1, cells.flatten(1), fits.flatten(1).to(logits.dtype), "amax"
        )
        if self.variant == "mindyolo":
            first = (~fits).any().to(logits.dtype)
            learns = learns.index_put(_first_entry(logits), first.maximum(learns[0, 0]))
        with torch.no_grad():
            pairs = box_iou(
                cxcywh_to_xyxy(predicted)[:, None], cxcywh_to_xyxy(objects.boxes_cxcywh)[:, :, None]
            )
            best = torch.where(objects.is_object[..., None], pairs, 0).amax(1)
        counts = torch.maximum(learns, (best < self.ignore_threshold).to(logits.dtype))
        losses = binary_cross_entropy_with_logits(logits, learns, reduction="none")
        return (losses * counts).sum()

    def _class_sum(self, logits: Tensor, fits: Tensor, objects: Objects) -> Tensor:
        if self.nc == 1:
            return logits.sum() * 0
        low = 0.5 * self.smoothing
        classes = objects.classes[:, None, :, None].expand(-1, fits.shape[1], -1, 1)
        targets = torch.full_like(logits, low).scatter(3, classes, 1 - low)
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return torch.where(fits[..., None], losses, 0).sum()


def _first_entry(table: Tensor) -> tuple[Tensor, Tensor]:
    zero = torch.zeros((), dtype=torch.int64, device=table.device)
    return zero, zero
