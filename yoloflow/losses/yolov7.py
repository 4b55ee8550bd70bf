"""YOLOv7's losses: of the anchors that fit by shape, those learn an object that predict it best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from yoloflow.boxes import box_iou, cxcywh_to_xyxy
from yoloflow.decoding import decode_anchor_boxes
from yoloflow.losses.anchor_based import AnchorLoss
from yoloflow.losses.anchor_matching import Match
from yoloflow.losses.dynamic_k import class_cost, match_dynamic_k
from yoloflow.losses.objects import Objects, read_objects
from yoloflow.losses.tables import rows_at

AUXILIARY_SHARE = 0.25
"""Weight of the auxiliary head's terms (YOLOv7, Wang et al. 2022, section 4.2)."""


class YOLOv7Loss(AnchorLoss):
    """YOLOv5's loss on the candidates that dynamic-k matching keeps (YOLOv7, section 5.1; OTA)."""

    largest_k = 10
    rules: ClassVar[tuple[Any, ...]] = ()
    """Further arguments of `match_dynamic_k`."""

    def _matches(self, outputs: Sequence[Tensor], objects: Objects, images: Tensor) -> list[Match]:
        return self._keep_best(outputs, self._by_shape(outputs, objects, reach=0.5), objects, images)

    @torch.no_grad()
    def _keep_best(
        self, outputs: Sequence[Tensor], matches: Sequence[Match], objects: Objects, images: Tensor
    ) -> list[Match]:
        """Of the candidates of all levels those that an object takes, with that object."""
        parts = [
            self._candidates(raw, match, stride)
            for raw, match, stride in zip(outputs, matches, self.stride, strict=True)
        ]
        boxes_xyxy, scores = (torch.cat(column, 1) for column in zip(*parts, strict=True))
        truth_xyxy = self._truth_xyxy(objects, images)
        is_candidate = torch.cat([match.is_used for match in matches], 1)
        is_possible = is_candidate[:, None] & objects.is_object[..., None]
        overlaps = box_iou(truth_xyxy[:, :, None], boxes_xyxy[:, None])
        overlaps = torch.where(is_possible, overlaps, 0)
        cost = class_cost(scores, objects.classes) - 3 * (overlaps + 1e-7).log()
        found = match_dynamic_k(cost, overlaps, is_possible, self.largest_k, *self.rules)

        sizes = [match.cells.shape[1] for match in matches]
        chosen = torch.split(found.objects, sizes, 1)
        is_kept = torch.split(found.is_matched & is_candidate, sizes, 1)
        return [_with_objects(*level) for level in zip(matches, chosen, is_kept, strict=True)]

    def _truth_xyxy(self, objects: Objects, images: Tensor) -> Tensor:
        """Corner boxes (B, G, 4) of the objects in pixels."""
        return cxcywh_to_xyxy(objects.boxes_cxcywh(images.shape[2:]))

    def _candidates(self, raw: Tensor, match: Match, stride: int) -> tuple[Tensor, Tensor]:
        """Boxes (B, M, 4) in pixels and scores (B, M, nc) that a level's candidates predict."""
        shares = rows_at(raw.flatten(1, 3), match.cells).sigmoid()
        boxes = decode_anchor_boxes(shares, match.anchors_wh, match.corners_xy)
        return cxcywh_to_xyxy(boxes * stride), (shares[..., 5:] * shares[..., 4:5]).sqrt()


class YOLOv7AuxLoss(YOLOv7Loss):
    """YOLOv7's loss with an auxiliary head (section 4.2, "coarse-to-fine lead guided assigner").

    The main head's predictions choose the objects of both; the auxiliary one learns from more cells around
    each object.
    """

    largest_k = 20

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `AnchorLoss.forward`; outputs are the main head's levels, then the auxiliary's."""
        outputs = self._checked(outputs)
        levels = len(self.stride)
        main, auxiliary = outputs[:levels], outputs[levels:]
        objects = read_objects(labels)
        fine = self._matches(main, objects, images)
        coarse = self._keep_best(main, self._by_shape(main, objects, reach=1.0), objects, images)
        terms = self._level_sums(main, fine, objects)
        further = self._auxiliary_sums(main, auxiliary, coarse, objects)
        return self._total(terms + AUXILIARY_SHARE * further, images)

    def _auxiliary_sums(
        self, main: Sequence[Tensor], auxiliary: Sequence[Tensor], matches: Sequence[Match], objects: Objects
    ) -> Tensor:
        return self._level_sums(auxiliary, matches, objects)


def _with_objects(match: Match, objects: Tensor, is_kept: Tensor) -> Match:
    """A match of the kept candidates with their new objects."""
    return match._replace(
        cells=torch.where(is_kept, match.cells, 0),
        corners_xy=torch.where(is_kept[..., None], match.corners_xy, 0),
        objects=torch.where(is_kept, objects, 0),
        is_used=is_kept,
    )
