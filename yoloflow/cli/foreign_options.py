"""Rewrites command lines of other trainers, such as `--config FILE --batch-size 8`, in our form."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from yoloflow.config.foreign_names import ADVICE, RECIPE_NAMES, hint_for_key, hint_for_value, plain_name
from yoloflow.config.mindyolo import RENAMED, UNUSED
from yoloflow.config.validation import describe_keys
from yoloflow.structures import nearest_names

_OTHER_OPTIONS = {"save_dir": "--out"}
"""What commands that write one file or folder call a setting."""


def is_option(text: str) -> bool:
    """Returns whether an argument is an option, and not `-` or a number below 0."""
    return re.match(r"-+[a-zA-Z]", text) is not None


def rewrite(command: str, arguments: Sequence[str], parameters: Sequence[Any]) -> str:
    """Returns the message that refuses options which there are not.

    Args:
        command: as it was typed, such as `yoloflow train`.
        arguments: what follows the command.
        parameters: of the command, from typer.
    """
    ours = {
        option: parameter
        for parameter in parameters
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    takes_settings = any(parameter.name == "overrides" for parameter in parameters)
    settings = {dotted for dotted, *_ in describe_keys()}
    first: list[str] = []
    rest: list[str] = []
    remarks: list[str] = []
    unknown = [text.split("=")[0] for text in arguments if is_option(text) and text.split("=")[0] not in ours]
    for option, value in _options(arguments, ours):
        name = plain_name(option)
        name = RENAMED.get(name, name)
        if not option:
            rest.append(value or "")
        elif option in ours:
            rest += [option] if value is None else [option, value]
        elif name in RECIPE_NAMES and value is not None:
            first.append(value)
        elif name in UNUSED or name in ADVICE:
            remarks.append(f"{option}: {UNUSED.get(name) or ADVICE[name]}")
        else:
            known = (
                hint_for_value(name, _plain(value)) if name in settings else hint_for_key(name, _plain(value))
            )
            if not known and name not in settings:
                hint = nearest_names(option, [*filter(is_option, ours), "--help"])
                remarks.append(f"{option}: there is no such option or setting; {hint}")
                continue
            written = (known or f"{name}={_text(value)}").removeprefix("here it is ")
            key, _, value = written.partition("=")
            own = "--" + key.rpartition(".")[2].replace("_", "-")
            own = own if own in ours else _OTHER_OPTIONS.get(key, own)
            if own in ours or takes_settings:
                rest += [own, value] if own in ours else [written]
            else:
                remarks.append(f"{option}: this command takes no settings")
    line = " ".join([command, *(text if "|" in text else shlex.quote(text) for text in (*first, *rest))])
    name, options = command.rpartition(" ")[2], ", ".join(unknown)
    form = "settings are KEY=VALUE: write" if takes_settings else "write"
    told = f"{name}: there is no option {options}; {form}"
    return "\n  ".join([told, line, *remarks])


def _options(arguments: Sequence[str], ours: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Options with their values (None: a switch), and arguments as values of no option."""
    left = list(arguments)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if not is_option(option):
            yield "", option + equals + value
        elif equals:
            yield option, value
        elif option in ours and getattr(ours[option], "is_flag", False):
            yield option, None
        elif left and not is_option(left[0]) and (option in ours or "=" not in left[0]):
            yield option, left.pop(0)
        else:
            yield option, None


def _plain(value: str | None) -> object:
    """A value as YAML reads it, as far as the table of values cares."""
    if value is None or value.lower() == "true":
        return True
    return False if value.lower() == "false" else value


def _text(value: str | None) -> str:
    return "true" if value is None else value.lower() if value in ("True", "False") else value
