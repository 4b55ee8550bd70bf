"""From a tree of values to a checked `Config`, and from pydantic's findings to sentences with places."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import or_
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from yoloflow.config.document import Located
from yoloflow.config.foreign_names import hint_for_key, hint_for_value
from yoloflow.config.schema import Config
from yoloflow.data.settings import Stages
from yoloflow.families import load_part, part_names
from yoloflow.settings import Keys, Row, describe, dotted_name, location
from yoloflow.structures import YoloflowError, nearest_names

_MOST_AKIN = 4

TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "value",
}


def validate(tree: Located) -> Config:
    """The checked settings.

    Raises:
        YoloflowError: one line for each fault: place, key, what is wrong.
    """
    try:
        config = Config.model_validate(tree.plain())
    except ValidationError as error:
        raise YoloflowError("\n".join(_sentences(tree, error))) from error
    _check_names(config, tree)
    return config


def describe_keys() -> Iterator[tuple[str, str, str, str]]:
    """Every key of a recipe: its dotted name, type, default and description."""
    for dotted, field in _fields(Config, ""):
        default = "required"
        if not field.is_required():
            default = f"default {json.dumps(field.get_default(call_default_factory=True))}"
        yield dotted, _type_name(field.annotation), default, field.description or ""


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _fields(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _type_name(annotation: Any) -> str:
    """A type as a user says it: "number or null", "never or auto", "integer, or a list of these"."""
    choices = dict.fromkeys(_alternatives(annotation))
    of_these = [
        choice
        for choice in choices
        if get_origin(choice) is list and {*_alternatives(get_args(choice)[0])} - {NoneType} < {*choices}
    ]
    names = [_name_of_one(choice) for choice in choices if choice not in of_these]
    return " or ".join(names) + (", or a list of these" if of_these else "")


def _alternatives(annotation: Any) -> list[Any]:
    """Returns the types of a union, and of unions in it; a type alone as one."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(parts[0])
    if origin in (Union, UnionType):
        return [choice for part in parts for choice in _alternatives(part)]
    if origin is list:
        return [GenericAlias(list, (reduce(or_, _alternatives(parts[0])),))]  # without remarks on the items
    return [annotation]


def _name_of_one(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(get_args(annotation))
    if get_origin(annotation) is list:
        name = _type_name(get_args(annotation)[0])
        name = name.replace("list of", "lists of")
        return f"list of {name}s" if name in ("number", "integer", "text", "mapping") else f"list of {name}"
    return TYPE_NAMES.get(annotation, "mapping")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that values of an annotation are made of, through lists, unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_of(part))), None)


def _model_at(keys: Keys) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Config
    for key in keys:
        if isinstance(key, int):
            continue
        if model is None or key not in model.model_fields:
            return None
        model = _section_of(model.model_fields[key].annotation)
    return model


def _unknown_key(keys: Keys, value: object) -> str:
    key = str(keys[-1])
    if hint := hint_for_key(key, value):
        return f"unknown key; {hint}"
    model = _model_at(keys[:-1])
    known = list(model.model_fields) if model else []
    elsewhere = [dotted for dotted, _ in _fields(Config, "") if dotted.split(".")[-1] == key]
    if elsewhere and not difflib.get_close_matches(key, known, n=1, cutoff=0.75):
        return f"unknown key here; did you mean {' or '.join(elsewhere)}?"
    begun = [name for name in known if name.startswith(key)]
    if begun:
        return f"unknown key; did you mean {' or '.join(begun)}?"
    if not difflib.get_close_matches(key, known, n=1, cutoff=0.5):
        akin = [dotted for dotted, _ in _fields(Config, "") if key in re.split(r"[._]", dotted)]
        if akin:
            return f"unknown key; did you mean {' or '.join(akin[:_MOST_AKIN])}?"
    return f"unknown key; {nearest_names(key, known)}"


def _resolve(tree: Located, location: Sequence[str | int]) -> tuple[Keys, Located]:
    """The real keys in pydantic's location (which also names union branches), and what lies there."""
    node, keys = tree, []
    for part in location:
        if isinstance(node.value, dict) and part in node.value:
            node = node.value[str(part)]
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            continue
        keys.append(part)
    return tuple(keys), node


