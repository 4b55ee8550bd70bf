"""Step 3: the losses of the families, by MindYOLO's class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from yoloflow.families import load_part, part_names
from yoloflow.losses.loss import Loss, NetworkFacts
from yoloflow.losses.staged import StagedLoss
from yoloflow.settings import describe
from yoloflow.structures import YoloflowError, nearest_names

__all__ = ["Loss", "NetworkFacts", "create_loss", "loss_faults"]

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
        **hyper_parameters: fields of the loss's `settings_class`.

    Raises:
        YoloflowError: unknown name, variant or hyper-parameter, or a value of the wrong kind.
    """
    if stages:
        create = partial(create_loss, name, anchors=anchors, stride=stride, nc=nc, variant=variant)
        return StagedLoss([create(**{**hyper_parameters, **stage}) for stage in stages])
    loss_class = _loss_class(name)
    if variant not in VARIANTS:
        raise YoloflowError(f"variant={variant}: unknown; {nearest_names(variant, VARIANTS)}")
    faults = loss_faults(name, hyper_parameters)
    if faults:
        raise YoloflowError("\n".join(f"loss.{key}: {text}" for key, text in faults.items()))
    settings = loss_class.settings_class(**hyper_parameters)
    levels = None if isinstance(anchors, int) else anchors
    if levels is not None and not loss_class.needs_anchors:
        raise YoloflowError(
            f"loss {name} works without anchors, but the network section gives anchors={anchors}"
        )
    if variant == "mindyolo":
        from yoloflow.losses.mindyolo import MINDYOLO_LOSSES

        loss_class = MINDYOLO_LOSSES.get(loss_class, loss_class)
    return loss_class(settings, NetworkFacts(stride, nc, levels))


def loss_faults(name: str, hyper_parameters: Mapping[str, object]) -> dict[str, str]:
    """Returns what is wrong with hyper-parameters, by their keys.

    Raises:
        YoloflowError: unknown name.
    """
    settings_class = _loss_class(name).settings_class
    try:
        settings_class.model_validate(dict(hyper_parameters))
    except ValidationError as error:
        known, faults = settings_class.model_fields, {}
        for fault in error.errors(include_url=False):
            key = str(fault["loc"][0])
            unknown = f"{name} has no such hyper-parameter; {nearest_names(key, known)}"
            faults[key] = describe(fault) if key in known else unknown
        return faults
    return {}


def _loss_class(name: str) -> type[Loss]:
    known = part_names("Loss")
    if name not in known:
        raise YoloflowError(f"loss.name={name}: no such loss; {nearest_names(name, known)}")
    return load_part("Loss", name)
