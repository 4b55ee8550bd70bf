"""Sections of a recipe: strict types, kinds of values, and errors that name their key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from yoloflow.structures import YoloflowError


def _word_of_number(value: object) -> object:
    # `name=7` and the class names of digits are words although YAML reads them as numbers.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Word = Annotated[str, BeforeValidator(_word_of_number)]
Words = list[Word]
Row = dict[str, Any]
OneOrMore = str | list[str]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

Keys = tuple[str | int, ...]


class Section(BaseModel):
    """A group of settings with strict types, no unknown keys and no later changes.

    Raises:
        YoloflowError: a line `key: what is wrong` for each fault of the values.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise YoloflowError("\n".join(_lines(error, values))) from error

    # Tells pydantic that sections which are read from YAML, and sections in sections, need not call this.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def key_error(key: str, text: str) -> PydanticCustomError:
    """Makes the error of one key, for checks of a section as a whole.

    Args:
        key: dotted, from the section that is checked.
        text: what is wrong.
    """
    return PydanticCustomError("key_error", "{text}", {"key": key, "text": text})


def location(fault: ErrorDetails) -> Keys:
    """Returns the keys that lead to a fault; names of union branches are among them."""
    key: str = fault["ctx"]["key"] if fault["type"] == "key_error" else ""
    return (*fault["loc"], *filter(None, key.split(".")))


def describe(fault: ErrorDetails) -> str:
    """Returns what is wrong at the location of a fault."""
    kind, message = fault["type"], fault["msg"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind in ("key_error", "value_error"):
        return message.removeprefix("Value error, ")
    if kind in ("model_type", "dict_type"):
        message = "Input should be a section with keys"
    return f"{message.removeprefix('Input ')}, not {_given(fault['input'])}"


def _given(value: object) -> str:
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else repr(value)


def dotted_name(keys: Keys) -> str:
    """Returns `("data", "train_transforms", 0)` as `data.train_transforms.0`."""
    return ".".join(str(key) for key in keys)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `{"loss": {"box": 7.5}}` as `{"loss.box": 7.5}`; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _lines(error: ValidationError, values: dict[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for fault in error.errors(include_url=False):
        keys = location(fault)
        # A value that fits no type of a union is a fault of each, whose name follows the key.
        is_of_union = len(keys) > 1 and fault["input"] is values.get(str(keys[-2]))
        found.setdefault(dotted_name(keys[:-1] if is_of_union else keys), []).append(describe(fault))
    return [": ".join(filter(None, (key, "; or: ".join(texts)))) for key, texts in found.items()]
