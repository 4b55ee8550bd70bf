"""The docs are true: their code runs, their commands parse, their paths exist."""

import ast
import contextlib
import importlib
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from yoloflow.callbacks import CALLBACKS
from yoloflow.cli import app
from yoloflow.config.reader import list_recipes, load_config
from yoloflow.config.validation import describe_keys
from yoloflow.data.formats import FORMATS
from yoloflow.data.problems import KINDS
from yoloflow.data.transforms import TRANSFORMS
from yoloflow.data.transforms.rows import describe_transforms
from yoloflow.evaluation.metrics import METRICS
from yoloflow.families import FAMILIES
from yoloflow.models.layer_classes import LAYERS
from yoloflow.report.prediction_formats import FORMATS as PREDICTION_FORMATS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "yoloflow"
README = ROOT / "README.md"
# Pages whose code belongs together run as one; the Chinese pages have the same code (tests/test_site.py).
STEPS = [ROOT / "docs/steps/index.md", *sorted((ROOT / "docs/steps").glob("[1-8]-*[a-z].md"))]
WALKS = [[README], STEPS] + [
    [page] for page in sorted((ROOT / "docs").glob("*.md")) if not page.name.endswith(".zh.md")
]
PAGES = [page for walk in WALKS for page in walk]
NOT_RUN = re.compile(r"# Not run in our tests: \w.*\.\n")
"""The first line of a block that is parsed only, with the reason."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Where a command is quoted in the text: `yoloflow train quickstart`.
QUOTED = re.compile(r"`(yoloflow [^`\n]+)`")


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, text and first line of every fenced block."""
    text = page.read_text()
    return [(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in BLOCK.finditer(text)]


@pytest.fixture(autouse=True)
def _tables_restored() -> Iterator[None]:
    """The tables that examples add to are afterwards as they were."""
    tables: tuple[dict[str, Any], ...] = (
        CALLBACKS,
        FAMILIES,
        FORMATS,
        LAYERS,
        METRICS,
        PREDICTION_FORMATS,
        TRANSFORMS,
    )
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def name_of(walk: list[Path]) -> str:
    return walk[0].relative_to(ROOT).as_posix()


def run_blocks(walk: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the Python of pages in a folder; what a block prints is what the next one shows."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    names: dict[str, object] = {"__name__": f"docs.{walk[0].stem}"}
    for page in walk:
        run_blocks_of_page(page, names)


def run_blocks_of_page(page: Path, names: dict[str, object]) -> None:
    printed = ""
    for language, text, line in blocks(page):
        if language == "python" and NOT_RUN.match(text):
            ast.parse(text)
        elif language == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                # Blank lines bring the page's own line numbers into tracebacks.
                exec(compile("\n" * line + text, str(page), "exec"), names)
            printed = output.getvalue()
        elif printed:
            assert language == "text", f"{page.name}:{line}: the block before printed something"
            assert printed == text, f"{page.name}:{line}"
            printed = ""


def walks_with_code(trains: bool) -> list[list[Path]]:
    """The pages with blocks of Python, those that train a network or the others."""
    calls = re.compile(r"(?<!def )\btrain\(")
    found = []
    for walk in WALKS:
        code = "".join(text for page in walk for language, text, _ in blocks(page) if language == "python")
        if code and (calls.search(code) is not None) == trains:
            found.append(walk)
    return found


@pytest.mark.parametrize("walk", walks_with_code(trains=False), ids=name_of)
def test_the_python_blocks_of_a_page_run_one_after_the_other(
    walk: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocks(walk, tmp_path, monkeypatch)


@pytest.mark.training
@pytest.mark.parametrize("walk", walks_with_code(trains=True), ids=name_of)
def test_the_python_blocks_of_a_page_that_trains_run_one_after_the_other(
    walk: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_blocks(walk, tmp_path, monkeypatch)


@pytest.mark.parametrize("walk", walks_with_code(trains=True), ids=name_of)
def test_the_imports_of_a_page_that_trains_exist(walk: list[Path]) -> None:
    for page in walk:
        for language, text, line in blocks(page):
            if language == "python":
                imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
                for node in imports:
                    if node.module is not None and node.module.split(".")[0] == "yoloflow":
                        module = importlib.import_module(node.module)
                        for alias in node.names:
                            assert hasattr(module, alias.name), f"{page.name}:{line} {alias.name}"


def commands(page: Path) -> list[str]:
    """Every `yoloflow ...` of a page, in bash blocks and in the text."""
    text = page.read_text()
    lines = [line for language, block, _ in blocks(page) if language == "bash" for line in block.splitlines()]
    found = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in found if part.startswith("yoloflow ")] + QUOTED.findall(BLOCK.sub("", text))


def all_commands() -> list[str]:
    # <placeholders> in a sentence are no commands to type.
    return sorted({command for page in PAGES for command in commands(page) if "<" not in command})


def test_there_are_commands_to_check() -> None:
    assert len(all_commands()) > 10


@pytest.mark.parametrize("command", all_commands())
def test_every_command_of_the_docs_parses_and_its_settings_load(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.yaml").write_text("{train: a.txt, val: b.txt, names: [cat]}")
    monkeypatch.chdir(tmp_path)
    _, name, *arguments = [word for word in shlex.split(command) if word != ">"]
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    subcommand = group.commands[name]
    if not arguments or "--help" in arguments:
        return
    if "mine.yaml" in arguments:  # where a shell would write
        arguments.remove("mine.yaml")
    values = subcommand.make_context(name, arguments).params
    recipe = values.get("recipe") or values.get("run_or_recipe")
    if recipe is None:
        return
    if recipe.startswith("runs/"):
        recipe = "yolov8n"
    assert recipe in {info.name for info in list_recipes()}
    overrides = [
        "data=data.yaml" if text.startswith("data=") else text
        for text in values.get("overrides") or []
        if not text.startswith("memory=")  # of `yoloflow plan` itself
    ]
    load_config(recipe, overrides)


def file_map() -> list[str]:
    """The paths that the file map names."""
    section = (ROOT / "docs/house.md").read_text().split("## File map")[1]
    block = BLOCK.search(section)
    assert block is not None
    return [line.split()[0] for line in block[2].splitlines() if line]


def test_the_file_map_names_every_room_and_nothing_that_is_not_there() -> None:
    named = file_map()
    assert len(named) == len(set(named))
    missing = [name for name in named if not (PACKAGE / name).exists()]
    assert missing == []
    rooms = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")} | {"recipes/"}
    files = {path.name for path in PACKAGE.glob("*.py")}
    assert rooms | files == {
        name for name in named if name.count("/") < 1 or name.index("/") == len(name) - 1
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = BLOCK.sub("", page.read_text())
    for path in re.findall(r"`((?:docs|tests|yoloflow|benchmarks|examples)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{page.name} names {path}"
    for name in re.findall(r"`yoloflow((?:\.\w+)+)[`(]", text):
        found: Any = importlib.import_module("yoloflow")
        for part in name[1:].split("."):
            if not hasattr(found, part):
                importlib.import_module(f"{found.__name__}.{part}")
            found = getattr(found, part)


def test_the_data_page_names_every_problem_and_every_transform_with_its_parameters() -> None:
    text = (ROOT / "docs/data.md").read_text()
    kinds = re.findall(r"^\| `(\w+(?:-\w+)+)`(.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    marks = {"needs_pixels": "(pixels)", "is_remark": "(remark)"}
    assert {name: (meaning, actions) for name, _, meaning, actions in kinds} == {
        name: (kind.meaning, ", ".join(kind.actions)) for name, kind in KINDS.items()
    }
    for name, marked, _, _ in kinds:
        assert marked.split() == [mark for key, mark in marks.items() if getattr(KINDS[name], key)]
    transforms = {name: parameters for name, parameters, _ in describe_transforms()}
    rows = re.findall(
        r"^\| (`[a-z_0-9]+`(?:, `\w+`)*) \| ((?:`\w+` [^`|]+)*)\| ",
        text.split("| func_name |")[1],
        re.MULTILINE,
    )
    documented = {name: parameters for names, parameters in rows for name in re.findall(r"\w+", names)}
    assert len(documented) > 10
    for name, parameters in documented.items():
        assert parameters.strip() == re.sub(r"(\w+)=", r"`\1` ", transforms[name]), name


def test_the_config_page_names_every_group_of_keys() -> None:
    text = (ROOT / "docs/config.md").read_text()
    table = "".join(line for line in text.splitlines() if line.startswith("| `"))
    for key, _, _, _ in describe_keys():
        section, dot, _ = key.partition(".")
        assert f"`{section}{dot}`" in table, key


def test_the_places_that_ask_for_masks_are_those_that_the_page_lists() -> None:
    page = (ROOT / "docs/segmentation.md").read_text()
    table = page[page.index("| asked | where |") : page.index("## The mask of a box")]
    listed = {word for word in re.findall(r"`([\w/.]+)`", table) if word.endswith((".py", "/"))}
    asks = re.compile(r'\bconfig\.task\b|takes_masks\(|\.takes_masks\b|\.mask_channels\b|"mask_channels"')
    makers = {"losses/staged.py", "losses/segment.py"}  # they say it, and do not ask
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if asks.search(path.read_text()) and "mindyolo" not in path.parts
    } - makers
    assert found == {name for name in found if name in listed or f"{name.split('/')[0]}/" in listed}
    assert {name for name in listed if name.endswith(".py")} <= found
