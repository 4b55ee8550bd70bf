"""The report in a real browser: no error, no request; it sorts, filters, and works by keyboard."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser, find_browser
from tests.support.report_data import HOSTILE, noise_image, write_run
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_content import read_run

pytestmark = pytest.mark.browser

CLASSES = "#classes tbody tr:not([hidden])"
CARDS = "#gallery .gallery li"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium is installed: the report is not looked at in a browser")
    with Browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


def write_page(path: Path, *runs: Path) -> Path:
    path.write_text(render_page([read_run(run) for run in runs]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    files = [noise_image(folder / "pictures" / f"{k}.jpg", k) for k in range(20)]
    return write_run(folder / "pets", ["cat", "dog", "emu", "fox"], [*files, folder / "gone.jpg"])


@pytest.fixture(scope="module")
def page(folder: Path, run: Path) -> Path:
    return write_page(folder / "one.html", run)


@pytest.fixture(scope="module")
def two_runs(folder: Path, run: Path) -> Path:
    second = write_run(
        folder / "killed", ["cat", "dog", "emu", "fox"], seed=1, finished=False, evaluated=False
    )
    # Of the killed run there are the first epoch, with its evaluation, and a few steps.
    lines = (second / "metrics.jsonl").read_text().splitlines(keepends=True)
    (second / "metrics.jsonl").write_text("".join(lines[:27]))
    return write_page(folder / "two.html", run, second)


@pytest.fixture(scope="module")
def many_classes(folder: Path) -> Path:
    names = [f"a class with a rather long name, number {k}" for k in range(80)]
    run = write_run(folder / ("a_name_that_has_no_end" * 5), names)
    return write_page(folder / "many.html", run)


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((n) => n.textContent)"
    )
    return found


def column(browser: Browser, number: int) -> list[str]:
    return texts(browser, f"{CLASSES} > :nth-child({number})")


def assert_calm(browser: Browser, page: Path) -> None:
    assert browser.errors == []
    assert browser.requests == [page.resolve().as_uri()]


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["page", "two_runs", "many_classes"])
def test_a_page_loads_without_error_or_request_and_fits_its_width(
    browser: Browser, name: str, scheme: str, width: int, request: pytest.FixtureRequest
) -> None:
    page: Path = request.getfixturevalue(name)
    browser.open(page, width, 900, scheme)
    assert_calm(browser, page)
    assert browser.run("document.documentElement.scrollWidth") == width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(253, 252, 249)", "dark": "rgb(22, 23, 26)"}[scheme]
    sections = texts(browser, "h2")
    assert sections[-10:] == [
        "Class by class",
        "Precision and recall",
        "What is taken for what",
        "What errors cost",
        "Does confidence keep its word?",
        "The worst images",
        "Labels to look at",
        "Speed",
        "The data",
        "Settings and environment",
    ]


def test_the_class_table_sorts_by_mouse_and_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert column(browser, 3) == sorted(column(browser, 3), reverse=True), "by AP, best first"
    browser.click("#classes th:nth-child(4) button")
    by_ap50 = column(browser, 4)
    assert by_ap50 == sorted(by_ap50, reverse=True)
    browser.press("Enter")
    assert column(browser, 4) == by_ap50[::-1]
    assert browser.run("document.querySelector('#classes th:nth-child(4)').ariaSort") == "ascending"
    browser.press("Tab")
    browser.press("Enter")
    assert column(browser, 5) == sorted(column(browser, 5), reverse=True)
    assert browser.run("document.querySelectorAll('#classes [aria-sort]').length") == 1
    browser.click("#classes th:nth-child(1) button")
    assert column(browser, 1) == ["cat", "dog", "emu", "fox"]
    assert_calm(browser, page)


def test_the_class_table_filters(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.choose("#classes input", "O")
    assert sorted(column(browser, 1)) == ["dog", "fox"]
    assert texts(browser, "#classes .told") == ["2 of 4 shown"]
    browser.choose("#classes input", "")
    assert len(column(browser, 1)) == 4


def images_of(page: Path) -> list[dict[str, Any]]:
    text = page.read_text().split('id="data">')[1].split("</script>")[0]
    images: list[dict[str, Any]] = json.loads(text)["runs"][0]["gallery"]["images"]
    return images


def fitting(images: list[dict[str, Any]], category: int, kind: str) -> list[int]:
    """Boxes of a kind and class in each image that has any."""
    counts = [
        sum(box[5] == kind and category in (box[4], box[8]) for box in image["boxes"]) for image in images
    ]
    return [n for n in counts if n]


def test_the_gallery_filters_by_class_and_kind_and_draws_exactly_these_boxes(
    browser: Browser, page: Path
) -> None:
    browser.open(page)
    assert len(texts(browser, CARDS)) == 12
    browser.click("#gallery .more")
    assert len(texts(browser, CARDS)) == 21
    assert texts(browser, f"{CARDS} .no-image") == ["image not found"]
    for category in (1, 3):
        for kind in ("missed", "classification", "background", "correct"):
            browser.choose("#gallery .choice:nth-child(1) select", str(category))
            browser.choose("#gallery .choice:nth-child(2) select", kind)
            counted = "(card) => card.querySelectorAll('.box').length"
            drawn = browser.run(f"[...document.querySelectorAll('{CARDS}')].map({counted})")
            assert drawn == fitting(images_of(page), category, kind)[:12]
    assert_calm(browser, page)


def test_an_image_opens_goes_on_with_the_arrow_keys_and_closes(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click(f"{CARDS}:nth-child(2) button")
    assert browser.run("document.querySelector('dialog').open")
    assert texts(browser, ".viewer .words b") == ["2 of 21"]
    assert browser.run("document.querySelector('.viewer img').naturalWidth") == 320
    browser.press("ArrowRight")
    assert texts(browser, ".viewer .words b") == ["3 of 21"]
    assert len(texts(browser, ".viewer .boxes li")) == 6
    browser.click(".viewer input")
    assert len(texts(browser, ".viewer .boxes li")) == 8
    browser.press("Escape")
    browser.wait("!document.querySelector('dialog')")
    assert (
        browser.run("document.activeElement === document.querySelector('#gallery .gallery button')") is False
    )
    assert browser.run("document.activeElement.closest('.gallery') !== null"), (
        "the focus is back where it was"
    )
    assert_calm(browser, page)


def test_a_class_of_the_table_leads_to_its_images(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click("#classes tbody tr:nth-child(1) button")
    name = column(browser, 1)[0]
    chosen = browser.run("document.querySelector('#gallery select').selectedOptions[0].text")
    assert chosen == name
    assert texts(browser, "#gallery .told")[0].endswith(f"with {name}.")


def test_the_matrix_shows_counts_or_shares(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert texts(browser, ".confusion td")[0] == "80"
    browser.click("#confusion .segmented button:nth-child(2)")
    rows = [texts(browser, f".confusion tbody tr:nth-child({k}) td") for k in range(1, 6)]
    assert all(97 <= sum(int(text or 0) for text in row) <= 103 for row in rows)
    assert browser.run("document.querySelector('#confusion .segmented button').ariaPressed") == "false"


def test_curves_are_read_by_keyboard_and_pointer(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('#training svg[tabindex]').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    tip = texts(browser, "#training .tip:not([hidden])")
    assert tip == ["epoch 2AP 0.340AP50 0.540"]
    assert texts(browser, "#training .spoken")[0].split() == ["epoch", "2", "AP", "0.340", "AP50", "0.540"]
    browser.press("Escape")
    assert texts(browser, "#training .tip:not([hidden])") == []


def test_the_curves_of_a_class_can_be_chosen(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.choose("#precision select", "3")
    assert [text.split(": ")[1] for text in texts(browser, "#precision .chart-title")] == ["emu", "emu"]
    browser.wait("document.querySelectorAll('#precision svg[tabindex]').length === 2")
    assert len(texts(browser, "#precision .chart:first-child path.curve")) == 5


def test_the_theme_can_be_turned(browser: Browser, page: Path) -> None:
    browser.open(page, scheme="light")
    browser.click(".theme")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 26)"
    assert texts(browser, ".theme") == ["Light"]


def test_runs_side_by_side_share_curves_and_have_a_tab_each(browser: Browser, two_runs: Path) -> None:
    browser.open(two_runs)
    assert texts(browser, "#comparison .plain:nth-of-type(1) thead th")[1:3] == ["pets", "killed"]
    assert len(texts(browser, "#training > .two .chart:first-child path.curve")) == 2
    browser.run("document.querySelector('#training svg[tabindex]').focus()")
    read = []
    for _ in range(2):
        browser.press("ArrowRight")
        read += texts(browser, "#training .tip:not([hidden])")
    assert read == ["epoch 1pets 0.170killed 0.170", "epoch 2pets 0.340"]
    assert texts(browser, "[role=tab]") == ["pets", "killed"]
    browser.run("document.querySelector('[role=tab]').focus()")
    browser.press("ArrowRight")
    assert browser.run("document.activeElement.ariaSelected") == "true"
    whys = texts(browser, "#run .absent")
    assert len(whys) == 8
    assert set(whys) == {"This run was not evaluated for the report: it has no diagnostics.json."}
    browser.press("ArrowLeft")
    assert texts(browser, "#run .absent") == []
    assert_calm(browser, two_runs)


def write_runs(folder: Path, number: int) -> list[Path]:
    settings = "data: {{train_set: /home/somebody/data/of/the/project/{0}/annotations/train.json}}\n"
    return [
        write_run(folder / f"yolov8n-small-data-{k}", seed=k, settings=settings.format(k))
        for k in range(number)
    ]


@pytest.fixture(scope="module")
def ten_runs(folder: Path) -> Path:
    return write_page(folder / "ten.html", *write_runs(folder / "ten", 10))


@pytest.mark.parametrize("width", [1400, 400])
def test_figures_of_many_runs_stay_on_one_line_and_their_tables_scroll_in_themselves(
    browser: Browser, ten_runs: Path, width: int
) -> None:
    browser.open(ten_runs, width)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert len(texts(browser, "#comparison .plain")) == 2
    narrow = "[...document.querySelectorAll('.plain td')].filter((cell) => cell.offsetWidth < 90).length"
    assert browser.run(narrow) == 0
    figures = "[...document.querySelectorAll('#comparison .plain:first-of-type td')]"
    height = f"Math.max(...{figures}.filter((cell) => /^[0-9.]+$/.test(cell.textContent))" + (
        ".map((cell) => cell.offsetHeight))"
    )
    assert browser.run(height) < 45, "one line"
    boxes = "[...document.querySelectorAll('#comparison .scroll')].map((n) => n.scrollWidth > n.clientWidth)"
    assert browser.run(boxes) == [True] * 3
    # What runs differ in, the ends of their names, is seen.
    heads = texts(browser, "#comparison .scroll:nth-of-type(1) thead th .name")
    assert [name[-1] for name in heads if name.startswith("yolo")][:10] == list("0123456789")
    assert_calm(browser, ten_runs)


def test_runs_that_are_equal_at_printed_precision_share_the_best_ap(browser: Browser, folder: Path) -> None:
    def page_of(name: str, *maps: float) -> Path:
        runs = [write_run(folder / name / f"run{k}", evaluated=False) for k in range(len(maps))]
        for run, value in zip(runs, maps, strict=True):
            summary = json.loads((run / "summary.json").read_text())
            summary["best"]["map"] = value
            (run / "summary.json").write_text(json.dumps(summary))
        return write_page(folder / f"{name}.html", *runs)

    cases = {
        "apart": ((0.5126, 0.5124), "run0 has the best AP, 0.513: 0.001 ahead of run1."),
        "both": ((0.5124, 0.5116, 0.4), "run0 and run1 share the best AP, 0.512."),
        "many": ((0.5, 0.5004, 0.5003, 0.4996, 0.1), "run1 and 3 others share the best AP, 0.500."),
    }
    for name, (maps, said) in cases.items():
        browser.open(page_of(name, *maps))
        assert texts(browser, ".standfirst") == [said]


def test_names_of_classes_stay_on_a_line(browser: Browser, folder: Path) -> None:
    names = ["motorcycle", "baseball glove", "a class with a rather long name that is cut"]
    browser.open(write_page(folder / "names.html", write_run(folder / "names", names)), 1200)
    cells = "[...document.querySelectorAll('#classes tbody th .name')]"
    heights = browser.run(f"{cells}.map((cell) => cell.offsetHeight)")
    assert len(heights) == 3
    assert max(heights) < 30
    cut = browser.run(f"{cells}.filter((cell) => cell.scrollWidth > cell.clientWidth).map((c) => c.title)")
    assert cut == [f"{names[2]}: its images"]


@pytest.mark.parametrize("name", ["x" * 300, "long words " * 27])
def test_a_class_or_run_with_a_very_long_name_does_not_spoil_the_page(
    browser: Browser, folder: Path, name: str
) -> None:
    files = [noise_image(folder / "long" / "a.jpg")]
    run = write_run(folder / name[0] / (name[0] * 200), [name, "cat", f"{name}2"], files)
    other = write_run(folder / name[0] / "other", [name, "cat", f"{name}2"], files, seed=1)
    for pages in ((run,), (run, other)):
        page = write_page(folder / f"{name[0]}{len(pages)}.html", *pages)
        browser.open(page, 400)
        assert browser.run("document.documentElement.scrollWidth") == 400
        cells = (
            "[...document.querySelectorAll('#classes tbody th .name, #comparison .sorted tbody th .name')]"
        )
        assert browser.run(f"Math.max(...{cells}.map((cell) => cell.offsetWidth))") <= 200
        assert browser.run(f"{cells}.every((cell) => cell.title.startsWith(cell.textContent.trim()))")
        wide = "[...document.querySelectorAll('select')].filter((n) => n.offsetWidth > 400 - 32).length"
        assert browser.run(wide) == 0
        # With a class chosen everywhere and a picture open, too.
        browser.choose("#precision select", "1")
        browser.choose("#gallery .choice:nth-child(1) select", "1")
        browser.choose("#gallery .choice:nth-child(2) select", "")
        browser.wait("document.querySelectorAll('#precision svg[tabindex]').length === 2")
        browser.run("document.querySelector('#gallery .gallery button').click()")
        assert browser.run("document.documentElement.scrollWidth") == 400
        assert browser.run(
            "(({scrollWidth, clientWidth}) => scrollWidth <= clientWidth)(document.querySelector('dialog'))"
        )
        assert_calm(browser, page)


def test_a_validation_set_without_objects_is_said_on_the_page(browser: Browser, folder: Path) -> None:
    run = write_run(folder / "empty", evaluated=False)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row | {"map": -1.0, "map50": -1.0} if row["kind"] == "evaluation" else row for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"best": {}, "map": -1.0}))
    browser.open(write_page(folder / "empty.html", run))
    assert texts(browser, ".figures strong")[:2] == ["n/a", "n/a"]
    assert texts(browser, ".figures small")[:2] == ["no objects in the validation set"] * 2
    assert texts(browser, "#training .lead") == ["There is no AP: no objects in the validation set."]
    assert "no objects in the validation set" in texts(browser, "#training .absent")


def test_a_run_that_found_nothing_right_is_told_as_that(browser: Browser, folder: Path) -> None:
    run = write_run(folder / "nothing")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"map": 0.0, "map50": 0.0} if row["kind"] == "evaluation" else row for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = json.loads((run / "diagnostics.json").read_text())
    for row in content["classes"]:
        row["ap"] = 0.0
    (run / "diagnostics.json").write_text(json.dumps(content))
    browser.open(write_page(folder / "nothing.html", run))
    assert texts(browser, "#training .lead")[0].startswith("Nothing was found that is right: AP stayed at 0.")
    assert texts(browser, "#classes .lead") == ["All classes are found alike (AP 0.000)."]


def test_diagnostics_of_other_weights_are_called_so_above_what_they_tell(
    browser: Browser, folder: Path, run: Path
) -> None:
    said = "diagnostics.json is of other weights than best.safetensors has now"
    page = folder / "stale.html"
    page.write_text(render_page([replace(read_run(run), stale_reason=said)]))
    browser.open(page, 400)
    assert said in texts(browser, "#run > .stale:first-child")[0]
    assert texts(browser, ".figures strong")[0] == "0.510", "the training's own, of its best epoch"
    assert browser.run("document.documentElement.scrollWidth") == 400
    page.write_text(render_page([replace(read_run(run), stale_reason=said), read_run(run)]))
    browser.open(page)
    assert any(said in text for text in texts(browser, "#comparison .note"))


def test_hostile_names_are_shown_as_they_are_and_do_nothing(browser: Browser, folder: Path) -> None:
    run = write_run(folder / "hostile", HOSTILE, [f"/nowhere/{name}" for name in HOSTILE])
    page = write_page(folder / "hostile.html", run)
    browser.open(page)
    assert sorted(column(browser, 1)) == sorted(HOSTILE)
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert_calm(browser, page)


def test_the_page_cannot_reach_the_network_even_if_it_tried(browser: Browser, page: Path) -> None:
    browser.open(page)
    blocked = """new Promise((resolve) => {
      document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
      document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/a.png" }));
    })"""
    assert browser.run(blocked) == "img-src"


def test_a_page_of_a_run_that_has_just_begun_says_what_is_missing(browser: Browser, folder: Path) -> None:
    run = write_run(folder / "begun", finished=False, evaluated=False)
    for name in ("metrics.jsonl", "names.json", "data_problems.json"):
        (run / name).unlink()
    page = write_page(folder / "begun.html", run)
    browser.open(page, 400)
    assert_calm(browser, page)
    whys = texts(browser, ".absent")
    assert "not evaluated yet" in whys
    assert "no steps logged yet" in whys
    assert "The run folder has no data_problems.json." in whys
