"""YAML rows `{func_name, prob, ...}` made into a pipeline, every name and value checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import get_type_hints

from yoloflow.data.transforms.colour import HsvAugment, MildOps
from yoloflow.data.transforms.copy_paste import CopyPaste
from yoloflow.data.transforms.flip import FlipLeftRight, FlipUpDown
from yoloflow.data.transforms.letterbox import Letterbox
from yoloflow.data.transforms.masks import PolygonsToMasks
from yoloflow.data.transforms.mixup import MixUp
from yoloflow.data.transforms.mosaic import Mosaic
from yoloflow.data.transforms.pastein import PasteIn
from yoloflow.data.transforms.perspective import RandomPerspective
from yoloflow.data.transforms.pipeline import Pipeline, Step, Transform
from yoloflow.structures import YoloflowError, nearest_names

Row = Mapping[str, object]

TRANSFORMS: Mapping[str, type[Transform]] = MappingProxyType(
    {
        transform.func_name: transform
        for transform in (
            Mosaic,
            RandomPerspective,
            MixUp,
            CopyPaste,
            PasteIn,
            HsvAugment,
            FlipLeftRight,
            FlipUpDown,
            Letterbox,
            MildOps,
            PolygonsToMasks,
        )
    }
)


# MindYOLO's recipes spell out steps that the loader always does. Their rows are accepted as long as they ask
# for exactly what happens: parameter -> the value it must have, None where any will do.
DONE_BY_LOADER: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "label_norm": {"xyxy2xywh_": True},
        "label_pad": {"padding_size": None, "padding_value": -1},
        "image_norm": {"scale": 255},
        "image_transpose": {"bgr2rgb": True, "hwc2chw": True},
        # Polygons move and are clipped exactly, with as many points as they have.
        "resample_segments": {"n": None},
    }
)

# Parameters of MindYOLO that have no meaning here, read the same way.
WITHOUT_EFFECT: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        # Boxes always move with their pixels.
        "letterbox": {"only_image": None, "xywhn2xyxy_": None},
        # Its probability in MindYOLO is 0 either way.
        "albumentations": {"random_resized_crop": None, "size": None},
    }
)


def create_transforms(rows: Sequence[Row], where: str = "transforms") -> Pipeline:
    """A pipeline from YAML rows; steps that do nothing are left out.

    `prob` (default 1) is the probability of the step, but for copy_paste, where it is the share of a sample's
    objects that is pasted.

    Args:
        rows: mappings with `func_name`, optional `prob` and the transform's parameters.
        where: the key under which the rows stand, for error messages.

    Raises:
        YoloflowError: an unknown name or parameter, or a value of the wrong type or out of range.
    """
    if isinstance(rows, Mapping | str) or not isinstance(rows, Sequence):
        raise YoloflowError(f"{where}: expected a list of rows {{func_name: ..., prob: ...}}, found {rows!r}")
    steps = []
    for number, row in enumerate(rows):
        step = _create_step(row, f"{where}[{number}]")
        if step is not None and step.prob > 0 and not step.transform.does_nothing:
            steps.append(step)
    early = [step for step in steps[:-1] if isinstance(step.transform, PolygonsToMasks)]
    if early:
        raise YoloflowError(
            f"{where}: {PolygonsToMasks.func_name} must be the last row: nothing moves masks after it"
        )
    return Pipeline(tuple(steps))


def check_transform(row: Row, where: str) -> None:
    """Raises YoloflowError, beginning with `where`, if a row cannot become a step."""
    _create_step(row, where)


def _create_step(row: Row, where: str) -> Step | None:
    """The step of one row; None for what the loader does itself."""
    if not isinstance(row, Mapping) or not isinstance(row.get("func_name"), str):
        raise YoloflowError(f"{where}: expected a mapping with func_name, found {row!r}")
    name = str(row["func_name"])
    where = f"{where} ({name})"
    parameters = {str(key): value for key, value in row.items() if key != "func_name"}
    if name in DONE_BY_LOADER:
        parameters.pop("prob", None)
        for key, value in parameters.items():
            _check_fixed(key, value, DONE_BY_LOADER[name], where)
        return None
    if name not in TRANSFORMS:
        raise YoloflowError(
            f"{where}: unknown transform; {nearest_names(name, [*TRANSFORMS, *DONE_BY_LOADER])}"
        )
    transform_class = TRANSFORMS[name]
    prob = 1.0
    if transform_class is not CopyPaste:
        prob = _number(parameters.pop("prob", 1.0), f"{where}: prob")
        if not 0 <= prob <= 1:
            raise YoloflowError(f"{where}: prob={prob} is outside 0 to 1")
    return Step(_create_transform(transform_class, parameters, where), prob)


def _create_transform(transform_class: type[Transform], parameters: Row, where: str) -> Transform:
    """One transform from its parameters."""
    hints = get_type_hints(transform_class)
    names = [field.name for field in fields(transform_class)]  # type: ignore[arg-type]  # all are dataclasses
    fixed = WITHOUT_EFFECT.get(transform_class.func_name, {})
    arguments: dict[str, object] = {}
    for key, value in parameters.items():
        if key in names:
            arguments[key] = _convert(value, hints[key], f"{where}: {key}")
        else:
            _check_fixed(key, value, fixed, where, names)
    try:
        return transform_class(**arguments)
    except YoloflowError as error:
        raise YoloflowError(f"{where}: {error}") from error


def _check_fixed(key: str, value: object, allowed: Row, where: str, names: Sequence[str] = ()) -> None:
    """Raise unless `key` is one of the accepted parameters without effect and has the accepted value."""
    if key not in allowed:
        known = [*names, *allowed, "prob"]
        raise YoloflowError(f"{where}: unknown parameter {key}; {nearest_names(key, known)}")
    if allowed[key] is not None and allowed[key] != value:
        raise YoloflowError(
            f"{where}: {key}={value!r} is not possible, the loader always uses {allowed[key]!r}"
        )


def _convert(value: object, kind: object, where: str) -> object:
    """A YAML value as the type of the field it goes to."""
    if kind is Pipeline:
        return create_transforms(value, where)  # type: ignore[arg-type]  # it checks for itself
    if kind is bool:
        if not isinstance(value, bool):
            raise YoloflowError(f"{where}={value!r}: expected true or false")
        return value
    return _number(value, where)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise YoloflowError(f"{where}={value!r}: expected a number")
    return float(value)
