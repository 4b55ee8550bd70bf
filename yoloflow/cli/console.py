"""Shared by all commands: the application, arguments, messages, and files that a command writes."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import re
import shutil
import sys
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from yoloflow.runtime.messages import fit_width, message_handler

if TYPE_CHECKING:
    from yoloflow.structures import YoloflowError


class Command(TyperCommand):
    """A command that says how options of other trainers are written here."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """Returns the first sentence of the help, whole: the list of commands breaks it into lines."""
        return super().get_short_help_str(sys.maxsize)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the command line, or refuses options that there are not with the line to write instead."""
        known = {"--help", "-h"}.union(
            *(parameter.opts + parameter.secondary_opts for parameter in self.params)
        )
        options = [text.split("=")[0] for text in takewhile(lambda text: text != "--", args)]
        if any(re.match(r"-+[a-zA-Z]", option) and option not in known for option in options):
            from yoloflow.cli.foreign_options import rewrite

            raise mistake(rewrite(ctx.command_path, args, self.params))
        return list(super().parse_args(ctx, args))


class Commands(TyperGroup):
    """The commands, and what other trainers call them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command, or names ours for another trainer's."""
        if args and args[0] not in self.commands:
            from yoloflow.config.foreign_names import COMMANDS

            if "=" in args[0]:
                raise mistake(f"{args[0]}: a command comes first: `yoloflow train RECIPE {args[0]}`")
            if args[0] in COMMANDS:
                raise mistake(f"there is no command {args[0]}; here it is: yoloflow {COMMANDS[args[0]]}")
        return super().resolve_command(ctx, args)


class KeyValueCommand(Command):
    """A command whose options may be given as `key=value` too: `conf_thres=0.5` for `--conf-thres 0.5`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Makes options of `key=value`; other texts of that form, settings of a recipe, stay arguments."""
        options = {name: option for option in self.params for name in option.opts if name.startswith("--")}
        given: list[str] = []
        for text in args:
            key, sign, value = text.partition("=")
            name = f"--{key.replace('_', '-')}"
            option = options.get(name) if sign and not key.startswith("-") else None
            given += [text] if option is None else _as_option(name, option, value)
        return super().parse_args(ctx, given)


def _as_option(name: str, option: Any, value: str) -> list[str]:
    """Returns the arguments that give an option a value."""
    if option.is_flag:
        if value.lower() not in ("true", "false"):
            raise mistake(f"{name.removeprefix('--').replace('-', '_')}={value}: must be true or false")
        chosen: list[str] = option.opts if value.lower() == "true" else option.secondary_opts
        return chosen[:1]
    if value in ("null", "None", "none"):
        return []
    several = value.strip("[]").split(",") if option.multiple else [value]
    return [part for single in several for part in (name, single.strip())]


class SettingsCommand(Command):
    """A command whose help also lists every setting of a recipe and every transform."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the options, then the settings (pydantic is imported only now)."""
        super().format_help(ctx, formatter)
        from yoloflow.config.validation import describe_keys

        typer.echo("Settings (KEY=VALUE, any of a recipe's keys):\n")
        for key, kind, default, description in describe_keys():
            show(f"  {key} ({kind}; {default})")
            show(f"      {description}", hang=6)
        from yoloflow.data.transforms.rows import describe_transforms

        typer.echo("\nTransforms (rows {func_name: NAME, prob: 1, KEY: VALUE}):\n")
        for name, parameters, description in describe_transforms():
            show(f"  {name} ({parameters or 'no parameters'})")
            show(f"      {description}", hang=6)


app = typer.Typer(
    name="yoloflow",
    help="Train and evaluate YOLO detectors in eight visible steps.",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    from yoloflow.config.recipes import list_recipes

    return [(info.name, info.summary) for info in list_recipes() if info.name.startswith(incomplete)]


def _complete_setting(incomplete: str) -> list[tuple[str, str]]:
    if not incomplete:  # files are offered at once, settings take a second
        return []
    from yoloflow.config.validation import describe_keys

    found = ((f"{key}=", description) for key, _kind, _default, description in describe_keys())
    return [(key, description) for key, description in found if key.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="a recipe's name (see `yoloflow recipes`), a YAML file or a run folder",
        autocompletion=_complete_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="settings over the recipe's, such as optimizer.lr_init=0.02",
        autocompletion=_complete_setting,
    ),
]


def _show_version(asked: bool) -> None:
    if asked:
        packages = ("yoloflow", "torch", "torchvision", "numpy", "opencv-python-headless")
        for package in packages:
            typer.echo(f"{package} {version(package)}")
        typer.echo(f"python {platform.python_version()} ({platform.platform()})")
        raise typer.Exit


@app.callback()
def _configure(
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    levels = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}
    if log_level.lower() not in levels:
        raise mistake(f"--log-level {log_level}: known are debug, info, warning and error")
    # A file name that is no UTF-8 is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("yoloflow")
    if not logger.handlers:
        logger.addHandler(message_handler())
    logger.setLevel(levels[log_level.lower()])


def show(text: str, hang: int | None = None, *, err: bool = False) -> None:
    """Prints lines; in a terminal those that are too wide for it are broken between words.

    Args:
        text: lines.
        hang: columns that continued lines are indented by; None: two more than the line.
        err: print on stderr.
    """
    if (sys.stderr if err else sys.stdout).isatty():
        text = fit_width(text, shutil.get_terminal_size().columns, hang)
    typer.echo(text, err=err)


def show_path(path: Path) -> None:
    """Prints the path of a result for scripts, unless a message has just shown it in the same terminal."""
    shown = sys.stderr.isatty() and logging.getLogger("yoloflow").isEnabledFor(logging.INFO)
    if not (shown and sys.stdout.isatty()):
        typer.echo(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that the user asked for."""
    write(path, (json.dumps(content, indent=1) + "\n").encode())


def write(path: Path, content: bytes) -> None:
    """Writes a file that the user asked for; failing to is the user's mistake."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise mistake(f"{path}: cannot be written ({error.strerror})") from error


def make_place(path: Path) -> None:
    """Makes the folder of a file that will be written after long work, or says now that it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise mistake(f"{path}: cannot be written ({error.strerror})") from error
    if path.is_dir():
        raise mistake(f"{path}: is a folder; give the name of a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise mistake(f"{path}: cannot be written (Permission denied)")


def mistake(message: str) -> YoloflowError:
    """Returns the error of a wrong command line."""
    # Imported only now: it brings numpy, half of what `--help` would cost.
    from yoloflow.structures import YoloflowError

    return YoloflowError(message)
