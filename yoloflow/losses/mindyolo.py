"""The losses of variant "mindyolo": all deviations of the reference from the papers and originals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from yoloflow.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from yoloflow.decoding import filled
from yoloflow.losses.anchor_based import NOMINAL_CLASSES, NOMINAL_LEVELS, AnchorLoss
from yoloflow.losses.anchor_matching import Match
from yoloflow.losses.dynamic_k import Matching
from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.objects import Objects
from yoloflow.losses.paired import YOLOv9Loss, YOLOv10Loss
from yoloflow.losses.segment import YOLOv8SegLoss
from yoloflow.losses.task_aligned import TaskAlignedAssigner
from yoloflow.losses.yolov4 import YOLOv4Loss
from yoloflow.losses.yolov7 import YOLOv7AuxLoss, YOLOv7Loss
from yoloflow.losses.yolov8 import DistributionSettings, YOLOv8Loss
from yoloflow.losses.yolox import YOLOXLoss, is_around

DEVICES = 8
"""Devices of the reference's YOLOv4 training, by which its loss is divided."""
OUTSIDE_COST = 1e3
"""Price of YOLOX's cells that are not around an object's centre; all that a cell outside all boxes costs."""
NOT_TAKEN_COST = 2e3
"""Cost of the objects that do not take a YOLOX cell, where the cell chooses among all."""


def up_to_the_kth(cost: Tensor, k: Tensor, largest_k: int) -> Tensor:
    """As `k_cheapest`, but all candidates that cost as much as the k-th (YOLOv7)."""
    return cost <= cost.topk(largest_k, largest=False).values.gather(2, k[..., None] - 1)


def below_the_next(cost: Tensor, k: Tensor, largest_k: int) -> Tensor:
    """As `k_cheapest`, but all candidates that are cheaper than the (k + 1)-th (YOLOX)."""
    ranked = cost.topk(min(largest_k + 1, cost.shape[2]), largest=False).values
    return cost < ranked.gather(2, k.clamp(max=ranked.shape[2] - 1)[..., None])


def if_cheapest(cost: Tensor, is_taken: Tensor) -> Matching:
    """Gives a candidate to the object that it costs least, if that takes it, else to none (YOLOv7)."""
    cheapest = cost.argmin(1)
    return Matching(cheapest, is_taken.gather(1, cheapest[:, None])[:, 0])


def cheapest_claimant(cost: Tensor, is_taken: Tensor) -> Matching:
    """Gives a candidate to the object that it costs least, others than takers at `NOT_TAKEN_COST` (YOLOX)."""
    cheapest = torch.where(is_taken, cost, NOT_TAKEN_COST).argmin(1)
    return Matching(cheapest, is_taken.gather(1, cheapest[:, None])[:, 0])


class DeviceMean(Loss):
    """A loss whose sums are divided by the device's own numbers."""

    def normalizer(self, number: Tensor) -> Tensor:
        """Returns the device's own number, at least 1."""
        return number.clamp(min=1)


class MindYOLOAnchorLoss(DeviceMean, AnchorLoss):
    """Gains are not scaled; of several claims of a cell the last one written stays, unused ones included."""

    def _gains(self, images: Tensor) -> tuple[float, float, float]:
        return self.settings.box, self.settings.obj, self.settings.cls

    def _objectness_targets(self, values: Tensor, match: Match, objects: Objects, num_cells: int) -> Tensor:
        # Unused candidates of all images write 0 into the first image's first cell.
        images = torch.arange(len(values), device=values.device)[:, None]
        cells = torch.where(match.is_used, match.cells + images * num_cells, 0).flatten()
        order = self._writing_order(match, objects).flatten()
        none = torch.full((len(values) * num_cells,), -1, dtype=torch.int64, device=values.device)
        last = none.scatter_reduce(0, cells, order, "amax")
        by_order = torch.zeros_like(values).flatten().scatter(0, order, values.flatten())
        return torch.where(last >= 0, by_order[last.clamp(min=0)], 0).view(-1, num_cells)

    def _writing_order(self, match: Match, objects: Objects) -> Tensor:
        order = torch.arange(match.cells.numel(), device=match.cells.device)
        return order.view(-1, *objects.classes.shape).transpose(0, 1).flatten(1)


class MindYOLOv7Loss(MindYOLOAnchorLoss, YOLOv7Loss):
    """An object takes all candidates as cheap as its k-th; one that costs another object less learns none.

    Where candidates are compared with objects, all four numbers of these are multiplied by images' height.
    """

    rules = (up_to_the_kth, if_cheapest)

    def _truth_xyxy(self, objects: Objects, images: Tensor) -> Tensor:
        height = images.shape[2]
        return cxcywh_to_xyxy(objects.boxes_cxcywh((height, height)))

    def _writing_order(self, match: Match, objects: Objects) -> Tensor:
        return torch.arange(match.cells.numel(), device=match.cells.device).view_as(match.cells)


