"""The pages for those who move over are true: keys, defaults, hooks and commands."""

import json
import re
from pathlib import Path

import pytest

from yoloflow.callbacks import BaseCallback
from yoloflow.config.validation import describe_keys
from yoloflow.data.transforms.rows import describe_transforms
from yoloflow.mindyolo import BaseCallback as OldCallback

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "moving-from-mindyolo.md", DOCS / "moving-from-ultralytics.md"]


def rows(page: Path, columns: int) -> list[list[str]]:
    """Rows of the tables with so many columns, without their headings."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if len(row) == columns and row[0].startswith("`")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_settings_exist_with_the_default_that_the_page_states(page: Path) -> None:
    defaults = {key: default for key, _, default, _ in describe_keys()}
    table = [row for row in rows(page, 5) if len(row) == 5]
    assert len(table) > 25
    for _, _, ours, default, _ in table:
        key = ours.strip("`")
        assert key in defaults, key
        assert defaults[key] == f"default {json.dumps(json.loads(default))}", key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_hooks_of_the_page_are_those_that_are_called(page: Path) -> None:
    section = page.read_text().split("## Callbacks")[1].split("\n## ")[0]
    table = [
        [part.strip() for part in line.strip("|").split("|")]
        for line in section.splitlines()
        if line[:1] == "|"
    ]
    ours = {name for row in table[2:] for name in re.findall(r"`(\w+)`", row[1])}
    assert ours <= set(BaseCallback.hooks)
    if page.stem.endswith("mindyolo"):
        assert ours == set(BaseCallback.hooks)
        theirs = {name for row in table[2:] for name in re.findall(r"`(\w+)`", row[0])}
        assert theirs == set(OldCallback.hooks) - set(BaseCallback.hooks) | {"on_train_begin", "on_train_end"}


def test_transforms_of_the_page_have_these_parameters() -> None:
    known = {
        name: {*re.findall(r"(\w+)=", parameters), "prob"} for name, parameters, _ in describe_transforms()
    }
    found = [row for row in rows(PAGES[1], 3) if re.match(r"`\w+`: ", row[2])]
    assert len(found) >= 6
    for theirs, _, ours in found:
        name, *parameters = re.findall(r"`(\w+)`", ours)
        if "the same names" in ours:
            parameters = re.findall(r"`(\w+)`", theirs)
        assert set(parameters) <= known[name], name
