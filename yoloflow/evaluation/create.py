"""The test function of a run: `test` with everything but the network filled in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from yoloflow.data.settings import DataSettings
from yoloflow.data.shapes import Shape
from yoloflow.data.stage_loaders import create_test_loader
from yoloflow.evaluation.settings import EvaluationSettings
from yoloflow.evaluation.test_function import EvaluationResult, Synchronizer, test
from yoloflow.evaluation.validation_loss import ValidationLoss
from yoloflow.losses.loss import takes_masks
from yoloflow.models.network import Network
from yoloflow.models.precision import Precision
from yoloflow.models.settings import NetworkSettings
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex


def create_test_fn(
    index: DatasetIndex,
    settings: EvaluationSettings,
    data: DataSettings,
    network: Network | NetworkSettings,
    precision: Precision,
    ranks: Ranks,
    reserved_bytes: int | None = None,
    loss_fn: nn.Module | None = None,
    save_json: str | Path | None = None,
    shape_hw: Shape | None = None,
) -> Callable[[nn.Module], EvaluationResult]:
    """Returns the function that evaluates a network; its result's settings tell the pre-processing too.

    Args:
        index: the validation set.
        settings: size of images and batches, and which detections count.
        data: transforms, shapes, worker processes, cache.
        network: tells strides, and the input of the first row.
        precision: of the forward pass.
        ranks: this process among its peers.
        reserved_bytes: see `create_test_loader`.
        loss_fn: the loss of the network's training; used where `settings.val_loss`.
        save_json: file for the detections.
        shape_hw: the one height and width of the input; None for what the settings say.
    """
    stride = max(network.stride)
    loss_fn = loss_fn if settings.val_loss else None
    loader = create_test_loader(
        index, _with_masks(data, loss_fn), settings, stride, ranks, reserved_bytes, shape_hw
    )
    shape = "rectangular" if data.test_rect else "square"
    pre_processing = {
        "shape": shape if shape_hw is None else f"{shape_hw[0]} x {shape_hw[1]}",
        "img_size": settings.img_size,
        "test_transforms": [dict(row) for row in data.test_rows],
        "test_shrink": data.test_shrink,
        "pixels": network.pixels,
        "batch_size": settings.per_batch_size,
    }

    def test_fn(evaluated: nn.Module) -> EvaluationResult:
        loss = None if loss_fn is None else ValidationLoss(evaluated, loss_fn, precision)
        result = test(
            evaluated,
            loader if loss is None else loss.watching(loader),
            index,
            conf_thres=settings.conf_thres,
            iou_thres=settings.iou_thres,
            max_det=settings.max_det,
            nms_time_limit=settings.nms_time_limit,
            precision=precision,
            synchronizer=Synchronizer(ranks.world_size),
            save_json=save_json,
        )
        result = result if loss is None else _with_loss(result, loss)
        return replace(result, settings={**pre_processing, **result.settings})

    return test_fn


def _with_loss(result: EvaluationResult, loss: ValidationLoss) -> EvaluationResult:
    """Returns the result with a loss, which was computed while the test function waited for batches."""
    loading = max(result.seconds.loading - loss.seconds, 0.0)
    seconds = replace(result.seconds, loading=loading, loss=loss.seconds)
    return replace(result, losses=loss.means(), seconds=seconds)


def _with_masks(data: DataSettings, loss_fn: nn.Module | None) -> DataSettings:
    """Returns settings whose evaluation draws masks as the training does, where a loss takes them."""
    rows = data.trans_list[-1][-1:]
    if loss_fn is None or not takes_masks(loss_fn) or not rows or rows[0] in data.test_rows:
        return data
    return data.model_copy(update={"test_transforms": [*data.test_rows, *rows]})
