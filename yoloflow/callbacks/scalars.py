"""Figures of a training by name, as TensorBoard, Weights & Biases and MLflow show them."""

from __future__ import annotations

from yoloflow.callbacks.base import RunContext
from yoloflow.callbacks.metrics_file import step_record
from yoloflow.evaluation.result import EvaluationResult

MAX_CLASSES = 100
"""More have no figures of their own."""


def step_scalars(context: RunContext) -> dict[str, float]:
    """Returns losses, learning rates, momentum and images a second of the step just done."""
    record = step_record(context)
    return {
        **{f"loss/{name}": record[name] for name in context.loss_item_names},
        **{f"lr/group{number}": rate for number, rate in enumerate(record["lr"])},
        "momentum": record["momentum"],
        "images_per_second": record["images_per_second"],
    }


def evaluation_scalars(result: EvaluationResult) -> dict[str, float]:
    """Returns AP, AP50, AP of each class (0 to 1), of masks too, and the losses of the validation set."""
    scalars: dict[str, float] = {}
    for prefix, found in (("", result.coco), ("mask_", result.masks)):
        if found is None:
            continue
        scalars |= {f"val/{prefix}map": found.map, f"val/{prefix}map50": found.map50}
        for row in found.per_class[:MAX_CLASSES]:
            if row.ap is not None:
                scalars[f"val_class_{prefix}ap/{row.name}"] = row.ap
    return scalars | {f"val_loss/{name}": value for name, value in result.losses.items()}
