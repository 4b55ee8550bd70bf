"""A transform of one's own: it shows a part of the images in grey, so that colour alone decides nothing.

    python examples/custom_transform.py yolov8n data=my/data.yaml

Loading processes import this file again, so the class is entered in the table where it is defined.
"""

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from yoloflow import load_config, train
from yoloflow.data.transforms import TRANSFORMS, Sample, TransformContext
from yoloflow.data.transforms.transform import Transform


@dataclass(frozen=True, slots=True)
class Greyed(Transform):
    """Replaces the colours of an image by their mean, as far as `strength` says.

    Attributes:
        strength: 0 leaves the image as it is, 1 makes it grey.
    """

    func_name: ClassVar[str] = "greyed"
    strength: float = 1.0

    def __post_init__(self) -> None:
        self.require_range("strength", 0, 1)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Returns the sample with a new image; boxes stay where they are."""
        image = sample.image.astype(np.float32)
        grey = image.mean(2, keepdims=True)
        mixed = image + self.strength * (grey - image)
        return sample.with_image(np.rint(mixed).astype(np.uint8))


TRANSFORMS["greyed"] = Greyed


def greyed_too(recipe: str, settings: list[str]) -> list[str]:
    """Returns the settings with a grey image in five added to every stage of the recipe."""
    row = {"func_name": "greyed", "prob": 0.2, "strength": 1.0}
    stages = [[*rows, row] for rows in load_config(recipe, settings).data.trans_list]
    return [*settings, f"data.train_transforms.trans_list={json.dumps(stages)}"]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    recipe, *settings = sys.argv[1:]
    train(load_config(recipe, greyed_too(recipe, settings)))
