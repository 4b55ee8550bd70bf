"""Losses of networks with two sets of branches: YOLOv9's auxiliary and main, YOLOv10's many and one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from yoloflow.losses.loss import Loss
from yoloflow.losses.yolov8 import YOLOv8Loss


class YOLOv9Loss(Loss):
    """YOLOv8's loss of the auxiliary branches, a quarter of it, and of the main ones (YOLOv9, section 4.1).

    Args:
        stride: pixels a cell, level by level.
        nc: number of classes.
        box: gain of the box loss.
        cls: gain of the class loss.
        dfl: gain of the distribution focal loss.
        reg_max: bins a box side.
        variant: "mindyolo" has the reference's assignment rule and, as it, the gains 7.5, 0.5 and 1.5
            whatever is asked for.
    """

    auxiliary_share = 0.25

    def __init__(
        self,
        *,
        stride: Sequence[int],
        nc: int,
        box: float = 7.5,
        cls: float = 0.5,
        dfl: float = 1.5,
        reg_max: int = 16,
        variant: str = "published",
    ) -> None:
        super().__init__(variant)
        if variant == "mindyolo":
            box, cls, dfl = 7.5, 0.5, 1.5
        self.branch_loss = YOLOv8Loss(
            stride=stride, nc=nc, box=box, cls=cls, dfl=dfl, reg_max=reg_max, variant=variant
        )
        self.loss_item_name = self.branch_loss.loss_item_name

    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch; outputs are the auxiliary levels and the main levels, else as `YOLOv8Loss`."""
        auxiliary, main = (self.branch_loss(branch, labels, images) for branch in outputs)
        share = self.auxiliary_share
        return auxiliary[0] * share + main[0], auxiliary[1] * share + main[1]


class YOLOv10Loss(Loss):
    """YOLOv8's loss of the branches that learn from many cells, and of those that learn from one (YOLOv10).

    Both are matched by the same measure ("consistent matching metric", section 3.1), an object claiming 10
    cells or 1.

    Args:
        stride: pixels a cell, level by level.
        nc: number of classes.
        box: gain of the box loss.
        cls: gain of the class loss.
        dfl: gain of the distribution focal loss.
        reg_max: bins a box side.
        variant: see `YOLOv8Loss`.
    """

    def __init__(
        self,
        *,
        stride: Sequence[int],
        nc: int,
        box: float = 7.5,
        cls: float = 0.5,
        dfl: float = 1.5,
        reg_max: int = 16,
        variant: str = "published",
    ) -> None:
        super().__init__(variant)
        self.many, self.single = (
            YOLOv8Loss(
                stride=stride,
                nc=nc,
                box=box,
                cls=cls,
                dfl=dfl,
                reg_max=reg_max,
                tal_topk=topk,
                variant=variant,
            )
            for topk in (10, 1)
        )
        self.loss_item_name = self.many.loss_item_name

    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch; outputs are the levels of the two sets of branches, else as `YOLOv8Loss`."""
        many, single = self.many(outputs[0], labels, images), self.single(outputs[1], labels, images)
        return many[0] + single[0], many[1] + single[1]
