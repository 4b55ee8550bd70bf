"""The loss of heads with anchors: box (1 - CIoU), objectness and class, as YOLOv5 and YOLOv3 have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.losses.anchor_matching import Match, match_by_shape
from yoloflow.losses.loss import Loss
from yoloflow.structures import YoloflowError

BALANCE = {3: (4.0, 1.0, 0.4)}
"""Weights of the levels' objectness, by the number of levels."""
BALANCE_OF_OTHERS = (4.0, 1.0, 0.25, 0.06, 0.02)
FOCAL_ALPHA = 0.25
NOMINAL_SIDE, NOMINAL_CLASSES, NOMINAL_LEVELS = 640, 80, 3


class Objects(NamedTuple):
    """The ground truth: boxes_cxcywh (B, G, 4) in 0..1, classes (B, G), is_object (B, G)."""

    boxes_cxcywh: Tensor
    classes: Tensor
    is_object: Tensor


class AnchorLoss(Loss):
    """YOLOv5's loss: each matched anchor learns box and class, all cells learn the CIoU as objectness.

    Box terms are means over the positives of a level, class terms over its positives and classes, objectness
    over all its cells, weighted by level. A level without positives adds nothing to the first two. The
    positives of all devices are counted together (see `normalizer`).

    Args:
        anchors: widths and heights in pixels, level by level.
        stride: pixels a cell, level by level.
        nc: number of classes; with one class there is no class term.
        box: gain of the box loss.
        obj: gain of the objectness.
        cls: gain of the class loss.
        anchor_t: by how much an object's side may differ from the anchor's.
        cls_pw: weight of the positive part of the class loss.
        obj_pw: weight of the positive part of the objectness.
        fl_gamma: focusing exponent (Focal Loss, Lin et al. 2017, equation 5); 0 for plain cross-entropy.
        label_smoothing: how far class targets stay from 0 and 1.
        scale_by_size: let the gain of the objectness grow with the area of the images, as the original, 1 at
            640 px; at 160 px only a sixteenth of it is left. No effect in variant "mindyolo".
        variant: "published" scales the gains to the number of levels and classes and to the image size, as
            the original, and gives a cell that several objects claim the highest CIoU; "mindyolo" does not
            scale, and there the last candidate written stays, unused ones (which write 0) included.

    Raises:
        YoloflowError: no anchors, or not a level of anchors for each stride.
    """

    def __init__(
        self,
        *,
        anchors: Sequence[Sequence[float]] | int,
        stride: Sequence[int],
        nc: int,
        box: float = 0.05,
        obj: float = 1.0,
        cls: float = 0.5,
        anchor_t: float = 4.0,
        cls_pw: float = 1.0,
        obj_pw: float = 1.0,
        fl_gamma: float = 0.0,
        label_smoothing: float = 0.0,
        scale_by_size: bool = True,
        variant: str = "published",
    ) -> None:
        super().__init__(variant)
        if isinstance(anchors, int) or len(anchors) != len(stride):
            raise YoloflowError(
                f"network.anchors: the loss needs a level of anchors for each of the strides {list(stride)}, "
                f"found {anchors}"
            )
        self.loss_item_name = ["loss", "lbox", "lobj", "lcls"]
        self.stride, self.nc = tuple(stride), nc
        self.box, self.obj, self.cls, self.largest_ratio = box, obj, cls, anchor_t
        self.cls_pw, self.obj_pw, self.gamma, self.smoothing = cls_pw, obj_pw, fl_gamma, label_smoothing
        self.scale_by_size = scale_by_size
        self.balance = BALANCE.get(len(stride), BALANCE_OF_OTHERS)
        pixels = torch.tensor(anchors, dtype=torch.float32).view(len(stride), -1, 2)
        cells = pixels / torch.tensor(stride, dtype=torch.float32).view(-1, 1, 1)
        self.anchors: Tensor
        self.register_buffer("anchors", cells, persistent=False)

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch.

        Args:
            outputs: per level (B, A, H, W, 5 + nc): box corrections, objectness, class logits.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; class -1 in padding rows.
            images: (B, 3, H, W), for their size alone.

        Returns:
            the scalar to differentiate (the sum of the items times B), and the detached items of
            `loss_item_name` without that factor.
        """
        outputs = self._checked(outputs)
        objects = read_objects(labels)
        terms = self.level_sums(outputs, self.matches(outputs, objects, images), objects)
        return self.total(terms, images)

    def matches(self, outputs: Sequence[Tensor], objects: Objects, images: Tensor) -> list[Match]:
        """What each level learns."""
        return self._by_shape(outputs, objects, reach=0.5)

    def _by_shape(self, outputs: Sequence[Tensor], objects: Objects, reach: float) -> list[Match]:
        anchors = self.anchors.to(outputs[0].device)
        boxes, is_object = objects.boxes_cxcywh, objects.is_object
        return [
            match_by_shape(raw.shape[2:4], level, boxes, is_object, self.largest_ratio, reach)
            for raw, level in zip(outputs, anchors, strict=True)
        ]

    def level_sums(
        self,
        outputs: Sequence[Tensor],
        matches: Sequence[Match],
        objects: Objects,
        objectness: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """(3,) box, objectness and class terms over all levels, without gains.

        Args:
            outputs: the raw maps that learn box and class.
            matches: see `matches`.
            objects: the ground truth.
            objectness: the raw maps that learn the objectness, if others.
        """
        terms = []
        numbers = self.normalizer(torch.stack([match.is_used.sum() for match in matches])).unbind()
        for level, (raw, match, number) in enumerate(zip(outputs, matches, numbers, strict=True)):
            flat = raw.flatten(1, 3)
            chosen = flat.gather(1, match.cells[..., None].expand(-1, -1, flat.shape[2]))
            overlaps = self._overlaps(chosen, raw.shape[2:4], match, objects)
            box = torch.where(match.is_used, 1 - overlaps, 0).sum() / number
            targets = self._objectness(overlaps.detach().clamp(min=0), match, flat.shape[1])
            logits = flat if objectness is None else objectness[level].flatten(1, 3)
            obj = self._cross_entropy(logits[..., 4], targets, self.obj_pw).mean() * self.balance[level]
            terms.append(torch.stack((box, obj, self._class_term(chosen[..., 5:], match, objects, number))))
        return torch.stack(terms).sum(0)

    def total(self, terms: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar to differentiate and the items, of the terms of `level_sums`."""
        items = terms * terms.new_tensor(self._gains(images))
        loss = items.sum()
        return loss * len(images), torch.cat((loss[None], items)).detach()

    def _gains(self, images: Tensor) -> tuple[float, float, float]:
        if self.variant == "mindyolo":
            return self.box, self.obj, self.cls
        by_levels = NOMINAL_LEVELS / len(self.stride)
        by_size = (max(images.shape[2:]) / NOMINAL_SIDE) ** 2 if self.scale_by_size else 1.0
        by_classes = self.nc / NOMINAL_CLASSES
        return self.box * by_levels, self.obj * by_levels * by_size, self.cls * by_levels * by_classes

    def _overlaps(self, chosen: Tensor, size_hw: Sequence[int], match: Match, objects: Objects) -> Tensor:
        """(B, M) CIoU of the candidates' boxes with their objects, 1 where unused."""
        centres = chosen[..., 0:2].sigmoid() * 2 - 0.5
        sizes = (chosen[..., 2:4].sigmoid() * 2) ** 2 * match.anchors_wh
        boxes = torch.cat((centres, sizes), -1)
        truth = objects.boxes_cxcywh.gather(1, match.objects[..., None].expand(-1, -1, 4))
        cells = truth.new_tensor((size_hw[1], size_hw[0]))
        truth = torch.cat((truth[..., :2] * cells - match.corners_xy, truth[..., 2:] * cells), -1)
        # An unused candidate's object may be of no area, or no object at all.
        truth = torch.where(match.is_used[..., None], truth, boxes.detach())
        return box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth), "ciou")

    def _objectness(self, overlaps: Tensor, match: Match, num_cells: int) -> Tensor:
        """(B, A * H * W) what each cell's objectness learns."""
        values = torch.where(match.is_used, overlaps, 0)
        targets = overlaps.new_zeros(len(overlaps), num_cells)
        if self.variant != "mindyolo":
            return targets.scatter_reduce(1, match.cells, values, "amax")
        # Unused candidates of all images write 0 into the first image's first cell.
        images = torch.arange(len(overlaps), device=overlaps.device)[:, None]
        cells = torch.where(match.is_used, match.cells + images * num_cells, 0).flatten()
        order, values = match.order.flatten(), values.flatten()
        none = torch.full_like(targets.flatten(), -1, dtype=torch.int64)
        last = none.scatter_reduce(0, cells, order, "amax")
        by_order = torch.zeros_like(values).scatter(0, order, values)
        written = torch.where(last >= 0, by_order[last.clamp(min=0)], 0)
        return written.view_as(targets)

    def _class_term(self, logits: Tensor, match: Match, objects: Objects, number: Tensor) -> Tensor:
        if self.nc == 1:
            return logits.sum() * 0
        classes = objects.classes.gather(1, match.objects)
        low = 0.5 * self.smoothing
        targets = torch.full_like(logits, low).scatter(2, classes[..., None], 1 - low)
        losses = self._cross_entropy(logits, targets, self.cls_pw)
        return torch.where(match.is_used[..., None], losses, 0).sum() / (number * self.nc)

    def _cross_entropy(self, logits: Tensor, targets: Tensor, positive_weight: float) -> Tensor:
        """Entry by entry, focused where `fl_gamma` is set."""
        weight = None if positive_weight == 1 else logits.new_tensor(positive_weight)
        losses = binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        if self.gamma == 0:
            return losses
        share = logits.sigmoid()
        hit = targets * share + (1 - targets) * (1 - share)
        alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
        return losses * alpha * (1 - hit) ** self.gamma

    def _checked(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        wanted = (self.anchors.shape[1], 5 + self.nc)
        found = [(level.shape[1], level.shape[-1]) for level in outputs]
        if not found or len(found) % len(self.stride) or set(found) != {wanted}:
            raise YoloflowError(
                f"loss: the network gives levels of (anchors, channels) {found}; anchors, nc={self.nc} and "
                f"stride {list(self.stride)} need {len(self.stride)} levels of {wanted}"
            )
        return [level.float() for level in outputs]


def read_objects(labels: Tensor) -> Objects:
    """Labels (B, G, 6) as the losses with anchors take them; at least one row an image."""
    labels = labels.float()
    if labels.shape[1] == 0:
        labels = labels.new_full((len(labels), 1, 6), -1)
    return Objects(labels[..., 2:6], labels[..., 1].long().clamp(0), labels[..., 1] >= 0)
