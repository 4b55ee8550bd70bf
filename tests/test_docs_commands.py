"""Every command line that a page shows exists: commands to their last option, scripts, extras."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from yoloflow.cli import app

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROMPT = re.compile(r"^(?:\w+=\S* )*(?:torchrun .*? -m |python3? -m )?(yoloflow .*)$")
SCRIPT = re.compile(r"\bpython3? (?:-m )?((?:examples|benchmarks)[./]\w+(?:\.py)?)")
EXTRA = re.compile(r"pip install (?:-e )?'?(?:yoloflow|\.)\[([\w,]+)\]")


def pages() -> list[Path]:
    folders = (ROOT, ROOT / "benchmarks", ROOT / "tests")
    return sorted({path for folder in folders for path in folder.glob("*.md")} | {*ROOT.glob("docs/**/*.md")})


def shown_lines(text: str) -> Iterator[str]:
    """The lines of bash blocks, each command of `a && b` alone, comments and redirections left out."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r" (?:&&|\|) ", line):
                yield re.sub(r" (?:> |# ).*$", "", part.strip())


COMMANDS = sorted(
    {
        found[1]
        for page in pages()
        for line in shown_lines(page.read_text())
        if (found := PROMPT.match(line)) and "<" not in found[1]
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_has_no_word_that_its_command_does_not_know(command: str) -> None:
    words = shlex.split(command)[1:]
    found = typer.main.get_command(app)
    context = typer.Context(found)
    while isinstance(found, TyperGroup) and words and not words[0].startswith("-"):
        name = words.pop(0)
        below = found.get_command(context, name)
        assert below is not None, f"{name} is no command of {found.name}"
        found, context = below, typer.Context(below, info_name=name, parent=context)
    if isinstance(found, TyperGroup) or "--help" in words:
        assert all(
            word in option.opts for word in words if word != "--help" for option in found.params
        ) or words in (["--help"], ["--version"], ["--install-completion"], [])
        return
    found.make_context(found.name, words, parent=context.parent)


def test_there_are_commands_of_every_group() -> None:
    groups = {shlex.split(command)[1] for command in COMMANDS}
    assert {"train", "test", "predict", "export", "plan", "data", "weights", "report", "watch"} <= groups


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_scripts_and_extras_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text()
    for name in SCRIPT.findall(text):
        path = ROOT / name.removesuffix(".py").replace(".", "/")
        assert path.with_suffix(".py").is_file(), f"{page.name}: {name}"
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for extras in EXTRA.findall(text) for extra in extras.split(",")}
    assert named <= known.keys()
