"""The table of transforms, and pipelines created from checked YAML rows `{func_name, prob, ...}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from yoloflow.data.transforms.colour import HsvAugment, MildOps
from yoloflow.data.transforms.copy_paste import CopyPaste
from yoloflow.data.transforms.flip import FlipLeftRight, FlipUpDown
from yoloflow.data.transforms.letterbox import Letterbox
from yoloflow.data.transforms.masks import PolygonsToMasks
from yoloflow.data.transforms.mixup import MixUp
from yoloflow.data.transforms.mosaic import Mosaic
from yoloflow.data.transforms.pastein import PasteIn
from yoloflow.data.transforms.perspective import RandomPerspective
from yoloflow.data.transforms.transform import Pipeline, Step, Transform
from yoloflow.structures import YoloflowError, nearest_names

Row = Mapping[str, object]

TRANSFORMS: dict[str, type[Transform]] = {
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
"""The transforms by the names that recipes use."""

# MindYOLO's recipes spell out steps that the loader always does. Their rows are accepted as long as they ask
# for exactly what happens: parameter -> the value it must have, None where any will do.
DONE_BY_LOADER: Mapping[str, Row] = {
    "label_norm": {"xyxy2xywh_": True},
    "label_pad": {"padding_size": None, "padding_value": -1},
    "image_norm": {"scale": 255},
    "image_transpose": {"bgr2rgb": True, "hwc2chw": True},
    # Polygons move and are clipped exactly, with as many points as they have.
    "resample_segments": {"n": None},
}


def create_transforms(rows: Sequence[Row], where: str = "transforms") -> Pipeline:
    """Create a pipeline from YAML rows; steps that do nothing are left out.

    `prob` (default 1) is the probability of the step, unless the transform has a parameter of that name.

    Args:
        rows: mappings with `func_name`, optional `prob` and the transform's parameters.
        where: the key under which the rows stand, for error messages.

    Raises:
        YoloflowError: an unknown name or parameter, or a value of the wrong type or out of range.
    """
    if isinstance(rows, Mapping | str) or not isinstance(rows, Sequence):
        raise YoloflowError(f"{where}: expected a list of rows {{func_name: ..., prob: ...}}, found {rows!r}")
    found = [_create_step(row, f"{where}[{number}]") for number, row in enumerate(rows)]
    steps = [step for step in found if step and step.prob > 0 and not step.transform.does_nothing]
    for step in steps[:-1]:
        if step.transform.must_be_last:
            raise YoloflowError(
                f"{where}: {step.transform.func_name} must be the last row: no transform may follow it"
            )
    return Pipeline(tuple(steps))


def check_transform(row: Row, where: str) -> None:
    """Raises YoloflowError, beginning with `where`, if a row cannot become a step."""
    _create_step(row, where)


def describe_transforms() -> Iterator[tuple[str, str, str]]:
    """Yield name, parameters with defaults, and first line of the docstring of every transform."""
    for name, transform in TRANSFORMS.items():
        parameters = ", ".join(f"{field.name}={_yaml_default(field)}" for field in fields(transform))
        yield name, parameters, (transform.__doc__ or "").splitlines()[0]


def _yaml_default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "[]"  # the empty Pipeline
    return str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:g}"


def _create_step(row: Row, where: str) -> Step | None:
    """Create the step of one row; None for what the loader does itself."""
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
    names = [field.name for field in fields(transform_class)]
    prob = 1.0
    if "prob" not in names:
        prob = _number(parameters.pop("prob", 1.0), f"{where}: prob")
        if not 0 <= prob <= 1:
            raise YoloflowError(f"{where}: prob={prob} is outside 0 to 1")
    hints = get_type_hints(transform_class)
    arguments: dict[str, object] = {}
    for key, value in parameters.items():
        if key in names:
            arguments[key] = _convert(value, hints[key], f"{where}: {key}")
        else:
            _check_fixed(key, value, transform_class.ignored, where, names)
    try:
        return Step(transform_class(**arguments), prob)
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
    """Convert a YAML value to the type of the field it goes to."""
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
