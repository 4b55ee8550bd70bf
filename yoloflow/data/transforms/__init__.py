"""What happens to a picture and its objects between disk and network.

`TRANSFORMS` maps a recipe's `func_name` to its class; a new transform is a file here and a line there.
"""

from yoloflow.data.transforms.pipeline import Pipeline, Step, Transform
from yoloflow.data.transforms.rows import DONE_BY_LOADER, TRANSFORMS, check_transform, create_transforms

__all__ = [
    "DONE_BY_LOADER",
    "TRANSFORMS",
    "Pipeline",
    "Step",
    "Transform",
    "check_transform",
    "create_transforms",
]
