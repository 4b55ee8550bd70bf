"""The transform that blends two images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np

from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.sample import Sample, join_samples
from yoloflow.data.transforms.transform import Pipeline, Transform, TransformContext
from yoloflow.structures import YoloflowError


@dataclass(frozen=True, slots=True)
class MixUp(Transform):
    """Blends the image with a second one and keeps the objects of both (Zhang et al. 2018, for detection).

    Attributes:
        alpha: first parameter of the Beta distribution that the weight is drawn from.
        beta: its second parameter.
        pre_transform: what the second image goes through first; it must come out as large as the first.
    """

    func_name: ClassVar[str] = "mixup"
    mixes_images: ClassVar[bool] = True
    alpha: float = 32.0
    beta: float = 32.0
    pre_transform: Pipeline = field(default_factory=Pipeline)

    def __post_init__(self) -> None:
        self.require_range("alpha", 1e-6, 1e6)
        self.require_range("beta", 1e-6, 1e6)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return the blend, with the objects of both."""
        partner = context.source.load(int(context.rng.integers(len(context.source))))
        partner = self.pre_transform(partner, context)
        weight = context.rng.beta(self.alpha, self.beta)
        first, second = sample.image, partner.image
        if first.shape != second.shape:
            raise YoloflowError(
                f"mixup: an image of {first.shape[1]} x {first.shape[0]} meets one of {second.shape[1]} x "
                f"{second.shape[0]}; let pre_transform end as the rows before mixup do "
                "(mosaic and random_perspective, or letterbox)"
            )
        blend = np.asarray(cv2.addWeighted(first, weight, second, 1 - weight, 0), np.uint8)
        return join_samples([sample, partner], Canvas.of_image(blend))

    def most_objects(self, count: int, per_image: int) -> int:
        """Return the objects of both images."""
        return count + self.pre_transform.most_objects(per_image, per_image)
