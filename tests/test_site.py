"""The pages in two languages say the same, the site has all of them, and its links lead somewhere."""

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import yoloflow

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ENGLISH = sorted(page for page in DOCS.rglob("*.md") if not page.name.endswith(".zh.md"))
CHINESE = sorted(DOCS.rglob("*.zh.md"))
PAIRS = [(ROOT / "README.md", ROOT / "README.zh-CN.md")] + [
    (page.with_name(page.name.replace(".zh.md", ".md")), page) for page in CHINESE if page.name != "api.zh.md"
]
# What issue and site promise in both languages.
BOTH = ["index.md", "own-data.md", "finetuning.md", "moving-from-mindyolo.md", "moving-from-ultralytics.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Public names that are not in `yoloflow` itself, where the pages of the steps show them.
HOMES = {
    "StepSettings": "yoloflow.train_step.step",
    "create_schedule": "yoloflow.optim.schedule",
    "create_stage_loaders": "yoloflow.data.stage_loaders",
}


# Loaded here, not in a test: torch takes seconds.
PUBLIC = {name: getattr(yoloflow, name) for name in yoloflow.__all__ if name != "__version__"}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(pair: tuple[Path, Path]) -> str:
    return pair[1].relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(read(page))


def table_rows(page: Path) -> list[str]:
    return [line for line in BLOCK.sub("", read(page)).splitlines() if line.startswith("|")]


def facts(row: str) -> list[str]:
    """Code and figures of a row, in any order: what does not depend on the language."""
    code = re.findall(r"`([^`]+)`", row)
    text = re.sub(r"`[^`]+`|\]\([^)]*\)", " ", row)
    return sorted(code) + sorted(re.findall(r"\d[\d.,]*\d|\d", text))


def anchor(heading: str) -> str:
    """The anchor that a heading has in the repository and in the site."""
    text = re.sub(r"`|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def test_the_pages_that_must_be_in_both_languages_are() -> None:
    steps = [page for page in ENGLISH if page.parent.name == "steps"]
    assert len(steps) == 9
    for page in [*(DOCS / name for name in BOTH), *steps]:
        assert page.with_name(f"{page.stem}.zh.md") in CHINESE
    assert "](README.zh-CN.md)" in read(ROOT / "README.md")
    assert "](README.md)" in read(ROOT / "README.zh-CN.md")


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_both_languages_have_the_same_code_blocks(pair: tuple[Path, Path]) -> None:
    assert blocks(pair[1]) == blocks(pair[0])


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_both_languages_have_the_same_figures_and_settings_in_their_tables(pair: tuple[Path, Path]) -> None:
    ours, theirs = table_rows(pair[0]), table_rows(pair[1])
    assert len(ours) == len(theirs)
    for english, chinese in zip(ours, theirs, strict=True):
        assert facts(english) == facts(chinese), f"{english}\n{chinese}"


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_both_languages_quote_the_same_code_in_their_text(pair: tuple[Path, Path]) -> None:
    def quoted(page: Path) -> set[str]:
        return {" ".join(code.split()) for code in re.findall(r"`([^`]+)`", BLOCK.sub("", read(page)))}

    assert quoted(pair[0]) == quoted(pair[1])


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_both_languages_have_the_same_sections(pair: tuple[Path, Path]) -> None:
    first, second = (re.findall(r"^(#+) ", BLOCK.sub("", read(page)), re.MULTILINE) for page in pair)
    assert first == second


def anchors(page: Path) -> set[str]:
    """What links can name in a page: headings, and marks that keep the English name in a Chinese page."""
    text = BLOCK.sub("", read(page))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {anchor(line) for line in headings} | set(re.findall(r'<a id="(.*?)"></a>', text))


@pytest.mark.parametrize("page", [*ENGLISH, *CHINESE, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!\w+:)([^)\s#]*)(#[^)\s]*)?\)", BLOCK.sub("", read(page))):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {target}"
        if heading:
            # The Chinese site shows English pages too, and their links lead to Chinese ones.
            chinese = path.with_name(f"{path.stem}.zh.md")
            for place in [path, *([chinese] if target and chinese.exists() else [])]:
                assert heading[1:] in anchors(place), f"{page.name}: {place.name}{heading}"


@pytest.mark.parametrize("page", [*CHINESE, ROOT / "README.zh-CN.md"], ids=lambda page: page.name)
def test_chinese_pages_link_to_chinese_pages_where_there_are_some(page: Path) -> None:
    for target in re.findall(r"\]\((?!\w+:|#)([^)\s#]+\.md)", read(page)):
        path = (page.parent / target).resolve()
        if path.is_relative_to(DOCS) and not path.name.endswith(".zh.md"):
            assert not path.with_name(f"{path.stem}.zh.md").exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [*ENGLISH, *CHINESE], ids=lambda page: page.relative_to(DOCS).as_posix())
def test_tables_and_lists_begin_after_an_empty_line(page: Path) -> None:
    """Without one the repository shows a table, and the site a paragraph of bars."""
    lines = BLOCK.sub("", read(page)).splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        begins = line.startswith("|") and not before.startswith("|")
        begins |= line.startswith("- ") and not re.match(r"- |\s+\S", before)
        assert not begins or not before or before.startswith("#"), f"{page.name}: {line}"


def navigation(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [page for part in entries for page in navigation(part)]


def test_the_site_shows_every_page() -> None:
    config = re.sub(r"slugify: .*", "slugify: x", read(ROOT / "mkdocs.yml"))
    pages = navigation(yaml.safe_load(config)["nav"])
    assert len(pages) == len(set(pages))
    for page in pages:
        assert (DOCS / page).exists() or (ROOT / page).exists(), page
    assert {page.relative_to(DOCS).as_posix() for page in ENGLISH} <= set(pages)


def test_the_api_pages_have_every_public_name() -> None:
    paths = re.findall(r"^::: (\S+)$", read(DOCS / "api.md"), re.MULTILINE)
    assert len(paths) == len(PUBLIC)
    for path in paths:
        module, _, name = path.rpartition(".")
        assert getattr(import_module(module), name) is PUBLIC[name]
    rows = "".join(row.split(" | ")[0] for row in table_rows(DOCS / "api.zh.md"))
    assert set(re.findall(r"`(\w+)`", rows)) == set(PUBLIC)


def shown_signatures(page: Path) -> dict[str, str]:
    """Name and parameters of each function that the last block of a step's page shows."""
    text = re.sub(r"\s+", " ", blocks(page)[-1][1]).replace("( ", "(").replace(" )", ")")
    return dict(re.findall(r"([\w.]+)\(((?:[^()]|\(\))*)\)", text))


def signature(name: str) -> str:
    """Names and defaults of a function's parameters, as the pages write them."""
    value: Any = import_module(HOMES.get(name, "yoloflow"))
    for part in name.split("."):
        value = getattr(value, part)
    parts: list[str] = []
    for parameter in inspect.signature(value).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = repr(parameter.default).replace("'", '"')
        default = re.sub(r"^(\w+)\(.+\)$", r"\1()", default)
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        parts.append(
            f"{stars}{parameter.name}" + ("" if parameter.default is parameter.empty else f"={default}")
        )
    return ", ".join(parts)


@pytest.mark.parametrize("page", sorted((DOCS / "steps").glob("[1-8]-*[a-z].md")), ids=lambda page: page.stem)
def test_the_functions_of_a_step_have_the_parameters_that_its_page_shows(page: Path) -> None:
    found = shown_signatures(page)
    assert found
    for name, parameters in found.items():
        if parameters.endswith(", ..."):
            assert signature(name).startswith(parameters.removesuffix(", ...")), name
        else:
            assert parameters == signature(name), name


def test_the_small_data_page_states_what_the_file_of_settings_has() -> None:
    settings = yaml.safe_load(read(ROOT / "yoloflow/recipes/small_data.yaml"))
    rows = [row.strip("| ").split(" | ") for row in table_rows(DOCS / "small-data.md")[2:]]
    assert len(rows) == 5
    for name, _, value, _ in rows:
        found: Any = settings
        for part in name.strip("`").split("."):
            found = found[part]
        assert float(value) == found, name