class MindYOLOv7AuxLoss(MindYOLOv7Loss, YOLOv7AuxLoss):
    """The auxiliary head learns its objectness alone: its matches train box and class of the main head.

    The gains are scaled for images of 1,280 px, whatever their size.
    """

    def _auxiliary_sums(
        self, main: Sequence[Tensor], auxiliary: Sequence[Tensor], matches: Sequence[Match], objects: Objects
    ) -> Tensor:
        return self._level_sums(main, matches, objects, objectness=auxiliary)

    def _gains(self, images: Tensor) -> tuple[float, float, float]:
        gains, by_levels = self.settings, NOMINAL_LEVELS / len(self.stride)
        cls = gains.cls * by_levels * self.nc / NOMINAL_CLASSES
        return gains.box * by_levels, gains.obj * by_levels * 4, cls


class MindYOLOv4Loss(YOLOv4Loss):
    """Losses of devices are summed and divided by 8; boxes of all sizes weigh the same.

    Where there is padding, the first cell of the first image learns an object.
    """

    reduction: Literal["sum", "mean"] = "sum"

    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `YOLOv4Loss.forward`."""
        total, items = super().forward(outputs, labels, images)
        return total / DEVICES, items

    def _size_weights(self, truth: Tensor) -> Tensor:
        return torch.full_like(truth[..., 0], 2)

    def _objectness_targets(self, logits: Tensor, cells: Tensor, fits: Tensor) -> Tensor:
        targets = super()._objectness_targets(logits, cells, fits)
        zero = torch.zeros((), dtype=torch.int64, device=targets.device)
        first = (~fits).any().to(targets.dtype).maximum(targets[0, 0])
        return targets.index_put((zero, zero), first)


class MindYOLOAssigner(TaskAlignedAssigner):
    """An anchor that several objects claim goes to the object with the highest CIoU, claimant or not."""

    def _owners(self, anchors: Tensor, claimants: Tensor, is_claim: Tensor, overlaps: Tensor) -> Tensor:
        claims = torch.zeros_like(overlaps[:, 0]).scatter_add_(1, anchors, is_claim.to(overlaps.dtype))
        best = overlaps.argmax(1).gather(1, anchors)
        return torch.where(claims.gather(1, anchors) > 1, best, claimants)


class MindYOLOv8Loss(DeviceMean, YOLOv8Loss):
    """Anchors are assigned by `MindYOLOAssigner`."""

    assigner_class = MindYOLOAssigner


class MindYOLOv8SegLoss(MindYOLOv8Loss, YOLOv8SegLoss):
    """Anchors are assigned by `MindYOLOAssigner`."""


class MindYOLOv9Loss(YOLOv9Loss):
    """The gains are 7.5, 0.5 and 1.5, whatever the recipe says."""

    branch_class = MindYOLOv8Loss

    def __init__(self, settings: DistributionSettings, network: NetworkFacts) -> None:
        super().__init__(DistributionSettings(reg_max=settings.reg_max), network)


class MindYOLOv10Loss(YOLOv10Loss):
    """Both sets of branches learn by `MindYOLOv8Loss`."""

    branch_class = MindYOLOv8Loss


class MindYOLOXLoss(DeviceMean, YOLOXLoss):
    """Cells in any object's box may learn it, objects are clipped to the image, devices' losses summed.

    Cells outside all boxes are ranked at `OUTSIDE_COST`, below any cell off the centre: an object takes none
    of the latter while there are enough of the former.
    """

    reduction: Literal["sum", "mean"] = "sum"
    rules = (below_the_next, cheapest_claimant, OUTSIDE_COST)

    def _truth(self, boxes_cxcywh: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        limit = filled((width, height, width, height), boxes_cxcywh)
        return xyxy_to_cxcywh(torch.minimum(cxcywh_to_xyxy(boxes_cxcywh).clamp(min=0), limit))

    def _prices(
        self, centres: Tensor, strides: Tensor, truth: Tensor, is_object: Tensor
    ) -> tuple[Tensor, Tensor]:
        is_central = super()._prices(centres, strides, truth, is_object)[1] == 0
        is_inside = is_around(centres, truth[..., :2], truth[:, :, None, 2:] / 2)
        # Padding rows have a box too, in the reference; it lies outside.
        is_allowed = is_inside.any(1, keepdim=True) & is_object[..., None]
        return is_allowed, torch.where(is_inside & is_central, 0.0, OUTSIDE_COST)


MINDYOLO_LOSSES: dict[type[Loss], type[Loss]] = {
    AnchorLoss: MindYOLOAnchorLoss,
    YOLOv4Loss: MindYOLOv4Loss,
    YOLOv7AuxLoss: MindYOLOv7AuxLoss,
    YOLOv7Loss: MindYOLOv7Loss,
    YOLOv8Loss: MindYOLOv8Loss,
    YOLOv8SegLoss: MindYOLOv8SegLoss,
    YOLOv9Loss: MindYOLOv9Loss,
    YOLOv10Loss: MindYOLOv10Loss,
    YOLOXLoss: MindYOLOXLoss,
}
"""Published loss -> the reference's; a loss that is not here does not deviate."""
