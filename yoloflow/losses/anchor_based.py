"""The loss of heads with anchors: box (1 - CIoU), objectness and class, as YOLOv5 and YOLOv3 have it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.decoding import decode_anchor_boxes, filled
from yoloflow.losses.anchor_matching import Match, match_by_shape
from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.objects import Objects, class_targets, read_objects
from yoloflow.losses.tables import rows_at
from yoloflow.settings import NotNegative, Section
from yoloflow.structures import YoloflowError

BALANCE = {3: (4.0, 1.0, 0.4)}
"""Weights of the levels' objectness, by the number of levels."""
BALANCE_OF_OTHERS = (4.0, 1.0, 0.25, 0.06, 0.02)
FOCAL_ALPHA = 0.25
NOMINAL_SIDE, NOMINAL_CLASSES, NOMINAL_LEVELS = 640, 80, 3


class AnchorSettings(Section):
    """Hyper-parameters of `AnchorLoss`."""

    box: NotNegative = Field(0.05, description="gain of the box loss")
    obj: NotNegative = Field(1.0, description="gain of the objectness")
    cls: NotNegative = Field(0.5, description="gain of the class loss")
    anchor_t: NotNegative = Field(4.0, description="factor by which a side may differ from the anchor's")
    cls_pw: NotNegative = Field(1.0, description="weight of the positive part of the class loss")
    obj_pw: NotNegative = Field(1.0, description="weight of the positive part of the objectness")
    fl_gamma: NotNegative = Field(
        0.0, description="focusing exponent (Focal Loss, Lin et al. 2017, equation 5); 0: plain cross-entropy"
    )
    label_smoothing: NotNegative = Field(0.0, description="how far class targets stay from 0 and 1")
    scale_by_size: bool = Field(
        True,
        description="let the gain of the objectness grow with the area of the images, as the original: 1 at "
        "640 px, a sixteenth at 160 px; no effect with variant=mindyolo",
    )