def _sentences(tree: Located, error: ValidationError) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for fault in error.errors(include_url=False):
        keys, node = _resolve(tree, location(fault))
        text = describe(fault)
        if fault["type"] == "missing":
            keys = (*keys, fault["loc"][-1])
        elif fault["type"] == "extra_forbidden":
            text = _unknown_key(keys, node.plain())
        elif hint := hint_for_value(dotted_name(keys), node.plain()):
            text = f"{text}; write {hint}"
        texts = found.setdefault((node.place, dotted_name(keys)), [])
        if text not in texts:
            texts.append(text)
    return [": ".join(part for part in (*where, _either(texts)) if part) for where, texts in found.items()]


def _either(texts: list[str]) -> str:
    return (
        "; or: ".join(texts)
        if len(texts) <= 2
        else f"should be a plain value, {texts[0].rpartition(', ')[2]}"
    )


def _check_names(config: Config, tree: Located) -> None:
    """Names that other rooms own: hyper-parameters of the loss, transforms, callbacks.

    Imported here because these rooms import torch, which reading and listing settings must not wait for.
    """
    from yoloflow.data.transforms import check_transform, create_transforms

    _check_loss(config, tree)
    _check_task(config, tree)
    data = config.data
    lists: list[tuple[Keys, list[Row]]] = [(("data", "train_transforms"), data.trans_list[0])]
    if isinstance(data.train_transforms, Stages):
        stages = enumerate(data.train_transforms.trans_list)
        lists = [(("data", "train_transforms", "trans_list", stage), rows) for stage, rows in stages]
    if data.test_transforms is not None:
        lists.append((("data", "test_transforms"), data.test_transforms))
    for keys, rows in lists:
        where = dotted_name(keys)
        for number, row in enumerate(rows):
            with _placed(tree, (*keys, number)):
                check_transform(row, f"{where}[{number}]")
        with _placed(tree, keys):
            create_transforms(rows, where)
    if config.callback:
        from yoloflow.callbacks import check_callback

        for number, callback in enumerate(config.callback):
            with _placed(tree, ("callback", number)):
                check_callback(callback.model_dump(), f"callback[{number}]")


def _check_loss(config: Config, tree: Located) -> None:
    from yoloflow.losses import loss_faults

    loss, names = config.loss, part_names("Loss")
    if loss.name not in names:
        place = _resolve(tree, ("loss", "name"))[1].place
        raise YoloflowError(
            f"{place}: loss.name: unknown loss {loss.name}; {nearest_names(loss.name, names)}"
        )
    sections: list[tuple[Keys, Row]] = [(("loss",), loss.hyper_parameters)]
    sections += [(("loss", "stages", number), row) for number, row in enumerate(loss.stages)]
    lines = [
        f"{_resolve(tree, (*keys, key))[1].place}: {dotted_name((*keys, key))}: {text}"
        for keys, values in sections
        for key, text in loss_faults(loss.name, values).items()
    ]
    if lines:
        raise YoloflowError("\n".join(lines))


def _check_task(config: Config, tree: Located) -> None:
    """Task, head, loss and transforms must agree about masks."""
    from yoloflow.data.transforms.masks import PolygonsToMasks

    learns_masks = load_part("Loss", config.loss.name).takes_masks  # type: ignore[attr-defined]
    head = config.network.head[-1][-2] if config.network.head else None
    if head in part_names("Head"):
        kind = load_part("Head", str(head)).output_kind  # type: ignore[attr-defined]
        with _placed(tree, ("loss", "name")):
            if bool(kind.mask_channels) != learns_masks:
                raise YoloflowError(
                    f"loss.name: {config.loss.name} {'learns' if learns_masks else 'does not learn'} masks, "
                    f"the network's head {head} {'predicts them' if kind.mask_channels else 'predicts none'}"
                )
    with _placed(tree, ("task",)):
        if (config.task == "segment") != learns_masks:
            remedy = (
                "write task=segment" if learns_masks else "take a recipe that ends in -seg, as yolov8n-seg"
            )
            raise YoloflowError(f"task: {config.task}, but the loss is {config.loss.name}; {remedy}")
    draws = [
        any(row["func_name"] == PolygonsToMasks.func_name for row in rows) for rows in config.data.trans_list
    ]
    with _placed(tree, ("data", "train_transforms")):
        if learns_masks and not all(draws):
            raise YoloflowError(
                f"data.train_transforms: the loss learns masks; each stage must end with {{func_name: "
                f"{PolygonsToMasks.func_name}, mask_overlap: true, mask_ratio: 4}}"
            )


@contextmanager
def _placed(tree: Located, keys: Keys) -> Iterator[None]:
    """Puts the place of what lies at `keys` before an error."""
    try:
        yield
    except YoloflowError as error:
        raise YoloflowError(f"{_resolve(tree, keys)[1].place}: {error}") from error
