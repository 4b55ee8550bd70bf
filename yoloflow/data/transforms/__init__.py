"""Transforms of an image and its objects between disk and network; `TRANSFORMS` is the table of them."""

from yoloflow.data.transforms.rows import DONE_BY_LOADER, TRANSFORMS, check_transforms, create_transforms
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Pipeline, Step, Transform, TransformContext

__all__ = [
    "DONE_BY_LOADER",
    "TRANSFORMS",
    "Pipeline",
    "Sample",
    "Step",
    "Transform",
    "TransformContext",
    "check_transforms",
    "create_transforms",
]
