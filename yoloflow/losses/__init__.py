"""Step 3: the losses of the families, by MindYOLO's class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from yoloflow.families import load_part, part_names
from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.staged import StagedLoss
from yoloflow.settings import Section
from yoloflow.structures import YoloflowError, nearest_names

__all__ = ["Loss", "NetworkFacts", "create_loss", "hyper_parameter_names"]

VARIANTS = ("published", "mindyolo")


def create_loss(
    name: str,
    *,
    anchors: int | Sequence[Sequence[float]] | None = 1,
    stride: Sequence[int],
    nc: int,
    variant: str = "published",
    stages: Sequence[Mapping[str, Any]] = (),
    **hyper_parameters: Any,
) -> Loss:
    """Creates a loss by its name.

    Args:
        name: of a loss of `yoloflow/families.py`, such as "YOLOv8Loss".
        anchors: the network's anchors, level by level; 1 or None where it has none.
        stride: pixels a cell, level by level.
        nc: number of classes.
        variant: "published" follows the papers, "mindyolo" the reference wherever it deviates.
        stages: hyper-parameters that differ in a stage of the training, one mapping for each stage; none
            where the loss stays the same.
        **hyper_parameters: those of `hyper_parameter_names(name)`.

    Raises:
        YoloflowError: unknown name, variant or hyper-parameter, or a value of the wrong kind.
    """
    if stages:
        create = partial(create_loss, name, anchors=anchors, stride=stride, nc=nc, variant=variant)
        return StagedLoss([create(**{**hyper_parameters, **stage}) for stage in stages])
    loss_class = _loss_class(name)
    if variant not in VARIANTS:
        raise YoloflowError(f"variant={variant}: unknown; {nearest_names(variant, VARIANTS)}")
    settings = _settings(name, loss_class.settings_class, hyper_parameters)
    levels = None if isinstance(anchors, int) else anchors
    if levels is not None and not loss_class.needs_anchors:
        raise YoloflowError(
            f"loss {name} works without anchors, but the network section gives anchors={anchors}"
        )
    if variant == "mindyolo":
        from yoloflow.losses.mindyolo import MINDYOLO_LOSSES

        loss_class = MINDYOLO_LOSSES.get(loss_class, loss_class)
    return loss_class(settings, NetworkFacts(stride, nc, levels))


def hyper_parameter_names(name: str) -> list[str]:
    """Returns the keys that the `loss` section may have beside its name.

    Raises:
        YoloflowError: unknown name.
    """
    return list(_loss_class(name).settings_class.model_fields)


def _loss_class(name: str) -> type[Loss]:
    known = part_names("Loss")
    if name not in known:
        raise YoloflowError(f"loss.name={name}: no such loss; {nearest_names(name, known)}")
    return load_part("Loss", name)


def _settings(name: str, settings_class: type[Section], values: Mapping[str, object]) -> Section:
    try:
        return settings_class.model_validate(dict(values))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            known = nearest_names(key, settings_class.model_fields)
            raise YoloflowError(f"loss.{key}: {name} has no such hyper-parameter; {known}") from error
        text = fault["msg"].removeprefix("Input ")
        raise YoloflowError(f"loss.{key}={values[key]!r}: {name}: {text}") from error
