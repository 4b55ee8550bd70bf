"""Two pictures blended into one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import cv2
import numpy as np

from yoloflow.data.transforms.objects import join_objects, with_picture
from yoloflow.data.transforms.pipeline import Pipeline, Transform, require_range
from yoloflow.structures import Sample, TransformContext, YoloflowError


@dataclass(frozen=True, slots=True)
class MixUp(Transform):
    """Blends the picture with a second one and keeps the objects of both (Zhang et al. 2018, for detection).

    Attributes:
        alpha: first parameter of the Beta distribution that the weight is drawn from.
        beta: its second parameter.
        pre_transform: what the second image goes through first; it must come out as large as the first.
    """

    func_name: ClassVar[str] = "mixup"
    alpha: float = 32.0
    beta: float = 32.0
    pre_transform: Pipeline = field(default_factory=Pipeline)

    def __post_init__(self) -> None:
        require_range("mixup", "alpha", self.alpha, 1e-6, 1e6)
        require_range("mixup", "beta", self.beta, 1e-6, 1e6)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """The blend, with the objects of both."""
        partner = context.source.load(int(context.rng.integers(len(context.source))))
        partner = self.pre_transform(partner, context)
        weight = context.rng.beta(self.alpha, self.beta)
        first, second = sample.image, partner.image
        if first.shape != second.shape:
            raise YoloflowError(
                f"mixup: a picture of {first.shape[1]} x {first.shape[0]} meets one of {second.shape[1]} x "
                f"{second.shape[0]}; let pre_transform end as the rows before mixup do "
                "(mosaic and random_perspective, or letterbox)"
            )
        blend = np.asarray(cv2.addWeighted(first, weight, second, 1 - weight, 0), np.uint8)
        objects = join_objects([(s.boxes_xyxy, s.classes, s.polygons) for s in (sample, partner)])
        return with_picture(sample, blend, *objects)

    def most_objects(self, count: int, per_image: int) -> int:
        """Those of both pictures."""
        return count + self.pre_transform.most_objects(per_image, per_image)
