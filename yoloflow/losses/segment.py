"""The loss of heads that segment: YOLOv8's with a term for the masks."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from yoloflow.losses.tables import LARGEST_TABLE, rows_at
from yoloflow.losses.yolov8 import DetectionTerms, YOLOv8Loss, YOLOv8Settings
from yoloflow.settings import Count
from yoloflow.structures import YoloflowError

SMALLEST_AREA = 1e-4
"""Share of the image: the loss of a mask is divided by its box's, at least by this."""


class YOLOv8SegSettings(YOLOv8Settings):
    """Hyper-parameters of `YOLOv8SegLoss`."""

    nm: Count = Field(32, description="mask coefficients of a cell")
    overlap: bool = Field(True, description="masks of an image come in one map, not one for each object")
    max_object_num: Count = Field(600, description="cells of an image that learn a mask at most, the best")


class YOLOv8SegLoss(YOLOv8Loss):
    """As `YOLOv8Loss`, with the mask loss of each cell that learns an object (YOLACT, section 3.2).

    It is the BCE of the mask's pixels inside the object's box, divided by the area of the box; the mean over
    an image's cells, the mean over images, times the gain of the boxes.
    """

    settings_class = YOLOv8SegSettings
    loss_item_name = ["loss", "lbox", "lseg", "lcls", "dfl"]
    takes_masks = True
    settings: YOLOv8SegSettings

    def forward(
        self, outputs: Any, labels: Tensor, images: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch (the sum of the items times B) and its items.

        Args:
            outputs: levels as `YOLOv8Loss.forward`, coefficients (B, K, N) and prototypes (B, K, h, w).
            labels: as `Loss.forward`.
            images: as `Loss.forward`.
            masks: as `Batch.masks`, of the prototypes' size: (B, h, w), or (B, G, h, w) where `overlap` is
                off.

        Raises:
            YoloflowError: outputs or masks do not fit the settings.
        """
        levels, coefficients, prototypes = outputs
        masks = self._checked(masks, coefficients, prototypes)
        found = self._detection_terms(levels, labels, images)
        box, cls, dfl = found.terms.unbind()
        seg = self._mask_loss(coefficients.float(), prototypes.float(), masks, found) * self.settings.box
        return self._sum_up(torch.stack((box, seg, cls, dfl)), len(images))

    def _mask_loss(
        self, coefficients: Tensor, prototypes: Tensor, masks: Tensor, found: DetectionTerms
    ) -> Tensor:
        """Returns the mean over the images of the mean over the cells that learn a mask."""
        scores, kept = found.entries.scores.topk(self._number(found.entries.scores))
        objects = found.entries.objects.gather(1, kept)
        boxes_norm = rows_at(found.objects.boxes_xyxy((1, 1)), objects)
        cells = rows_at(coefficients.mT, found.entries.anchors.gather(1, kept))
        losses = _in_checkpoints(cells, prototypes, masks, objects, boxes_norm)
        is_used = scores > 0
        width, height = (boxes_norm[..., 2:] - boxes_norm[..., :2]).unbind(2)
        losses = losses / (width * height).clamp(min=SMALLEST_AREA) * is_used
        return (losses.sum(1) / is_used.sum(1).clamp(min=1)).mean()

    def _number(self, scores: Tensor) -> int:
        """Returns how many entries of an image are looked at."""
        number = min(self.settings.max_object_num, scores.shape[1])
        # There is no wait for the device on a CPU, and most entries are unused.
        if scores.device.type == "cpu" and not torch.compiler.is_compiling():
            number = min(number, max(1, int((scores > 0).sum(1).max())))
        return number

    def _checked(self, masks: Tensor | None, coefficients: Tensor, prototypes: Tensor) -> Tensor:
        """Returns the masks, if they and the outputs are as the settings say."""
        gains, size = self.settings, tuple(prototypes.shape[2:])
        if masks is None:
            raise YoloflowError(
                "loss: learns masks, but the batch has none; segment_poly2mask must end data.train_transforms"
            )
        if coefficients.shape[1] != gains.nm or prototypes.shape[1] != gains.nm:
            raise YoloflowError(
                f"loss: the network gives {coefficients.shape[1]} mask coefficients and "
                f"{prototypes.shape[1]} prototypes; loss.nm is {gains.nm}"
            )
        if masks.dim() != (3 if gains.overlap else 4):
            kind = "one map an image" if masks.dim() == 3 else "a mask for each object"
            raise YoloflowError(
                f"loss: the batch has {kind}, loss.overlap is {gains.overlap}; give mask_overlap of "
                "segment_poly2mask the same value"
            )
        if tuple(masks.shape[-2:]) != size:
            raise YoloflowError(
                f"loss: masks of {masks.shape[-2]} x {masks.shape[-1]} cells do not fit prototypes of "
                f"{size[0]} x {size[1]}; change mask_ratio of segment_poly2mask"
            )
        return masks


def _in_checkpoints(
    coefficients: Tensor, prototypes: Tensor, masks: Tensor, objects: Tensor, boxes_norm: Tensor
) -> Tensor:
    """Returns the mask losses; where tables are large, of few images at a time, computed again backward."""
    tables = (coefficients, prototypes, masks, objects, boxes_norm)
    at_once = max(1, LARGEST_TABLE // (objects.shape[1] * prototypes[0, 0].numel()))
    if at_once >= len(objects):
        return _mask_losses(*tables)
    groups = zip(*(torch.split(table, at_once) for table in tables), strict=True)
    losses = [
        checkpoint(_mask_losses, *group, use_reentrant=False, preserve_rng_state=False) for group in groups
    ]
    return torch.cat(losses)


def _mask_losses(
    coefficients: Tensor, prototypes: Tensor, masks: Tensor, objects: Tensor, boxes_norm: Tensor
) -> Tensor:
    """Returns the BCE of masks, summed over the pixels in the object's box, divided by those of all.

    Args:
        coefficients: (B, M, K).
        prototypes: (B, K, h, w).
        masks: (B, h, w), or (B, G, h, w).
        objects: (B, M) rows of the labels.
        boxes_norm: (B, M, 4) their corners in 0..1.

    Returns:
        (B, M) losses.
    """
    height, width = prototypes.shape[2:]
    logits = (coefficients @ prototypes.flatten(2)).unflatten(2, (height, width))
    if masks.dim() == 3:
        is_mask = masks[:, None] == (objects + 1).to(masks.dtype)[..., None, None]
    else:
        is_mask = masks[torch.arange(len(masks), device=masks.device)[:, None], objects] > 0
    losses = softplus(torch.where(is_mask, -logits, logits))
    left, top, right, bottom = boxes_norm.unbind(2)
    rows, columns = _within(top, bottom, height), _within(left, right, width)
    return torch.einsum("bmhw,bmh,bmw->bm", losses, rows, columns) / (height * width)


def _within(low: Tensor, high: Tensor, number: int) -> Tensor:
    """Returns (B, M, number): 1 for a side's pixels from `low` to `high` (B, M), in 0..1 of it, else 0."""
    pixels = torch.arange(number, device=low.device, dtype=low.dtype)
    return ((pixels >= low[..., None] * number) & (pixels < high[..., None] * number)).to(low.dtype)
