"""Settings of the evaluation."""

from __future__ import annotations

from pydantic import Field

from yoloflow.data.settings import BatchSettings
from yoloflow.settings import Count, Share


class EvaluationSettings(BatchSettings):
    """Settings of evaluation: size of images and batches, thresholds and limits of detections."""

    conf_thres: Share = Field(0.001, description="lowest score of a detection in evaluation")
    iou_thres: Share = Field(0.65, description="overlap above which NMS removes the weaker of two boxes")
    nms_time_limit: float | None = Field(
        None, gt=0, description="seconds of NMS for a batch (null: no limit)"
    )
    max_det: Count = Field(300, description="detections of an image at most")
    val_loss: bool = Field(
        False, description="compute the loss of val_set too: a second forward pass in each evaluation"
    )
