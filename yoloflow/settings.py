"""What all sections of a recipe share: strict types, and the kinds of values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


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


class Section(BaseModel):
    """What all sections share: strict types, no unknown keys, no later changes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
