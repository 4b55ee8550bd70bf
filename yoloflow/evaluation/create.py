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
from yoloflow.models.precision import Precision
from yoloflow.models.settings import NetworkSettings
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex


def create_test_fn(
    index: DatasetIndex,
    settings: EvaluationSettings,
    data: DataSettings,
    network_settings: NetworkSettings,
    precision: Precision,
    ranks: Ranks,
    reserved_bytes: int | None = None,
    save_json: str | Path | None = None,
    shape_hw: Shape | None = None,
) -> Callable[[nn.Module], EvaluationResult]:
    """Returns the function that evaluates a network; its result's settings tell the pre-processing too.

    Args:
        index: the validation set.
        settings: size of images and batches, and which detections count.
        data: transforms, shapes, worker processes, cache.
        network_settings: its strides, and the input of its first row.
        precision: of the forward pass.
        ranks: this process among its peers.
        reserved_bytes: see `create_test_loader`.
        save_json: file for the detections.
        shape_hw: the one height and width of the input; None for what the settings say.
    """
    stride = max(network_settings.stride)
    loader = create_test_loader(index, data, settings, stride, ranks, reserved_bytes, shape_hw)
    shape = "rectangular" if data.test_rect else "square"
    pre_processing = {
        "shape": shape if shape_hw is None else f"{shape_hw[0]} x {shape_hw[1]}",
        "img_size": settings.img_size,
        "test_transforms": [dict(row) for row in data.test_rows],
        "test_shrink": data.test_shrink,
        "pixels": network_settings.pixels,
        "batch_size": settings.per_batch_size,
    }

    def test_fn(network: nn.Module) -> EvaluationResult:
        result = test(
            network,
            loader,
            index,
            conf_thres=settings.conf_thres,
            iou_thres=settings.iou_thres,
            max_det=settings.max_det,
            nms_time_limit=settings.nms_time_limit,
            precision=precision,
            synchronizer=Synchronizer(ranks.world_size),
            save_json=save_json,
        )
        return replace(result, settings={**pre_processing, **result.settings})

    return test_fn
