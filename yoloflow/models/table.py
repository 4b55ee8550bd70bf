"""Layer tables: rows of YAML to layers that know their inputs.

A row is `[name, from, number, module, args]`, or MindYOLO's `[from, number, module, args]`, which is named by
its position. `from` is an earlier row's name, its position, a relative position (-1 is the row above, or the
images for the first row), or a list of these. Nothing is evaluated: words in `args` are looked up.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from yoloflow.models.layer_classes import find_layer, layer_names
from yoloflow.models.layers.contract import Head, Layer, LayerRow, MapShape, Scaling, Stack
from yoloflow.structures import YoloflowError, nearest_names

IMAGES = -1  # position of the network's input among the sources of a row
IMAGE_SHAPE = MapShape(channels=3, stride=1)

WORDS: dict[str, Any] = {
    "None": None,
    "True": True,
    "False": False,
    "nearest": "nearest",
    "'nearest'": "nearest",
    "same": "same",
    "nn.SiLU()": nn.SiLU,
    "nn.Mish()": nn.Mish,
    "nn.LeakyReLU(0.1)": partial(nn.LeakyReLU, 0.1),
}
# Words whose value the network section states itself.
SETTINGS = ("anchors", "stride", "reg_max", "max_channels")


@dataclass(frozen=True, slots=True)
class BuiltRow:
    """A row of the table with its layer.

    Attributes:
        name: its name, or its position as a string.
        sources: positions of the rows it takes, `IMAGES` for the network's input.
        layer: the module.
    """

    name: str
    sources: tuple[int, ...]
    layer: Layer


@dataclass(frozen=True, slots=True)
class _Row:
    """A row as written: `place` is its key in the config, for messages."""

    place: str
    name: str
    source: Any
    number: int
    module: str
    layer_class: type[Layer]
    args: list[Any]


def build_rows(
    model_cfg: Mapping[str, Any],
    num_classes: int,
    replacements: Mapping[type[Layer], type[Layer]],
    scaling_class: type[Scaling] = Scaling,
) -> list[BuiltRow]:
    """Builds all rows of `model_cfg["backbone"]` and `model_cfg["head"]`.

    Args:
        model_cfg: the network section; see the module's text for the rows.
        num_classes: what the word `nc` means.
        replacements: classes to build instead of a row's own.
        scaling_class: rule for the channels.

    Returns:
        the rows with their layers, a `Head` last and nowhere else.

    Raises:
        YoloflowError: a row is not understood; the message names it.
    """
    scaling = scaling_class(
        model_cfg.get("depth_multiple", 1.0),
        model_cfg.get("width_multiple", 1.0),
        model_cfg.get("max_channels", float("inf")),
        model_cfg.get("scale"),
    )
    words = WORDS | {name: model_cfg[name] for name in SETTINGS if name in model_cfg} | {"nc": num_classes}
    rows = _read_rows(model_cfg, replacements)
    built: list[BuiltRow] = []
    shapes: list[MapShape] = []
    for row in rows:
        sources = _sources(row, [earlier.name for earlier in built])
        inputs = [IMAGE_SHAPE if source == IMAGES else shapes[source] for source in sources]
        repeats = scaling.repeats(row.number)
        layer = _build_layer(row, LayerRow(inputs, scaling, repeats), words)
        built.append(BuiltRow(row.name, sources, layer))
        is_last = row is rows[-1]
        if isinstance(layer, Head) != is_last:
            what = "the last row must be a head" if is_last else "a head must be the last row"
            raise YoloflowError(f"{row.place}: {row.module}: {what}")
        if not is_last:
            shapes.append(layer.output_shape(inputs))
    return built


def _read_rows(model_cfg: Mapping[str, Any], replacements: Mapping[type[Layer], type[Layer]]) -> list[_Row]:
    rows: list[_Row] = []
    names: set[str] = set()
    for section in ("backbone", "head"):
        content = model_cfg.get(section)
        if not _is_list(content) or not content:
            raise YoloflowError(f"network.{section}: expected a list of rows, found {content!r}")
        for number, entry in enumerate(content):
            row = _read_row(f"network.{section}[{number}]", entry, len(rows))
            if row.name in names:
                raise YoloflowError(f"{row.place}: there is already a row {row.name!r}; names must differ")
            names.add(row.name)
            layer_class = replacements.get(row.layer_class, row.layer_class)
            rows.append(replace(row, layer_class=layer_class))
    return rows


def _read_row(place: str, entry: Any, position: int) -> _Row:
    """Reads one row; checks its form and its name, not yet the rows it refers to."""
    if not _is_list(entry) or len(entry) not in (4, 5):
        raise YoloflowError(f"{place}: expected [name, from, number, module, args], found {entry!r}")
    name, source, number, module, args = entry if len(entry) == 5 else (str(position), *entry)
    if len(entry) == 5 and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w*", name)):
        raise YoloflowError(f"{place}: a row's name is a letter, then letters, digits and _; found {name!r}")
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise YoloflowError(f"{place} ({name}): number must be a whole number from 1, found {number!r}")
    known = layer_names()
    if module not in known:
        raise YoloflowError(f"{place} ({name}): no layer {module!r}; {nearest_names(str(module), known)}")
    if not _is_list(args):
        raise YoloflowError(f"{place} ({name}): args must be a list, found {args!r}")
    return _Row(f"{place} ({name})", name, source, number, module, find_layer(module), list(args))


def _sources(row: _Row, earlier: list[str]) -> tuple[int, ...]:
    """Returns the positions that `from` names; `earlier` are the names of the rows above."""
    entries = row.source if _is_list(row.source) else [row.source]
    sources = tuple(_source(row, entry, earlier) for entry in entries)
    takes_several = row.layer_class.takes_several
    if not sources or (len(sources) > 1 and not takes_several):
        wanted = "one map or more" if takes_several else "one map"
        raise YoloflowError(f"{row.place}: {row.module} takes {wanted}, from names {len(sources)}")
    return sources


def _source(row: _Row, entry: Any, earlier: list[str]) -> int:
    here = len(earlier)
    if isinstance(entry, str):
        if entry not in earlier:
            raise YoloflowError(f"{row.place}: from: no row {entry!r} above; {nearest_names(entry, earlier)}")
        return earlier.index(entry)
    if not isinstance(entry, int) or isinstance(entry, bool):
        raise YoloflowError(f"{row.place}: from: expected a row's name or number, found {entry!r}")
    position = entry if entry >= 0 else here + entry
    if position >= here or position < IMAGES or (position == IMAGES and here > 0):
        raise YoloflowError(f"{row.place}: from: {entry} is no row above this one, which is row {here}")
    return position


def _build_layer(row: _Row, context: LayerRow, words: Mapping[str, Any]) -> Layer:
    if row.layer_class.takes_repeats or context.repeats == 1:
        return _build_one(row, context, words)
    layers: list[Layer] = []
    for _ in range(context.repeats):
        layer = _build_one(row, context, words)
        context = replace(context, inputs=[layer.output_shape(context.inputs)])
        layers.append(layer)
    return Stack(*layers)


def _build_one(row: _Row, context: LayerRow, words: Mapping[str, Any]) -> Layer:
    from_row = row.layer_class.from_row
    positional, keywords = _resolve_args(row, words)
    signature = inspect.signature(from_row)
    try:
        bound = signature.bind(context, *positional, **keywords)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        raise YoloflowError(
            f"{row.place}: {row.module} takes [{known}]: {error}, found {row.args}"
        ) from error
    try:
        return from_row(*bound.args, **bound.kwargs)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise YoloflowError(f"{row.place}: {row.module} with args {row.args}: {error}") from error


def _resolve_args(row: _Row, words: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Returns positional and `key=value` arguments, words looked up."""
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for value in row.args:
        key, is_keyword, text = value.partition("=") if isinstance(value, str) else ("", "", "")
        if is_keyword:
            keywords[key.strip()] = _resolve(row, _number(text.strip()), words)
        elif keywords:
            raise YoloflowError(f"{row.place}: {value!r} follows a key=value argument; put it before")
        else:
            positional.append(_resolve(row, value, words))
    return positional, keywords


def _resolve(row: _Row, value: Any, words: Mapping[str, Any]) -> Any:
    if _is_list(value):
        return [_resolve(row, entry, words) for entry in value]
    if not isinstance(value, str):
        return value
    if value in words:
        return words[value]
    if value in SETTINGS:
        raise YoloflowError(f"{row.place}: args use {value!r}, but network.{value} is not set")
    raise YoloflowError(f"{row.place}: args: unknown word {value!r}; {nearest_names(value, words)}")


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
