"""YOLOX's loss (Ge et al. 2021): SimOTA assignment, IoU, objectness and class, L1 in the last epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloflow.boxes import box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from yoloflow.losses.anchor_based import read_objects
from yoloflow.losses.dynamic_k import Matching, class_cost, match_dynamic_k
from yoloflow.losses.loss import Loss
from yoloflow.structures import YoloflowError

BOX_GAIN = 5.0
LARGEST_K = 10
CENTRE_RADIUS = 1.5
"""Half side, in cells, of the square around an object's centre whose cells may learn it."""
# Entries of a (images, objects, cells) table that are matched together.
LARGEST_TABLE = 1 << 24


class YOLOXLoss(Loss):
    """Each object is learnt by the cells that predict it best and cheapest (SimOTA, section 2.1).

    All terms are sums divided by the number of cells that learn an object (see `normalizer`).

    Args:
        stride: pixels a cell, level by level.
        nc: number of classes.
        use_l1: add the L1 term; recipes do so in the last stage (`loss.stages`).
        variant: "published" lets the cells around an object's centre learn it; "mindyolo" also those in its
            box, at a price of 1,000, clips objects to the image, and sums the losses of devices.
    """

    def __init__(
        self,
        *,
        stride: Sequence[int],
        nc: int,
        use_l1: bool = False,
        variant: str = "published",
    ) -> None:
        super().__init__(variant)
        self.loss_item_name = ["loss", "lbox", "lobj", "lcls", "lboxl1"]
        self.stride, self.nc, self.use_l1 = tuple(stride), nc, use_l1
        self.reduction = "sum" if variant == "mindyolo" else "mean"

    def forward(self, outputs: Tensor, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The loss of a batch.

        Args:
            outputs: (B, N, 5 + nc): boxes cx, cy, w, h in pixels, then logits of objectness and classes.
            labels: (B, G, 6) rows of image index, class, cx, cy, w, h in 0..1; class -1 in padding rows.
            images: (B, 3, H, W), for their size alone.

        Returns:
            the scalar to differentiate (not multiplied by B), and the detached items of `loss_item_name`.
        """
        outputs = outputs.float()
        centres, strides = self._cells(outputs, images)
        truth, classes, is_object = self._objects(labels, images)
        found = self._match(outputs, centres, strides, truth, classes, is_object)
        number = self.normalizer(found.is_matched.sum())

        boxes = outputs[..., :4]
        wanted = truth.gather(1, found.objects[..., None].expand(-1, -1, 4))
        wanted = torch.where(found.is_matched[..., None], wanted, boxes.detach())
        overlaps = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
        box = torch.where(found.is_matched, 1 - overlaps**2, 0).sum() * BOX_GAIN
        learns = found.is_matched.to(outputs.dtype)
        obj = binary_cross_entropy_with_logits(outputs[..., 4], learns, reduction="sum")
        cls = self._class_sum(outputs[..., 5:], overlaps.detach(), classes, found)
        l1 = self._l1_sum(boxes, wanted, centres, strides, found) if self.use_l1 else torch.zeros_like(obj)
        items = torch.stack((box, obj, cls, l1)) / number
        total = items.sum()
        return total, torch.cat((total[None], items)).detach()

    def _cells(self, outputs: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centres (N, 2) and strides (N, 1) of all cells in pixels."""
        centres, strides = [], []
        for stride in self.stride:
            height, width = (side // stride for side in images.shape[2:])
            y, x = torch.meshgrid(
                torch.arange(height, device=outputs.device),
                torch.arange(width, device=outputs.device),
                indexing="ij",
            )
            centres.append((torch.stack((x, y), -1).view(-1, 2) + 0.5) * stride)
            strides.append(centres[-1].new_full((height * width, 1), stride))
        if outputs.shape[1:] != (sum(len(level) for level in centres), 5 + self.nc):
            raise YoloflowError(
                f"loss: the network gives {tuple(outputs.shape[1:])} cells and channels; images of "
                f"{tuple(images.shape[2:])}, stride {list(self.stride)} and nc={self.nc} need "
                f"{(sum(len(level) for level in centres), 5 + self.nc)}"
            )
        return torch.cat(centres), torch.cat(strides)

    def _objects(self, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, G, 4) cx, cy, w, h in pixels, classes (B, G), which rows are objects (B, G)."""
        objects = read_objects(labels)
        height, width = images.shape[2:]
        limit = labels.new_tensor((width, height, width, height), dtype=torch.float32)
        boxes = objects.boxes_cxcywh * limit
        if self.variant == "mindyolo":
            corners = torch.minimum(cxcywh_to_xyxy(boxes).clamp(min=0), limit)
            boxes = xyxy_to_cxcywh(corners)
        has_area = (boxes[..., 2:] > 0).all(-1)
        return boxes, objects.classes, objects.is_object & has_area

    @torch.no_grad()
    def _match(
        self,
        outputs: Tensor,
        centres: Tensor,
        strides: Tensor,
        truth: Tensor,
        classes: Tensor,
        is_object: Tensor,
    ) -> Matching:
        """So many images at a time that their (G, N) tables stay small; no image depends on another."""
        step = max(1, LARGEST_TABLE // (truth.shape[1] * outputs.shape[1]))
        columns = (torch.split(tensor, step) for tensor in (outputs, truth, classes, is_object))
        parts = [self._match_images(centres, strides, *entry) for entry in zip(*columns, strict=True)]
        return Matching(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _match_images(
        self,
        centres: Tensor,
        strides: Tensor,
        outputs: Tensor,
        truth: Tensor,
        classes: Tensor,
        is_object: Tensor,
    ) -> Matching:
        is_central = self._is_around(centres, truth[..., :2], (CENTRE_RADIUS * strides).expand(-1, 2))
        overlaps = box_iou(cxcywh_to_xyxy(truth)[:, :, None], cxcywh_to_xyxy(outputs[..., :4])[:, None])
        scores = (outputs[..., 5:].sigmoid() * outputs[..., 4:5].sigmoid()).sqrt()
        rows = is_object[..., None]
        if self.variant == "published":
            is_allowed = (is_central & rows).any(1, keepdim=True) & rows
            is_preferred, price = is_central, 1e6
        else:
            is_inside = self._is_around(centres, truth[..., :2], truth[:, :, None, 2:] / 2)
            # Padding rows have a box too, in the reference; it lies outside.
            is_allowed = is_inside.any(1, keepdim=True) & rows
            is_preferred, price = is_inside & is_central, 1e3
        overlaps = torch.where(is_allowed, overlaps, 0)
        cost = class_cost(scores, classes) - 3 * (overlaps + 1e-8).log()
        cost = cost + torch.where(is_preferred, 0.0, price)
        if self.variant == "published":
            return match_dynamic_k(cost, overlaps, is_allowed, LARGEST_K)
        return match_dynamic_k(cost, overlaps, is_allowed, LARGEST_K, "cheapest claimant", "below the next")

    @staticmethod
    def _is_around(centres: Tensor, middles: Tensor, half_sides: Tensor) -> Tensor:
        """(B, G, N) whether cells' centres (N, 2) lie within half a box of its middle (B, G, 2)."""
        return ((centres - middles[:, :, None]).abs() < half_sides).all(-1)

    def _class_sum(self, logits: Tensor, overlaps: Tensor, classes: Tensor, found: Matching) -> Tensor:
        """A cell's class learns the IoU of its box."""
        wanted = classes.gather(1, found.objects)[..., None]
        targets = torch.zeros_like(logits).scatter(2, wanted, overlaps[..., None])
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return torch.where(found.is_matched[..., None], losses, 0).sum()

    @staticmethod
    def _l1_sum(boxes: Tensor, wanted: Tensor, centres: Tensor, strides: Tensor, found: Matching) -> Tensor:
        """Distance of the head's own four numbers from those that would give the object."""

        def corrections(cxcywh: Tensor) -> Tensor:
            sizes = (cxcywh[..., 2:] / strides + 1e-8).log()
            return torch.cat(((cxcywh[..., :2] - centres) / strides, sizes), -1)

        distances = (corrections(boxes) - corrections(wanted)).abs()
        return torch.where(found.is_matched[..., None], distances, 0).sum()
