"""YOLOX's loss (Ge et al. 2021): SimOTA assignment, IoU, objectness and class, L1 in the last epochs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.decoding import cell_centres
from yoloflow.losses.dynamic_k import Matching, class_cost, match_dynamic_k
from yoloflow.losses.loss import Loss
from yoloflow.losses.objects import read_objects
from yoloflow.losses.tables import LARGEST_TABLE, in_groups, rows_at
from yoloflow.settings import Section
from yoloflow.structures import YoloflowError

BOX_GAIN = 5.0
LARGEST_K = 10
CENTRE_RADIUS = 1.5
"""Half side, in cells, of the square around an object's centre whose cells may learn it."""


class YOLOXSettings(Section):
    """Hyper-parameters of `YOLOXLoss`."""

    use_l1: bool = Field(False, description="add the L1 term, as recipes do in the last of `loss.stages`")


class YOLOXLoss(Loss):
    """Each object is learnt by the cells that predict it best and cheapest (SimOTA, section 2.1).

    All terms are sums divided by the number of cells that learn an object (see `normalizer`).
    """

    settings_class = YOLOXSettings
    loss_item_name = ["loss", "lbox", "lobj", "lcls", "lboxl1"]
    reduction: Literal["sum", "mean"] = "mean"
    rules: ClassVar[tuple[Any, ...]] = ()
    """Further arguments of `match_dynamic_k`."""
    settings: YOLOXSettings

    def forward(self, outputs: Tensor, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch (not multiplied by B) and its items, see `Loss.forward`.

        Outputs are (B, N, 5 + nc): boxes cx, cy, w, h in pixels, then logits of objectness and classes.

        Raises:
            YoloflowError: the outputs do not fit the images, stride and nc.
        """
        outputs = outputs.float()
        centres, strides = self._cells(outputs, images)
        objects = read_objects(labels)
        truth = self._truth(objects.boxes_cxcywh(images.shape[2:]), images)
        is_object = objects.is_object & (truth[..., 2:] > 0).all(-1)
        found = self._match(outputs, centres, strides, truth, objects.classes, is_object)
        number = self.normalizer(found.is_matched.sum())

        boxes = outputs[..., :4]
        wanted = rows_at(truth, found.objects)
        wanted = torch.where(found.is_matched[..., None], wanted, boxes.detach())
        overlaps = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
        box = torch.where(found.is_matched, 1 - overlaps**2, 0).sum() * BOX_GAIN
        learns = found.is_matched.to(outputs.dtype)
        obj = binary_cross_entropy_with_logits(outputs[..., 4], learns, reduction="sum")
        cls = self._class_sum(outputs[..., 5:], overlaps.detach(), objects.classes, found)
        l1 = torch.zeros_like(obj)
        if self.settings.use_l1:
            l1 = self._l1_sum(boxes, wanted, centres, strides, found)
        return self.with_items(torch.stack((box, obj, cls, l1)) / number)

    def _truth(self, boxes_cxcywh: Tensor, images: Tensor) -> Tensor:
        """The boxes (B, G, 4) in pixels that are learnt for those of the labels."""
        return boxes_cxcywh

    def _prices(
        self, centres: Tensor, strides: Tensor, truth: Tensor, is_object: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, G, N) which cells may learn which objects, and the prices: cells around the centre are free."""
        is_central = is_around(centres, truth[..., :2], CENTRE_RADIUS * strides)
        rows = is_object[..., None]
        return (is_central & rows).any(1, keepdim=True) & rows, torch.where(is_central, 0.0, 1e6)

    def _cells(self, outputs: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Centres (N, 2) and strides (N, 1) of all cells in pixels."""
        sizes_hw = [[side // stride for side in images.shape[2:]] for stride in self.stride]
        centres, strides = cell_centres(sizes_hw, self.stride, outputs.device)
        if outputs.shape[1:] != (len(centres), 5 + self.nc):
            raise YoloflowError(
                f"loss: the network gives {tuple(outputs.shape[1:])} cells and channels; images of "
                f"{tuple(images.shape[2:])}, stride {list(self.stride)} and nc={self.nc} need "
                f"{(len(centres), 5 + self.nc)}"
            )
        return centres * strides, strides

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
        """Few images at a time, so that their (G, N) tables stay small."""

        def match(outputs: Tensor, truth: Tensor, classes: Tensor, is_object: Tensor) -> Matching:
            is_allowed, price = self._prices(centres, strides, truth, is_object)
            overlaps = box_iou(cxcywh_to_xyxy(truth)[:, :, None], cxcywh_to_xyxy(outputs[..., :4])[:, None])
            overlaps = torch.where(is_allowed, overlaps, 0)
            scores = (outputs[..., 5:].sigmoid() * outputs[..., 4:5].sigmoid()).sqrt()
            cost = class_cost(scores, classes) - 3 * (overlaps + 1e-8).log() + price
            return match_dynamic_k(cost, overlaps, is_allowed, LARGEST_K, *self.rules)

        at_once = LARGEST_TABLE // (truth.shape[1] * outputs.shape[1])
        return Matching(*in_groups(match, at_once, outputs, truth, classes, is_object))

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


def is_around(centres: Tensor, middles: Tensor, half_sides: Tensor) -> Tensor:
    """Returns (B, G, N) whether cells' centres (N, 2) lie within half a box of its middle (B, G, 2)."""
    return ((centres - middles[:, :, None]).abs() < half_sides).all(-1)
