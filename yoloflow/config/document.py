"""YAML files as trees that remember where each value was written.

Plain scalars follow YAML 1.2's core schema: `1e-3` is a number, `on`, `no` and dates are words.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yoloflow.files import decoded
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

MAX_NODES = 100_000
BASE_KEY = "__BASE__"

Scalar = str | int | float | bool | None

_TAG = "tag:yaml.org,2002:"
_SCALAR_PATTERNS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^-?(?:0|[1-9][0-9]*)$", list("-0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)


_NO_UTF8 = re.compile("[\\udc80-\\udcff]")


class _Loader(yaml.SafeLoader):
    """Composes nodes only; values are made by `_Converter`."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def check_printable(self, data: str) -> None:
        """Refuses control characters, but not what stands for bytes of a file name that are no UTF-8."""
        super().check_printable(_NO_UTF8.sub("?", data))


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would not read as the same text; lists of plain values stay on a line."""

    def ignore_aliases(self, data: object) -> bool:
        return True


for _kind, _pattern, _first in _SCALAR_PATTERNS:
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), _first)


def _holds_mapping(value: object) -> bool:
    if isinstance(value, list):
        return any(_holds_mapping(item) for item in value)
    return isinstance(value, Mapping)


def _represent_list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    # A table of rows reads best as one row a line, so only its rows are written inline.
    is_table = bool(value) and all(isinstance(item, list) for item in value)
    node = dumper.represent_sequence(
        _TAG + "seq", value, flow_style=not is_table and not _holds_mapping(value)
    )
    for child in node.value:
        if isinstance(child, yaml.MappingNode):
            child.flow_style = all(isinstance(item, yaml.ScalarNode) for _, item in child.value)
    return node


_Dumper.add_representer(list, _represent_list)


@dataclass(frozen=True, slots=True)
class Located:
    """A value and where it was written.

    Attributes:
        value: a scalar, a list of `Located`, or a dict of `Located` by key.
        place: "file:line", or the command line's "key=value".
    """

    value: Scalar | list[Located] | dict[str, Located]
    place: str

    @property
    def mapping(self) -> dict[str, Located]:
        """The values of a mapping by key; empty where this is none."""
        return self.value if isinstance(self.value, dict) else {}

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(slots=True)
class _Converter:
    """Turns one document's nodes into `Located` values.

    Attributes:
        name: the file, or the override.
        has_lines: whether places name the line too.
    """

    name: str
    has_lines: bool = True
    count: int = 0

    def convert(self, node: yaml.Node, inside: tuple[int, ...] = ()) -> Located:
        place = self.place(node)
        self.count += 1
        if self.count > MAX_NODES:
            raise YoloflowError(
                f"{place}: more than {MAX_NODES} values (aliases included); write a smaller file"
            )
        if id(node) in inside:
            raise YoloflowError(f"{place}: this value contains itself through an alias; write it out")
        inside = (*inside, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return Located(self.mapping(node, inside), place)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return Located([self.convert(child, inside) for child in node.value], place)
        if isinstance(node, yaml.ScalarNode):
            return Located(self.scalar(node), place)
        raise self.unknown_tag(node)

    def mapping(self, node: yaml.MappingNode, inside: tuple[int, ...]) -> dict[str, Located]:
        result: dict[str, Located] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise YoloflowError(f"{place}: a key must be a word, not a list or a mapping")
            key = str(key_node.value)
            if key == "<<":
                raise YoloflowError(f"{place}: merge keys `<<` are not read; use {BASE_KEY} for a base file")
            if key in result:
                raise YoloflowError(
                    f"{place}: duplicate key {key}, first at {result[key].place}; keep one of them"
                )
            result[key] = Located(self.convert(value_node, inside).value, place)
        return result

    def scalar(self, node: yaml.ScalarNode) -> Scalar:
        text = str(node.value)
        # JSON, which is YAML too, writes a character beyond 16 bits as two escapes.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        kind = node.tag.removeprefix(_TAG)
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as error:
            raise YoloflowError(f"{self.place(node)}: {text!r} is no {kind}") from error
        raise self.unknown_tag(node)

    def unknown_tag(self, node: yaml.Node) -> YoloflowError:
        return YoloflowError(
            f"{self.place(node)}: unknown YAML tag {node.tag}; "
            "only plain words, numbers, lists and mappings are read"
        )

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.has_lines else self.name


def _compose(text: str, name: str, has_lines: bool = True) -> list[yaml.Node]:
    try:
        return [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark and has_lines else name
        context = f"{error.context}, " if error.context else ""
        # People write Windows' paths so.
        is_escape = "unknown escape character" in str(error.problem)
        hint = "; within double quotes \\ begins an escape: write / or single quotes" if is_escape else ""
        raise YoloflowError(f"{place}: not valid YAML: {context}{error.problem}{hint}") from error
    except yaml.YAMLError as error:
        raise YoloflowError(f"{name}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise YoloflowError(f"{name}: nested too deeply to be read") from error


def read_yaml(path: Path) -> Located:
    """The mapping of one YAML file; `__BASE__` is not followed.

    Raises:
        YoloflowError: no such file, no text in UTF-8 or marked UTF-16, not YAML,
            a duplicate key, an unknown tag, or no mapping.
    """
    name = str(path)
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise YoloflowError(f"{name}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise YoloflowError(
            f"{name}: not a text file in UTF-8 or UTF-16 ({error.reason} at byte {error.start})"
        ) from error
    nodes = _compose(text, name)
    if not nodes:
        return Located({}, name)
    if len(nodes) > 1:
        logger.warning("%s: only the first of its %d YAML documents is read", name, len(nodes))
    if not isinstance(nodes[0], yaml.MappingNode):
        raise YoloflowError(f"{name}: holds a single value or a list, not `key: value` lines")
    return Located(_Converter(name).convert(nodes[0]).value, name)


def read_value(text: str, place: str) -> Located:
    """A YAML value from the command line (a scalar, or a list or mapping in one line).

    Raises:
        YoloflowError: not valid YAML; the message starts with `place`.
    """
    nodes = _compose(text, place, has_lines=False)
    if len(nodes) > 1:
        raise YoloflowError(f"{place}: one value is expected, not {len(nodes)} documents")
    return _Converter(place, has_lines=False).convert(nodes[0]) if nodes else Located(None, place)


def merge(base: Located, top: Located) -> Located:
    """`top` over `base`: mappings are merged key by key, everything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Located(merged, top.place)


def write_yaml(value: Mapping[str, Any]) -> str:
    """YAML text that `read_yaml` (and a YAML 1.1 reader) reads back as the same value."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
