"""The site as it is built, in a headless Chromium: it fits narrow screens and asks nobody for anything."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.browser import Browser, find_browser

ROOT = Path(__file__).parent.parent
PAGES = ["", "own-data", "steps/3-loss", "recipes", "moving-from-mindyolo", "proof", "api", "glossary"]
CHINESE = ["zh", "zh/steps/5-train-step", "zh/finetuning", "zh/moving-from-ultralytics"]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if any(find_spec(name) is None for name in ("mkdocs", "material", "mkdocs_static_i18n", "mkdocstrings")):
        pytest.skip("the site is not built: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed: the site is not looked at in a browser")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def look_at(browser: Browser, page: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.send("Emulation.setDeviceMetricsOverride", **size)
    browser.requests.clear()
    browser.send("Page.navigate", url=page.as_uri())
    browser.wait(f"document.readyState === 'complete' && location.href === '{page.as_uri()}'")


@pytest.mark.parametrize("name", PAGES + CHINESE)
def test_a_page_is_no_wider_than_the_window_and_asks_for_nothing_outside(
    site: Path, browser: Browser, name: str
) -> None:
    page = site / name / "index.html"
    for width in (1400, 400):
        look_at(browser, page, width)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("document.querySelector('h1').textContent.trim().length") > 1
        # A table that is none is a paragraph of bars.
        assert not browser.run("[...document.querySelectorAll('p')].some(p => p.textContent.startsWith('|'))")
    assert [url for url in browser.requests if not url.startswith("file:")] == []
    assert browser.run("document.documentElement.lang") == ("zh" if name.startswith("zh") else "en")


def test_pages_that_are_not_translated_and_files_of_the_repository_are_in_both_sites(site: Path) -> None:
    for name in ("CHANGELOG", "CONTRIBUTING", "benchmarks", "examples/eight_steps", "data"):
        for language, folder in (("en", site), ("zh", site / "zh")):
            assert f'<html lang="{language}"' in (folder / name / "index.html").read_text(encoding="utf-8")
