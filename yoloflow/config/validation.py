"""From a tree of values to a checked `Config`, and from pydantic's findings to sentences with places."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from yoloflow.config.data_section import Stages
from yoloflow.config.document import Located
from yoloflow.config.schema import Config
from yoloflow.families import part_names
from yoloflow.settings import Row
from yoloflow.structures import YoloflowError, nearest_names

Keys = tuple[str | int, ...]

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
    """A type as a user says it: "number or null", "never or auto", "list of text"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(parts[0])
    if origin is Literal:
        return " or ".join(parts)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(part) for part in parts)
    if origin is list:
        return f"list of {_type_name(parts[0])}"
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


def _unknown_key(keys: Keys) -> str:
    key = str(keys[-1])
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
        keys, node = _resolve(tree, fault["loc"])
        if fault["type"] == "missing":
            keys, text = (*keys, str(fault["loc"][-1])), "is required"
        elif fault["type"] == "extra_forbidden":
            text = _unknown_key(keys)
        elif fault["type"] == "value_error":
            keys, node, text = _own_location(tree, keys, node, fault["msg"].removeprefix("Value error, "))
        else:
            text = _message(fault["type"], fault["msg"], node)
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


def _own_location(tree: Located, keys: Keys, node: Located, text: str) -> tuple[Keys, Located, str]:
    """A complaint that starts with the dotted name of a key belongs to that key's line."""
    dotted, colon, rest = text.partition(": ")
    named = tuple(dotted.partition("=")[0].split("."))
    found, named_node = _resolve(tree, named)
    return (found, named_node, rest) if colon and found == named else (keys, node, text)


def _message(kind: str, message: str, node: Located) -> str:
    if kind in ("model_type", "dict_type"):
        message = "Input should be a section with keys"
    text = message.removeprefix("Input ")
    is_section, is_list = isinstance(node.value, dict), isinstance(node.value, list)
    given = (
        "a section"
        if is_section
        else "a list"
        if is_list
        else "null"
        if node.value is None
        else repr(node.value)
    )
    return f"{text}, not {given}"


def dotted_name(keys: Sequence[str | int]) -> str:
    """`("data", "train_transforms", 0)` as `data.train_transforms.0`."""
    return ".".join(str(key) for key in keys)


def _check_names(config: Config, tree: Located) -> None:
    """Names that other rooms own: hyper-parameters of the loss, transforms, callbacks.

    Imported here because these rooms import torch, which reading and listing settings must not wait for.
    """
    from yoloflow.data.transforms import check_transforms

    _check_loss(config, tree)
    data = config.data
    lists: list[tuple[Keys, list[Row]]] = [(("data", "train_transforms"), data.trans_list[0])]
    if isinstance(data.train_transforms, Stages):
        stages = enumerate(data.train_transforms.trans_list)
        lists = [(("data", "train_transforms", "trans_list", stage), rows) for stage, rows in stages]
    if data.test_transforms is not None:
        lists.append((("data", "test_transforms"), data.test_transforms))
    for keys, rows in lists:
        _at_row(tree, keys, partial(check_transforms, rows, dotted_name(keys)))
    if config.callback:
        from yoloflow.callbacks import check_callbacks

        _at_row(tree, ("callback",), partial(check_callbacks, [row.model_dump() for row in config.callback]))


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


def _at_row(tree: Located, keys: Keys, check: Callable[[], None]) -> None:
    """Run a check of the list at `keys`; the place of the row that it complains about goes first."""
    try:
        check()
    except YoloflowError as error:
        row = re.match(r"[\w.]*\[(\d+)\]", str(error))
        node = _resolve(tree, (*keys, int(row[1])) if row else keys)[1]
        raise YoloflowError(f"{node.place}: {error}") from error
