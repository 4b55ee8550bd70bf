"""Commands on data sets that take options for settings, and tell mistakes in these: convert, split."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from typing import Any

from yoloflow.cli.console import Command, mistake


class SourcesCommand(Command):
    """A command on data sets that takes options where others take settings of the section `data`."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; a mistake is told in its own options."""
        from yoloflow.structures import YoloflowError

        for source in ctx.params["sources"]:
            if re.match(r"[a-z]+(\.[a-z_-]+)*=", source) and not os.path.exists(source):
                raise mistake(f"{source}: {_instead(source)}")
        try:
            return super().invoke(ctx)
        except YoloflowError as error:
            raise YoloflowError(in_options(str(error))) from error


def in_options(text: str) -> str:
    """Returns a message with the options of these commands for settings of the section `data`."""
    for pattern, option in _OPTIONS:
        text = re.sub(rf"(?<![\w/.-]){pattern}", option, text)
    return text


def _instead(setting: str) -> str:
    """Returns what to write for KEY=VALUE."""
    if re.match(r"data(\.train_set|\.val_set)?=", setting):
        return f"sources have no key here; write {setting.partition('=')[2]}"
    option = in_options(setting)
    return "this command takes no settings" if option == setting else f"here it is {option}"


def _names(match: re.Match[str]) -> str:
    """Returns the options for a list of class names, or for a list that the user has to think of."""
    names = match[1].split(", ")
    if names[0] == "NAME":
        return "--name NAME for each class"
    return " ".join(f"--name {shlex.quote(name)}" for name in names)


def _policy(match: re.Match[str]) -> str:
    """Returns the option for an action about a kind of problem; others are named behind it."""
    kind, action, others = match.groups()
    return f"give --problems '{{{kind}: {action}}}'{f' (or {others})' if others else ''}"


_OPTIONS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (
        r"'data\.image_folder=\{train_set: FOLDER, val_set: FOLDER\}'",
        "--image-folder SPLIT=FOLDER in data convert",
    ),
    (r"set data\.image_folder to", "give --image-folder:"),
    (r"data\.image_folder=", "--image-folder "),
    (r"data\.image_folder", "--image-folder"),
    (r"set data\.problems\.([\w-]+) to ([\w-]+)(?: or ([\w -]+))?", _policy),
    (r"data\.problems\.([\w-]+)=([\w-]+)", r"--problems '{\1: \2}'"),
    (r"data\.problems[.=]", "--problems "),
    (r"set data\.names(=\[\.\.\.\])? to", "give --name NAME for each class:"),
    (r"data\.names=\[\.\.\.\]", "--name"),
    (r"'?data\.names=\[([^]]+)\]'?", _names),
    (r"data\.names\b", "--name"),
    (r"data\.nc=", "--nc "),
    (
        r"data\.kpt_shape=(\[[\w, ]+\]), or kpt_shape in the data set file, says",
        r"`kpt_shape: \1` in a data set file says",
    ),
    (r"data\.kpt_shape\b", "kpt_shape in a data set file"),
    (r"describes a data set: data=\S+", "describes a data set: give it as the source"),
    (r"set (--\w+)", r"give \1"),
)
