"""A loss of one's own: YOLOv8's, with a term that keeps the class logits of all cells small.

python examples/custom_loss.py yolov8n data=my/data.yaml loss.logits=0.002
"""

import sys
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from yoloflow import load_config, train
from yoloflow.families import FAMILIES, Family
from yoloflow.losses.yolov8 import YOLOv8Loss, YOLOv8Settings
from yoloflow.settings import NotNegative


class QuietSettings(YOLOv8Settings):
    """Hyper-parameters of `QuietLoss`: those of YOLOv8's loss and one more, each a key under `loss`."""

    logits: NotNegative = Field(0.001, description="gain of the mean square of the class logits")


class QuietLoss(YOLOv8Loss):
    """YOLOv8's loss plus the mean square of the class logits."""

    settings_class = QuietSettings
    loss_item_name = [*YOLOv8Loss.loss_item_name, "logits"]
    settings: QuietSettings

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """L raw maps (B, 4 * reg_max + C, H_l, W_l) and labels (B, G, 6) to the loss and (5,) items."""
        loss, items = super().forward(outputs, labels, images)
        classes = torch.cat([level[:, 4 * self.reg_max :].flatten(1) for level in outputs], 1).float()
        term = self.settings.logits * classes.square().mean()
        total, *parts = torch.cat((items, term.detach()[None])).unbind()
        # The scalar grows with the batch, as the other terms do; the items do not.
        return loss + term * len(labels), torch.stack((total + term.detach(), *parts))


FAMILIES["Quiet"] = Family(loss=QuietLoss)

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recipe, *settings = sys.argv[1:]
    train(load_config(recipe, ["loss.name=QuietLoss", *settings]))
