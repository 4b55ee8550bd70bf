"""Losses of networks with two sets of branches: YOLOv9's auxiliary and main, YOLOv10's many and one."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.yolov8 import DistributionSettings, YOLOv8Loss, YOLOv8Settings


class PairedLoss(Loss):
    """The sum of two losses as YOLOv8's, one for each set of branches.

    Attributes:
        branch_class: the loss of both.
        first_share: weight of the first set's loss; the second's is 1.
        topk: anchors that an object may claim, for each set.
    """

    settings_class = DistributionSettings
    loss_item_name = YOLOv8Loss.loss_item_name
    branch_class: ClassVar[type[YOLOv8Loss]] = YOLOv8Loss
    first_share: ClassVar[float] = 1.0
    topk: ClassVar[tuple[int, int]] = (10, 10)

    def __init__(self, settings: DistributionSettings, network: NetworkFacts) -> None:
        super().__init__(settings, network)
        self.first, self.second = (
            self.branch_class(YOLOv8Settings(**dict(settings), tal_topk=topk), network) for topk in self.topk
        )

    def forward(self, outputs: Any, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `YOLOv8Loss.forward`; outputs are the levels of the two sets of branches."""
        first, second = self.first(outputs[0], labels, images), self.second(outputs[1], labels, images)
        return first[0] * self.first_share + second[0], first[1] * self.first_share + second[1]


class YOLOv9Loss(PairedLoss):
    """A quarter of the auxiliary branches' loss and the main ones' (Wang et al. 2024, section 4.1)."""

    first_share = 0.25


class YOLOv10Loss(PairedLoss):
    """The loss of the branches that learn from many cells, and of those that learn from one.

    Both are matched by the same measure (YOLOv10, Wang et al. 2024, "consistent matching metric", section
    3.1), an object claiming 10 cells or 1.
    """

    topk = (10, 1)