class AnchorLoss(Loss):
    """YOLOv5's loss: each matched anchor learns box and class, all cells learn the CIoU as objectness.

    Box terms are means over the positives of a level, class terms over its positives and classes, objectness
    over all its cells, weighted by level. A level without positives adds nothing to the first two. The
    positives of all devices are counted together (see `normalizer`). With one class there is no class term.

    Raises:
        YoloflowError: not a level of anchors (widths and heights in pixels) for each stride.
    """

    settings_class = AnchorSettings
    needs_anchors = True
    loss_item_name = ["loss", "lbox", "lobj", "lcls"]
    settings: AnchorSettings
    anchors: Tensor

    def __init__(self, settings: AnchorSettings, network: NetworkFacts) -> None:
        super().__init__(settings, network)
        anchors, stride = network.anchors, network.stride
        if anchors is None or len(anchors) != len(stride):
            raise YoloflowError(
                f"network.anchors: the loss needs a level of anchors for each of the strides {list(stride)}, "
                f"found {anchors}"
            )
        self.balance = BALANCE.get(len(stride), BALANCE_OF_OTHERS)
        pixels = torch.tensor(anchors, dtype=torch.float32).view(len(stride), -1, 2)
        cells = pixels / torch.tensor(stride, dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("anchors", cells, persistent=False)

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch (the sum of the items times B) and its items, see `Loss.forward`.

        Outputs are, per level, (B, A, H, W, 5 + nc): box corrections, objectness, class logits.

        Raises:
            YoloflowError: the outputs do not fit anchors, stride and nc.
        """
        outputs = self._checked(outputs)
        objects = read_objects(labels)
        terms = self._level_sums(outputs, self._matches(outputs, objects, images), objects)
        return self._total(terms, images)

    def _matches(self, outputs: Sequence[Tensor], objects: Objects, images: Tensor) -> list[Match]:
        """The objects that each level learns."""
        return self._by_shape(outputs, objects, reach=0.5)

    def _by_shape(self, outputs: Sequence[Tensor], objects: Objects, reach: float) -> list[Match]:
        anchors = self.anchors.to(outputs[0].device)
        boxes, is_object = objects.boxes_cxcywh_norm, objects.is_object
        return [
            match_by_shape(raw.shape[2:4], level, boxes, is_object, self.settings.anchor_t, reach)
            for raw, level in zip(outputs, anchors, strict=True)
        ]

    def _level_sums(
        self,
        outputs: Sequence[Tensor],
        matches: Sequence[Match],
        objects: Objects,
        objectness: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """(3,) box, objectness and class terms over all levels, without gains.

        `outputs` learn box and class; `objectness` are the raw maps that learn the objectness, if others.
        """
        terms = []
        numbers = self.normalizer(torch.stack([match.is_used.sum() for match in matches])).unbind()
        for level, (raw, match, number) in enumerate(zip(outputs, matches, numbers, strict=True)):
            flat = raw.flatten(1, 3)
            chosen = rows_at(flat, match.cells)
            overlaps = self._overlaps(chosen, raw.shape[2:4], match, objects)
            box = torch.where(match.is_used, 1 - overlaps, 0).sum() / number
            values = torch.where(match.is_used, overlaps.detach().clamp(min=0), 0)
            targets = self._objectness_targets(values, match, objects, flat.shape[1])
            logits = flat if objectness is None else objectness[level].flatten(1, 3)
            losses = self._cross_entropy(logits[..., 4], targets, self.settings.obj_pw)
            cls = self._class_term(chosen[..., 5:], match, objects, number)
            terms.append(torch.stack((box, losses.mean() * self.balance[level], cls)))
        return torch.stack(terms).sum(0)

    def _total(self, terms: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The results of `forward` of the terms of `_level_sums`."""
        loss, items = self.with_items(terms * filled(self._gains(images), terms))
        return loss * len(images), items

    def _gains(self, images: Tensor) -> tuple[float, float, float]:
        """The gains, scaled to the number of levels and classes and to the size of the images."""
        gains, by_levels = self.settings, NOMINAL_LEVELS / len(self.stride)
        by_size = (max(images.shape[2:]) / NOMINAL_SIDE) ** 2 if gains.scale_by_size else 1.0
        by_classes = self.nc / NOMINAL_CLASSES
        return gains.box * by_levels, gains.obj * by_levels * by_size, gains.cls * by_levels * by_classes

    def _objectness_targets(self, values: Tensor, match: Match, objects: Objects, num_cells: int) -> Tensor:
        """(B, A * H * W) of `values` (B, M), CIoU of at least 0: of a cell's claims the highest."""
        return values.new_zeros(len(values), num_cells).scatter_reduce(1, match.cells, values, "amax")

    def _overlaps(self, chosen: Tensor, size_hw: Sequence[int], match: Match, objects: Objects) -> Tensor:
        """(B, M) CIoU of the candidates' boxes with their objects, 1 where unused."""
        boxes = decode_anchor_boxes(chosen[..., :4].sigmoid(), match.anchors_wh)
        truth = rows_at(objects.boxes_cxcywh(size_hw), match.objects)
        truth = torch.cat((truth[..., :2] - match.corners_xy, truth[..., 2:]), -1)
        # An unused candidate's object may be of no area, or no object at all.
        truth = torch.where(match.is_used[..., None], truth, boxes.detach())
        return box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(truth), "ciou")

    def _class_term(self, logits: Tensor, match: Match, objects: Objects, number: Tensor) -> Tensor:
        if self.nc == 1:
            return logits.sum() * 0
        classes = objects.classes.gather(1, match.objects)[..., None]
        targets = class_targets(logits, classes, self.settings.label_smoothing)
        losses = self._cross_entropy(logits, targets, self.settings.cls_pw)
        return torch.where(match.is_used[..., None], losses, 0).sum() / (number * self.nc)

    def _cross_entropy(self, logits: Tensor, targets: Tensor, positive_weight: float) -> Tensor:
        """Entry by entry, focused where `fl_gamma` is set."""
        weight = None if positive_weight == 1 else logits.new_full((), positive_weight)
        losses = binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
        if self.settings.fl_gamma == 0:
            return losses
        share = logits.sigmoid()
        hit = targets * share + (1 - targets) * (1 - share)
        alpha = targets * FOCAL_ALPHA + (1 - targets) * (1 - FOCAL_ALPHA)
        return losses * alpha * (1 - hit) ** self.settings.fl_gamma

    def _checked(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs in float32, if they fit."""
        wanted = (self.anchors.shape[1], 5 + self.nc)
        found = [(level.shape[1], level.shape[-1]) for level in outputs]
        if not found or len(found) % len(self.stride) or set(found) != {wanted}:
            raise YoloflowError(
                f"loss: the network gives levels of (anchors, channels) {found}; anchors, nc={self.nc} and "
                f"stride {list(self.stride)} need {len(self.stride)} levels of {wanted}"
            )
        return [level.float() for level in outputs]
