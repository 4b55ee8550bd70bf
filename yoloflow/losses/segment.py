"""The loss of heads that segment: YOLOv8's with a term for the masks."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from yoloflow.losses.loss import NetworkFacts
from yoloflow.losses.softplus import softplus
from yoloflow.losses.tables import in_groups, rows_at
from yoloflow.losses.yolov8 import DetectionTerms, YOLOv8Loss, YOLOv8Settings
from yoloflow.settings import Count
from yoloflow.structures import YoloflowError

SMALLEST_AREA = 1e-4
"""Share of the image: the loss of a mask is divided by its box's, at least by this."""
LARGEST_MASKS = 1 << 22
"""Entries of a table of masks that are worked on together, of one image at least."""


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

    def __init__(self, settings: YOLOv8SegSettings, network: NetworkFacts) -> None:
        super().__init__(settings, network)
        self.separate_masks = not settings.overlap

    def forward(
        self, outputs: Any, labels: Tensor, images: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the loss of a batch (the sum of the items times B) and its items, see `Loss.forward`.

        Outputs are levels as `YOLOv8Loss.forward`, coefficients (B, K, N) and prototypes (B, K, h, w); masks
        as `Batch.masks`, of the prototypes' size: (B, h, w), or (B, G, h, w) where `overlap` is off.

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
        entries = found.entries
        scores, kept = entries.scores.topk(min(self.settings.max_object_num, entries.scores.shape[1]))
        objects = entries.objects.gather(1, kept)
        boxes_norm = rows_at(found.objects.boxes_xyxy((1, 1)), objects)
        cells = rows_at(coefficients.mT, entries.anchors.gather(1, kept))
        is_used = scores > 0
        width, height = (boxes_norm[..., 2:] - boxes_norm[..., :2]).unbind(2)
        shares = is_used / (width * height).clamp(min=SMALLEST_AREA)
        weights = shares / is_used.sum(1, keepdim=True).clamp(min=1) / len(scores)
        loss: Tensor = _WeightedMaskLoss.apply(cells, prototypes, masks, objects, boxes_norm, weights)
        return loss

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


class _WeightedMaskLoss(torch.autograd.Function):
    """The BCE of masks, summed over the pixels in the object's box, divided by those of all; weighted sum.

    The gradient is made with the loss, a few cells at a time, so that nothing of a mask's size is kept.

    Args:
        coefficients: (B, M, K).
        prototypes: (B, K, h, w).
        masks: (B, h, w), or (B, G, h, w).
        objects: (B, M) rows of the labels.
        boxes_norm: (B, M, 4) their corners in 0..1.
        weights: (B, M), 0 where an entry is unused.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, prototypes: Tensor, *rest: Tensor) -> Tensor:
        """Returns the loss, a scalar."""
        # On a CPU it costs nothing to ask how large an object is, and most pixels are outside of its box.
        by_object = prototypes.device.type == "cpu" and not torch.compiler.is_compiling()
        losses = _losses_by_object if by_object else _losses_by_image
        loss, *gradients = losses(coefficients, prototypes, *rest)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of coefficients and prototypes."""
        of_coefficients, of_prototypes = ctx.saved_tensors
        return of_coefficients * gradient, of_prototypes * gradient, None, None, None, None


def _losses_by_image(
    coefficients: Tensor, prototypes: Tensor, *rest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns loss and gradients by tables (few images, M, h, w) of fixed shape."""
    at_once = LARGEST_MASKS // (coefficients.shape[1] * prototypes[0, 0].numel())
    losses, of_coefficients, of_prototypes = in_groups(
        _losses_of_group, at_once, coefficients, prototypes, *rest
    )
    return losses.sum(), of_coefficients, of_prototypes


def _losses_of_group(
    coefficients: Tensor,
    prototypes: Tensor,
    masks: Tensor,
    objects: Tensor,
    boxes_norm: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = prototypes.shape[2:]
    if masks.dim() == 3:
        is_mask = masks[:, None] == (objects + 1).to(masks.dtype)[..., None, None]
    else:
        is_mask = masks[torch.arange(len(masks), device=masks.device)[:, None], objects] > 0
    left, top, right, bottom = boxes_norm.unbind(2)
    rows, columns = _within(top, bottom, height), _within(left, right, width)
    inside = (rows * weights[..., None] / (height * width))[..., None] * columns[..., None, :]
    losses, of_coefficients, of_prototypes = _weighted_bce(
        coefficients, prototypes.flatten(2), is_mask.flatten(2), inside.flatten(2)
    )
    return losses, of_coefficients, of_prototypes.view_as(prototypes)


def _losses_by_object(
    coefficients: Tensor,
    prototypes: Tensor,
    masks: Tensor,
    objects: Tensor,
    boxes_norm: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns loss and gradients, of the used entries and the pixels in their object's box alone."""
    height, width = prototypes.shape[2:]
    loss = prototypes.new_zeros(())
    of_coefficients, of_prototypes = torch.zeros_like(coefficients), torch.zeros_like(prototypes)
    limits = torch.tensor([width, height], dtype=boxes_norm.dtype)
    corners = (boxes_norm * limits.repeat(2)).ceil().clamp(min=0).minimum(limits.repeat(2)).long()
    for image, is_used in enumerate(weights > 0):
        for row in objects[image, is_used].unique().tolist():
            entries = (is_used & (objects[image] == row)).nonzero()[:, 0]
            left, top, right, bottom = corners[image, entries[0]].tolist()
            box = (slice(top, bottom), slice(left, right))
            mask = masks[image][box] == row + 1 if masks.dim() == 3 else masks[image, row][box] > 0
            share = weights[image, entries, None] / (height * width)
            own, of_entries, of_box = _weighted_bce(
                coefficients[image, entries],
                prototypes[image][:, box[0], box[1]].flatten(1),
                mask.flatten(),
                share,
            )
            loss += own.sum()
            of_coefficients[image, entries] = of_entries
            of_prototypes[image][:, box[0], box[1]] += of_box.unflatten(1, mask.shape)
    return loss, of_coefficients, of_prototypes


def _weighted_bce(
    coefficients: Tensor, prototypes: Tensor, is_mask: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss of each cell and the gradients of the two factors of the logits.

    Args:
        coefficients: (..., M, K).
        prototypes: (..., K, P), of P pixels.
        is_mask: (..., M, P) bool, or a shape that spreads to it.
        weights: (..., M, P) float32, likewise.
    """
    logits = coefficients @ prototypes
    losses = softplus(torch.where(is_mask, -logits, logits)).mul_(weights).sum(-1)
    slopes = logits.sigmoid_().sub_(is_mask.to(logits.dtype)).mul_(weights)
    return losses, slopes @ prototypes.mT, coefficients.mT @ slopes


def _within(low: Tensor, high: Tensor, number: int) -> Tensor:
    """Returns (B, M, number): 1 for a side's pixels from `low` to `high` (B, M), in 0..1 of it, else 0."""
    pixels = torch.arange(number, device=low.device, dtype=low.dtype)
    return ((pixels >= low[..., None] * number) & (pixels < high[..., None] * number)).to(low.dtype)
