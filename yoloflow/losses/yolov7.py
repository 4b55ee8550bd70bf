"""YOLOv7's losses: of the anchors that fit by shape, those learn an object that predict it best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.losses.anchor_based import AnchorLoss, Objects, read_objects
from yoloflow.losses.anchor_matching import Match
from yoloflow.losses.dynamic_k import ConflictRule, TieRule, class_cost, match_dynamic_k

AUXILIARY_SHARE = 0.25
"""Weight of the auxiliary head's terms (YOLOv7, Wang et al. 2022, section 4.2)."""


class YOLOv7Loss(AnchorLoss):
    """YOLOv5's loss on the candidates that dynamic-k matching keeps (YOLOv7, section 5.1; OTA).

    The constructor is `AnchorLoss`'s. variant="mindyolo" also has the reference's rule for candidates that
    several objects want, see `match_dynamic_k`.
    """

    largest_k = 10

    def matches(self, outputs: Sequence[Tensor], objects: Objects, images: Tensor) -> list[Match]:
        """What each level learns."""
        return self.keep_best(outputs, self._by_shape(outputs, objects, reach=0.5), objects, images)

    @torch.no_grad()
    def keep_best(
        self, outputs: Sequence[Tensor], matches: Sequence[Match], objects: Objects, images: Tensor
    ) -> list[Match]:
        """Of the candidates of all levels, those that an object takes, with that object."""
        height, width = images.shape[2:]
        parts = [
            self._candidates(raw, match, stride)
            for raw, match, stride in zip(outputs, matches, self.stride, strict=True)
        ]
        boxes_xyxy, scores = (torch.cat(column, 1) for column in zip(*parts, strict=True))
        pixels = objects.boxes_cxcywh.new_tensor((width, height, width, height))
        truth_xyxy = cxcywh_to_xyxy(objects.boxes_cxcywh * pixels)
        is_candidate = torch.cat([match.is_used for match in matches], 1)
        is_possible = is_candidate[:, None] & objects.is_object[..., None]
        overlaps = box_iou(truth_xyxy[:, :, None], boxes_xyxy[:, None])
        overlaps = torch.where(is_possible, overlaps, 0)
        cost = class_cost(scores, objects.classes) - 3 * (overlaps + 1e-7).log()
        rules: tuple[ConflictRule, TieRule] = ("reassign", "k")
        if self.variant == "mindyolo":
            rules = ("cheapest", "up to the k-th")
        found = match_dynamic_k(cost, overlaps, is_possible, self.largest_k, *rules)

        sizes = [match.cells.shape[1] for match in matches]
        chosen = torch.split(found.objects, sizes, 1)
        is_kept = torch.split(found.is_matched & is_candidate, sizes, 1)
        return [_with_objects(*level) for level in zip(matches, chosen, is_kept, strict=True)]

    def _candidates(self, raw: Tensor, match: Match, stride: int) -> tuple[Tensor, Tensor]:
        """Boxes (B, M, 4) in pixels and scores (B, M, nc) that a level's candidates predict."""
        flat = raw.flatten(1, 3)
        chosen = flat.gather(1, match.cells[..., None].expand(-1, -1, flat.shape[2])).sigmoid()
        centres = (chosen[..., 0:2] * 2 - 0.5 + match.corners_xy) * stride
        sizes = (chosen[..., 2:4] * 2) ** 2 * match.anchors_wh * stride
        return cxcywh_to_xyxy(torch.cat((centres, sizes), -1)), (chosen[..., 5:] * chosen[..., 4:5]).sqrt()


class YOLOv7AuxLoss(YOLOv7Loss):
    """YOLOv7's loss with an auxiliary head (section 4.2, "coarse-to-fine lead guided assigner").

    The main head's predictions choose what either learns; the auxiliary one learns from more cells around
    each object. In variant="mindyolo" the box and class terms of the auxiliary matches train the main
    head, and only the objectness the auxiliary one; and the gains are scaled for 1,280 px.
    """

    largest_k = 20

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, as `AnchorLoss`; outputs are the main head's levels, then the auxiliary's."""
        outputs = self._checked(outputs)
        levels = len(self.stride)
        main, auxiliary = outputs[:levels], outputs[levels:]
        objects = read_objects(labels)
        fine = self.matches(main, objects, images)
        coarse = self.keep_best(main, self._by_shape(main, objects, reach=1.0), objects, images)
        terms = self.level_sums(main, fine, objects)
        if self.variant == "mindyolo":
            further = self.level_sums(main, coarse, objects, objectness=auxiliary)
        else:
            further = self.level_sums(auxiliary, coarse, objects)
        return self.total(terms + AUXILIARY_SHARE * further, images)

    def _gains(self, images: Tensor) -> tuple[float, float, float]:
        if self.variant != "mindyolo":
            return super()._gains(images)
        by_levels = 3 / len(self.stride)
        return self.box * by_levels, self.obj * by_levels * 4, self.cls * by_levels * self.nc / 80


def _with_objects(match: Match, objects: Tensor, is_kept: Tensor) -> Match:
    """A match of the kept candidates with their new objects."""
    order = torch.arange(objects.numel(), device=objects.device).view_as(objects)
    return match._replace(
        cells=torch.where(is_kept, match.cells, 0),
        corners_xy=torch.where(is_kept[..., None], match.corners_xy, 0),
        objects=torch.where(is_kept, objects, 0),
        is_used=is_kept,
        order=order,
    )
