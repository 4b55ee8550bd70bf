"""A head of one's own: the maps of YOLOv8's head from one convolution each, for networks that must be small.

    python examples/custom_head.py yolov8n data=my/data.yaml img_size=320

Its maps are those that YOLOv8's loss reads, so the loss stays as it is.
"""

import json
import math
import sys
from collections.abc import Sequence

from torch import nn

from yoloflow import load_config, train
from yoloflow.families import FAMILIES, Family
from yoloflow.models.heads.yolov8 import YOLOv8Head


class PlainHead(YOLOv8Head):
    """A YOLOv8 head with one 1 x 1 convolution for the boxes of a level and one for its classes."""

    def __init__(
        self, in_channels: Sequence[int], stride: Sequence[int], num_classes: int, reg_max: int = 16
    ) -> None:
        super().__init__(in_channels, stride, num_classes, reg_max)
        self.box_branches = nn.ModuleList(nn.Conv2d(count, 4 * reg_max, 1) for count in in_channels)
        self.class_branches = nn.ModuleList(nn.Conv2d(count, num_classes, 1) for count in in_channels)
        # As if a 640 px image had five objects of any class: the first losses are not those of noise.
        for level, pixels in enumerate(stride):
            nn.init.ones_(self.box_branches.get_parameter(f"{level}.bias"))
            share = 5 / num_classes / (640 / pixels) ** 2
            nn.init.constant_(self.class_branches.get_parameter(f"{level}.bias"), math.log(share))


FAMILIES["Plain"] = Family(head=PlainHead)


def with_plain_head(recipe: str, settings: list[str]) -> list[str]:
    """Returns the settings with the last row of the recipe's table replaced by `PlainHead`."""
    *rows, (name, maps, number, _, arguments) = load_config(recipe, settings).network.head
    return [*settings, f"network.head={json.dumps([*rows, [name, maps, number, 'PlainHead', arguments]])}"]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recipe, *settings = sys.argv[1:]
    train(load_config(recipe, with_plain_head(recipe, settings)))
