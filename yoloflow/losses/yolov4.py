"""YOLOv4's loss (Bochkovskiy et al. 2020): anchors by overlap of shape, GIoU, ignored near-misses."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.decoding import filled
from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.objects import Objects, class_targets, read_objects
from yoloflow.losses.tables import rows_at
from yoloflow.settings import NotNegative, Section
from yoloflow.structures import YoloflowError


class YOLOv4Settings(Section):
    """Hyper-parameters of `YOLOv4Loss`."""

    box: NotNegative = Field(10.0, description="gain of the box loss")
    obj: NotNegative = Field(1.0, description="gain of the objectness")
    cls: NotNegative = Field(1.0, description="gain of the class loss")
    ignore_threshold: NotNegative = Field(
        0.7, description="IoU of a prediction with an object from which its objectness is ignored"
    )
    iou_threshold: NotNegative = Field(
        0.213, description="IoU of shapes above which an anchor learns an object beside the best one"
    )
    label_smoothing: NotNegative = Field(0.0, description="how far class targets stay from 0 and 1")


class YOLOv4Loss(Loss):
    """Box (1 - GIoU, more for small objects), objectness and class, sums over an image.

    An object is learnt by the cell under its centre with the anchor whose shape overlaps it most, and with
    all anchors that overlap it enough. Other cells whose box overlaps an object well learn no objectness.
    With one class there is no class term.

    Raises:
        YoloflowError: the anchors ((w, h) in pixels, level by level) do not divide by the levels.
    """

    settings_class = YOLOv4Settings
    needs_anchors = True
    loss_item_name = ["loss", "lbox", "lobj", "lcls"]
    reduction: Literal["sum", "mean"] = "mean"
    settings: YOLOv4Settings
    anchors: Tensor

    def __init__(self, settings: YOLOv4Settings, network: NetworkFacts) -> None:
        super().__init__(settings, network)
        anchors = network.anchors
        if anchors is None or len(anchors) % len(self.stride) or {len(row) for row in anchors} != {2}:
            raise YoloflowError(
                f"network.anchors: YOLOv4Loss needs pairs of width and height, equally many for each of the "
                f"{len(self.stride)} strides, found {anchors}"
            )
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)

    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch (the mean over the images) and its items, which are the same means.

        See `Loss.forward`. Outputs are, per level, raw (B, H, W, A, 5 + nc), and centres and sizes
        (B, H, W, A, 2) in 0..1.
        """
        objects = read_objects(labels)
        fits = self._fitting_anchors(objects, images).chunk(len(self.stride), 1)
        terms = torch.stack(
            [self._level_terms(level, fit, objects) for level, fit in zip(outputs, fits, strict=True)]
        ).sum(0)
        gains = (self.settings.box, self.settings.obj, self.settings.cls)
        return self.with_items(terms * filled(gains, terms) / len(images))

    def _size_weights(self, truth: Tensor) -> Tensor:
        """Weights (...) of the box terms of objects (..., 4) cx, cy, w, h in 0..1."""
        return 2 - truth[..., 2] * truth[..., 3]

    def _objectness_targets(self, logits: Tensor, cells: Tensor, fits: Tensor) -> Tensor:
        """(B, H * W * A) as `logits`: 1 for the `cells` (B, A * G) that an object `fits`, else 0."""
        return torch.zeros_like(logits).scatter_reduce(1, cells, fits.to(logits.dtype), "amax")

    def _fitting_anchors(self, objects: Objects, images: Tensor) -> Tensor:
        """(B, all anchors, G) which anchors learn which object."""
        sizes = objects.boxes_cxcywh(images.shape[2:])[:, None, :, 2:]
        anchors = self.anchors.to(sizes.device)[:, None]
        shapes, truth = (torch.cat((-part / 2, part / 2), -1) for part in (anchors, sizes))
        overlaps = box_iou(truth, shapes)
        fits = (overlaps == overlaps.amax(1, keepdim=True)) | (overlaps > self.settings.iou_threshold)
        return fits & objects.is_object[:, None]

    def _level_terms(self, level: tuple[Tensor, Tensor, Tensor], fits: Tensor, objects: Objects) -> Tensor:
        """(3,) box, objectness and class sums of a level; `fits` (B, A, G)."""
        raw, centres, sizes = (part.float() for part in level)
        height, width = raw.shape[1:3]
        logits, predicted = raw.flatten(1, 3), torch.cat((centres, sizes), -1).flatten(1, 3)
        cells = self._cells(fits, objects, height, width).flatten(1)
        boxes = rows_at(predicted, cells).view(*fits.shape, -1)
        truth = torch.where(fits[..., None], objects.boxes_cxcywh_norm[:, None], boxes.detach())
        overlaps = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth), "giou")
        box = torch.where(fits, (1 - overlaps) * self._size_weights(truth), 0).sum()
        targets = self._objectness_targets(logits[..., 4], cells, fits.flatten(1))
        obj = self._objectness(logits[..., 4], targets, predicted, objects)
        scores = rows_at(logits[..., 5:], cells).view(*fits.shape, -1)
        return torch.stack((box, obj, self._class_sum(scores, fits, objects)))

    def _cells(self, fits: Tensor, objects: Objects, height: int, width: int) -> Tensor:
        """(B, A, G) position in the level's H * W * A cells; 0 where an anchor does not fit."""
        x, y = objects.boxes_cxcywh((height, width))[..., :2].trunc().clamp(min=0).unbind(-1)
        position = y.clamp(max=height - 1) * width + x.clamp(max=width - 1)
        num_anchors = fits.shape[1]
        anchor = torch.arange(num_anchors, device=fits.device)[:, None]
        return torch.where(fits, position.nan_to_num().long()[:, None] * num_anchors + anchor, 0)

    def _objectness(self, logits: Tensor, targets: Tensor, predicted: Tensor, objects: Objects) -> Tensor:
        with torch.no_grad():
            truth_xyxy = cxcywh_to_xyxy(objects.boxes_cxcywh_norm)
            pairs = box_iou(cxcywh_to_xyxy(predicted)[:, None], truth_xyxy[:, :, None])
            best = torch.where(objects.is_object[..., None], pairs, 0).amax(1)
        is_far = best < self.settings.ignore_threshold
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return (losses * torch.maximum(targets, is_far.to(logits.dtype))).sum()

    def _class_sum(self, logits: Tensor, fits: Tensor, objects: Objects) -> Tensor:
        if self.nc == 1:
            return logits.sum() * 0
        classes = objects.classes[:, None, :, None].expand(-1, fits.shape[1], -1, 1)
        targets = class_targets(logits, classes, self.settings.label_smoothing)
        losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return torch.where(fits[..., None], losses, 0).sum()
