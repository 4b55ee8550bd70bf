"""Losses of the families, found by MindYOLO's class names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from yoloflow.losses.anchor_based import AnchorLoss
from yoloflow.losses.loss import Loss
from yoloflow.losses.paired import YOLOv9Loss, YOLOv10Loss
from yoloflow.losses.settings import LossSettings
from yoloflow.losses.staged import StagedLoss
from yoloflow.losses.yolov4 import YOLOv4Loss
from yoloflow.losses.yolov7 import YOLOv7AuxLoss, YOLOv7Loss
from yoloflow.losses.yolov8 import YOLOv8Loss
from yoloflow.losses.yolox import YOLOXLoss
from yoloflow.structures import YoloflowError, nearest_names

__all__ = ["LOSSES", "Loss", "create_loss", "hyper_parameter_names"]

LOSSES: dict[str, type[Loss]] = {
    "YOLOXLoss": YOLOXLoss,
    "YOLOv10Loss": YOLOv10Loss,
    "YOLOv11Loss": YOLOv8Loss,
    "YOLOv3Loss": AnchorLoss,
    "YOLOv4Loss": YOLOv4Loss,
    "YOLOv5Loss": AnchorLoss,
    "YOLOv7AuxLoss": YOLOv7AuxLoss,
    "YOLOv7Loss": YOLOv7Loss,
    "YOLOv8Loss": YOLOv8Loss,
    "YOLOv9Loss": YOLOv9Loss,
}

VARIANTS = ("published", "mindyolo")


def create_loss(
    name: str | LossSettings,
    *,
    anchors: int | Sequence[Sequence[float]] | None = 1,
    stride: Sequence[int],
    nc: int,
    variant: str = "published",
    stages: Sequence[Mapping[str, Any]] = (),
    **hyper_parameters: Any,
) -> Loss:
    """The loss `name` of the table `LOSSES`.

    Args:
        name: MindYOLO's class name, such as "YOLOv8Loss", or a recipe's section, which has the
            hyper-parameters too.
        anchors: the network's anchors, level by level; 1 or None where it has none.
        stride: pixels a cell, level by level.
        nc: number of classes.
        variant: "published" follows the papers, "mindyolo" the reference wherever it deviates.
        stages: hyper-parameters that a stage of the training has otherwise, one mapping for each stage; none
            where the loss stays the same.
        **hyper_parameters: those of `hyper_parameter_names(name)`.

    Raises:
        YoloflowError: unknown name, variant or hyper-parameter, or a value of the wrong kind.
    """
    if isinstance(name, LossSettings):
        hyper_parameters, stages, name = name.hyper_parameters | hyper_parameters, name.stages, name.name
    if stages:
        create = partial(create_loss, name, anchors=anchors, stride=stride, nc=nc, variant=variant)
        return StagedLoss([create(**{**hyper_parameters, **stage}) for stage in stages])
    loss_class = _loss_class(name)
    if variant not in VARIANTS:
        raise YoloflowError(f"variant={variant}: unknown; {nearest_names(variant, VARIANTS)}")
    _check_hyper_parameters(name, hyper_parameters)
    parameters = inspect.signature(loss_class).parameters
    if "anchors" not in parameters and anchors not in (1, None):
        raise YoloflowError(
            f"loss {name} works without anchors, but the network section gives anchors={anchors}"
        )
    facts = {"anchors": anchors or 1, "stride": stride, "nc": nc, "variant": variant}
    wanted: dict[str, Any] = {key: value for key, value in facts.items() if key in parameters}
    return loss_class(**wanted, **hyper_parameters)


def hyper_parameter_names(name: str) -> list[str]:
    """The keys that the `loss` section may have beside its name.

    Raises:
        YoloflowError: unknown name.
    """
    return list(_hyper_parameters(name))


def _loss_class(name: str) -> type[Loss]:
    if name not in LOSSES:
        raise YoloflowError(f"loss.name={name}: no such loss; {nearest_names(name, LOSSES)}")
    return LOSSES[name]


def _hyper_parameters(name: str) -> dict[str, inspect.Parameter]:
    """Those constructor parameters that neither the data nor the network determines."""
    parameters = inspect.signature(_loss_class(name)).parameters
    return {
        key: value for key, value in parameters.items() if key not in ("anchors", "stride", "nc", "variant")
    }


def _check_hyper_parameters(name: str, given: Mapping[str, object]) -> None:
    known = _hyper_parameters(name)
    for key, value in given.items():
        if key not in known:
            raise YoloflowError(
                f"loss.{key}: {name} has no such hyper-parameter; {nearest_names(key, known)}"
            )
        if isinstance(known[key].default, bool | tuple):
            _check_kind(name, key, value, known[key].default)
            continue
        kinds = (int,) if isinstance(known[key].default, int) else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
            kind = "a whole number" if kinds == (int,) else "a number"
            raise YoloflowError(f"loss.{key}={value!r}: {name} takes {kind} of at least 0 here")


def _check_kind(name: str, key: str, value: object, default: object) -> None:
    """Switches and lists of whole numbers."""
    if isinstance(default, bool):
        is_right, kind = isinstance(value, bool), "true or false"
    else:
        is_right = isinstance(value, list | tuple) and all(isinstance(entry, int) for entry in value)
        kind = "a list of whole numbers"
    if not is_right:
        raise YoloflowError(f"loss.{key}={value!r}: {name} takes {kind} here")
