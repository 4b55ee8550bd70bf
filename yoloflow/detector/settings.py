"""The settings of what counts as a detection."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

from yoloflow.structures import YoloflowError


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """The settings of what counts as a detection.

    Attributes:
        conf_thres: scores must be above it; iou_thres: largest IoU of two detections of a class.
        classes: numbers of the classes to report; None for all.
        max_det: detections of an image at most; None for the detector's own, whose reaching is warned of.
        multi_label: a box counts for each class whose score passes, as in evaluation, not for its best alone.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.7
    classes: tuple[int, ...] | None = None
    max_det: int | None = None
    multi_label: bool = False

    def __post_init__(self) -> None:
        for name in ("conf_thres", "iou_thres"):
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) <= 1):
                raise YoloflowError(f"{name}={value!r}: must be a number between 0 and 1")
        if self.max_det is not None:
            check_count("max_det", self.max_det)


def check_count(name: str, value: object) -> None:
    """Raises YoloflowError where the value of an argument is no whole number above 0."""
    if not (isinstance(value, Integral) and int(value) >= 1):
        raise YoloflowError(f"{name}={value!r}: must be a whole number, 1 or more")
