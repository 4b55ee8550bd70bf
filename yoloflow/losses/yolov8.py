"""The loss of anchor-free heads with distributed box sides, as YOLOv8 has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import log_softmax

from yoloflow.boxes import box_iou
from yoloflow.decoding import cell_centres, distances_to_xyxy, expected_distances, xyxy_to_distances
from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.objects import Objects, read_objects
from yoloflow.losses.softplus import sum_of_softplus
from yoloflow.losses.tables import LARGEST_TABLE, in_groups, rows_at
from yoloflow.losses.task_aligned import Assignment, TaskAlignedAssigner
from yoloflow.settings import Count, NotNegative, Section
from yoloflow.structures import YoloflowError

# Entries of a (images, objects, anchors) table of which a few fit the second-level cache of a core.
CACHED_ENTRIES = 1 << 17


class DistributionSettings(Section):
    """Hyper-parameters of losses with distributed box sides."""

    box: NotNegative = Field(7.5, description="gain of the box loss")
    cls: NotNegative = Field(0.5, description="gain of the class loss")
    dfl: NotNegative = Field(1.5, description="gain of the distribution focal loss")
    reg_max: Count = Field(16, description="bins of a box side's distribution")


class YOLOv8Settings(DistributionSettings):
    """Hyper-parameters of `YOLOv8Loss`."""

    tal_topk: Count = Field(10, description="anchors an object may claim")


class YOLOv8Loss(Loss):
    """Class loss (BCE), box loss (1 - CIoU) and distribution focal loss over task-aligned anchors.

    Box and distribution terms are weighted by the anchor's target score; each of the three is a sum over all
    anchors divided by the sum of the target scores (at least 1, see `normalizer`). Everything is float32, of
    fixed shape, and nothing waits for the device.
    """

    settings_class = YOLOv8Settings
    loss_item_name = ["loss", "lbox", "lcls", "dfl"]
    assigner_class: ClassVar[type[TaskAlignedAssigner]] = TaskAlignedAssigner
    settings: YOLOv8Settings

    def __init__(self, settings: YOLOv8Settings, network: NetworkFacts) -> None:
        super().__init__(settings, network)
        self.reg_max = settings.reg_max
        self.assign = self.assigner_class(settings.tal_topk)

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch (the sum of the items times B) and its items, see `Loss.forward`.

        Outputs are, per level, (B, 4 * reg_max + nc, H, W), box logits first.

        Raises:
            YoloflowError: the outputs do not fit stride, nc and reg_max.
        """
        return self._sum_up(self._detection_terms(outputs, labels, images).terms, len(images))

    def _sum_up(self, terms: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
        total, items = self.with_items(terms)
        return total * num_images, items

    def _detection_terms(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> DetectionTerms:
        self._check_outputs(outputs)
        raw = torch.cat([level.flatten(2).float() for level in outputs], 2)
        box_logits, class_logits = torch.split(raw, [4 * self.reg_max, self.nc], 1)
        centres, strides = cell_centres([level.shape[2:] for level in outputs], self.stride, raw.device)
        grid = _Grid(centres * strides, strides[:, 0])
        objects = read_objects(labels)
        truth_xyxy = objects.boxes_xyxy(images.shape[2:])
        with torch.no_grad():
            entries = self._assign(box_logits, class_logits, grid, truth_xyxy, objects.classes)
        box, dfl = self._box_losses(box_logits, grid, truth_xyxy, entries)
        # BCE(x, t) = softplus(x) - x * t, and t is zero but at the entries: no (B, nc, A) table of targets.
        classes = objects.classes.gather(1, entries.objects)
        entry_logits = class_logits.flatten(1).gather(1, classes * raw.shape[2] + entries.anchors)
        cls = sum_of_softplus(class_logits) - (entry_logits * entries.scores).sum()

        gains = self.settings
        terms = torch.stack((box * gains.box, cls * gains.cls, dfl * gains.dfl))
        return DetectionTerms(terms / self.normalizer(entries.scores.sum()), entries, objects)

    def _assign(
        self, box_logits: Tensor, class_logits: Tensor, grid: _Grid, truth_xyxy: Tensor, classes: Tensor
    ) -> Assignment:
        """Few images at a time, so that their (G, A) tables stay small."""

        def assign(box: Tensor, cls: Tensor, truth_xyxy: Tensor, classes: Tensor) -> Assignment:
            cells = expected_distances(box.reshape(-1, 4, self.reg_max, box.shape[2]))
            boxes_xyxy = distances_to_xyxy(grid.centres_xy, cells * grid.strides[:, None])
            rows = torch.arange(len(cls), device=cls.device)[:, None]
            return self.assign(cls[rows, classes].sigmoid_(), boxes_xyxy, grid.centres_xy, truth_xyxy)

        # A compiled graph has its own ways with the cache.
        in_cache = box_logits.device.type == "cpu" and not torch.compiler.is_compiling()
        entries = CACHED_ENTRIES if in_cache else LARGEST_TABLE
        at_once = entries // (classes.shape[1] * box_logits.shape[2])
        return Assignment(*in_groups(assign, at_once, box_logits, class_logits, truth_xyxy, classes))

    def _box_losses(
        self, box_logits: Tensor, grid: _Grid, objects_xyxy: Tensor, entries: Assignment
    ) -> tuple[Tensor, Tensor]:
        """Sums over the entries of 1 - CIoU and of the distribution focal loss, weighted by the scores."""
        index = entries.anchors[:, None].expand(-1, box_logits.shape[1], -1)
        logits = box_logits.gather(2, index).reshape(-1, 4, self.reg_max, index.shape[2])
        stride = grid.strides[entries.anchors][..., None]
        centres = grid.centres_xy[entries.anchors] / stride
        objects = rows_at(objects_xyxy, entries.objects) / stride
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


class DetectionTerms(NamedTuple):
    """The box, class and distribution terms (3,) of a batch, and what they are made of."""

    terms: Tensor
    entries: Assignment
    objects: Objects


class _Grid(NamedTuple):
    """The anchors of all levels: centres_xy (A, 2) in pixels, strides (A,) pixels a cell."""

    centres_xy: Tensor
    strides: Tensor


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Returns the cross-entropy of each side with the two bins around its distance, mean of the four sides.

    Generalized Focal Loss, Li et al. 2020, equation 6.

    Args:
        logits: (B, 4, R, N).
        distances: (B, N, 4) in bins; brought into 0 .. R - 1.01, so that both bins exist.

    Returns:
        (B, N) losses.
    """
    distances = distances.mT[:, :, None].clamp(0, logits.shape[2] - 1.01)
    left = distances.long()
    weight = distances - left
    log_probability = log_softmax(logits, 2)
    near, far = log_probability.gather(2, left), log_probability.gather(2, left + 1)
    return -torch.lerp(near, far, weight).mean((1, 2))
