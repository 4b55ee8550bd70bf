"""The report as a file: what is in it, that nothing in it does harm, and that it stays small."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.report_data import HOSTILE, diagnostics, noise_image, write_run
from tests.support.tiny_run import read_image
from yoloflow.report.metrics import Metrics
from yoloflow.report.page import document
from yoloflow.report.page.comparison import differing_settings
from yoloflow.report.page.diagnostics import compact_diagnostics
from yoloflow.report.page.document import LARGEST, render_page
from yoloflow.report.page.run_content import MOST_POINTS, page_curves, read_run
from yoloflow.report.page.thumbnails import LEVELS, make_thumbnails
from yoloflow.structures import YoloflowError


class Reader(HTMLParser):
    """The elements of a page, its scripts' and style's text, and the content security policy."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.texts:
            self._inside = tag
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.texts[self._inside][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.texts["script"][0])
        return content

    @property
    def policy(self) -> str:
        (content,) = [
            attrs["content"]
            for tag, attrs in self.tags
            if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        assert content is not None
        return content


def page_of(*folders: Path) -> Reader:
    return Reader(render_page([read_run(folder) for folder in folders]))


def test_a_page_holds_curves_figures_diagnostics_images_and_settings(tmp_path: Path) -> None:
    files = [noise_image(tmp_path / f"{k}.jpg", k) for k in range(3)]
    folder = write_run(tmp_path / "pets", ["cat", "dog"], files, settings="data: {names: [cat, dog]}\n")
    data = page_of(folder).data
    (run,) = data["runs"]
    assert run["name"] == "pets"
    assert run["finished"]
    assert run["best"] == {
        "map": 0.52,
        "map50": 0.81,
        "epoch": 3,
        "intervals": {"level": 0.95, "samples": 1000, "AP": [0.49, 0.55], "AP50": [0.77, 0.84]},
        "why": None,
    }
    assert run["curves"]["stages"] == [{"number": 2, "epoch": 2.0}]
    assert list(run["curves"]["steps"]["losses"]) == ["loss", "lbox", "lcls"]
    assert list(run["curves"]["steps"]["rates"]) == ["groups 0, 1", "group 2"]
    assert [len(rates) for rates in run["curves"]["steps"]["rates"].values()] == [60, 60]
    assert run["curves"]["evaluations"]["map"] == [0.17, 0.34, 0.51]
    assert run["data"]["train_set"]["kinds"] == [{"kind": "box-nan", "action": "drop-box", "count": 4}]
    assert run["config"] == (folder / "config.yaml").read_text()
    assert run["environment"]["PyTorch"] == "2.9.0"
    assert [row["name"] for row in run["diagnostics"]["classes"]] == ["cat", "dog"]
    assert len(run["gallery"]["images"][0]["boxes"]) == 8
    assert run["gallery"]["note"] == "The 3 worst of 11 evaluated images."
    assert len(data["thumbnails"]) == 3


def test_the_gallerys_images_are_the_files_without_boxes_drawn(tmp_path: Path) -> None:
    smooth = np.fromfunction(lambda y, x, c: (y + 2 * x + 40 * c) % 200, (120, 160, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.GaussianBlur(smooth, (0, 0), 5))
    data = page_of(write_run(tmp_path / "run", files=[tmp_path / "a.png"])).data
    (text,) = data["thumbnails"]
    content = base64.b64decode(text.removeprefix("data:image/jpeg;base64,"))
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    original = read_image(tmp_path / "a.png")
    assert shown.shape == original.shape
    assert np.abs(shown.astype(int) - original).mean() < 3


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / HOSTILE[2].replace("/", ""), HOSTILE, [f"/nowhere/{name}" for name in HOSTILE]
    )
    page = page_of(folder)
    # No element that the frame has not.
    frame = "html head meta meta meta meta title link style body div noscript p script script"
    assert " ".join(tag for tag, _ in page.tags) == frame
    (run,) = page.data["runs"]
    assert [row["name"] for row in run["diagnostics"]["classes"]] == list(HOSTILE)
    assert [image["file"] for image in run["gallery"]["images"]] == [f"/nowhere/{name}" for name in HOSTILE]
    assert run["diagnostics"]["confusion"]["labels"] == [*HOSTILE, "background"]
    assert page.texts["title"] == [f"{folder.name} · yoloflow"]
    assert page.texts["script"][0].isascii()
    assert not re.search("[<>&]", page.texts["script"][0])


def test_the_policy_allows_this_script_and_style_and_no_network(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, text in (("script-src", page.texts["script"][1]), ("style-src", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert all("src" not in attrs for _, attrs in page.tags)
    assert [attrs["href"] for tag, attrs in page.tags if "href" in attrs] == ["data:,"]
    assert "http" not in page.texts["style"][0]


def test_a_page_stays_under_5_mb_and_says_how_many_images_it_shows(tmp_path: Path) -> None:
    files = [noise_image(tmp_path / f"{k}.jpg", k, 700, 700) for k in range(25)]
    folder = write_run(tmp_path / "run", files=files)
    text = render_page([read_run(folder)])
    assert 3e6 < len(text.encode()) < LARGEST < 5e6
    data = Reader(text).data
    (run,) = data["runs"]
    shown = [image for image in run["gallery"]["images"] if image["thumbnail"] is not None]
    assert [image["thumbnail"] for image in shown] == list(range(len(data["thumbnails"])))
    assert run["gallery"]["note"].startswith("The 25 worst of 77 evaluated images.")


def test_where_not_even_the_smallest_thumbnails_fit_the_worst_images_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "LARGEST", 260_000)
    files = [noise_image(tmp_path / f"{k}.jpg", k, 400, 400) for k in range(20)]
    text = render_page([read_run(write_run(tmp_path / "run", files=files))])
    assert len(text.encode()) < 260_000
    (run,) = Reader(text).data["runs"]
    numbers = [image["thumbnail"] for image in run["gallery"]["images"]]
    count = len(Reader(text).data["thumbnails"])
    assert 0 < count < 20
    assert numbers == [*range(count), *[None] * (20 - count)]
    assert {image.get("why") for image in run["gallery"]["images"][count:]} == {"left out for its size"}
    assert f"{20 - count} images are left out" in run["gallery"]["note"]


def test_thumbnails_are_as_large_as_there_is_room_for(tmp_path: Path) -> None:
    files = [str(noise_image(tmp_path / f"{k}.jpg", k, 800, 600)) for k in range(4)]
    sizes = []
    for budget in (10_000_000, 600_000, 150_000):
        thumbnails = make_thumbnails(files, budget)
        assert len(thumbnails.texts) == 4
        assert sum(map(len, thumbnails.texts.values())) <= budget
        sizes.append(thumbnails.side)
    assert sizes[0] == LEVELS[0][0] > sizes[1] > sizes[2]


def test_an_image_that_is_gone_or_none_is_said(tmp_path: Path) -> None:
    good = noise_image(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    files = [tmp_path / "gone.jpg", good, tmp_path / "bad.jpg", tmp_path / "empty.jpg"]
    (run,) = page_of(write_run(tmp_path / "run", files=files)).data["runs"]
    whys = [image.get("why") for image in run["gallery"]["images"]]
    assert whys == ["image not found", None, "image not found", "image not found"]
    assert "3 image files are not there any more or cannot be read." in run["gallery"]["note"]


def test_an_image_of_two_runs_is_kept_once(tmp_path: Path) -> None:
    files = [noise_image(tmp_path / f"{k}.jpg", k) for k in range(3)]
    runs = [write_run(tmp_path / name, files=files, seed=seed) for seed, name in enumerate("ab")]
    data = page_of(*runs).data
    assert len(data["thumbnails"]) == 3
    assert [image["thumbnail"] for image in data["runs"][1]["gallery"]["images"]] == [0, 1, 2]


def test_a_run_that_has_just_begun_and_one_without_evaluation_give_a_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "killed", finished=False, evaluated=False)
    (run,) = page_of(folder).data["runs"]
    assert not run["finished"]
    assert run["best"]["map"] == pytest.approx(0.51)
    assert run["diagnostics"] is None
    for name in ("metrics.jsonl", "names.json", "data_problems.json"):
        (folder / name).unlink()
    (run,) = page_of(folder).data["runs"]
    assert run["data"] is None
    assert run["best"] == {"map": None, "map50": None, "epoch": None, "intervals": None, "why": None}


def test_a_folder_that_is_no_run_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match=r"config\.yaml is missing"):
        read_run(tmp_path)
    folder = write_run(tmp_path / "run")
    (folder / "diagnostics.json").write_text('{"schema": 1,')
    with pytest.raises(YoloflowError, match=r"diagnostics\.json:1:14: no valid JSON"):
        read_run(folder)


def test_settings_that_differ_are_found_at_any_depth(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", settings="data: {mosaic: 1.0, names: [x]}\n"),
        write_run(tmp_path / "b", seed=1, settings="data: {mosaic: 1.0, names: [x, y], rect: true}\n"),
    ]
    rows = page_of(*runs).data["settings"]
    assert rows == [
        {"key": "seed", "values": ["0", "1"]},
        {"key": "optimizer.lr_init", "values": ["0.01", "0.02"]},
        {"key": "data.names", "values": ['["x"]', '["x", "y"]']},
        {"key": "data.rect", "values": [None, "true"]},
    ]
    (row,) = differing_settings([{"network": "a" * 500}, {"network": "b"}])
    assert row["values"][0] == "a" * 120 + " … (500 letters)"


def test_lengths_of_stages_are_shown_as_they_were_trained() -> None:
    key = "data.train_transforms.stage_epochs"
    runs = [
        {"epochs": "2", key: "[490, 10]"},
        {"epochs": "50", key: "[40, 10]"},
        {"epochs": "1", key: "[490, 10]"},
        {"epochs": "x", key: "word"},
    ]
    (_, row) = differing_settings(runs)
    assert row["values"] == ["[1, 1] (of [490, 10])", "[40, 10]", "[490, 10]", "word"]


def test_values_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[1]) | {"loss": float("nan"), "lbox": float("inf")}
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(record), *lines[2:]]))
    (run,) = page_of(folder).data["runs"]
    losses = run["curves"]["steps"]["losses"]
    assert losses["loss"][0] is losses["lbox"][0] is None
    assert losses["lcls"][0] == 4.0


def test_a_long_curve_is_drawn_from_means_that_keep_its_values() -> None:
    count = 10 * MOST_POINTS + 3
    values = np.random.default_rng(0).normal(size=count)
    values[7] = np.nan
    steps = [
        {"kind": "step", "epoch": 1, "step": k + 1, "loss": v, "lr": [0.1]} for k, v in enumerate(values)
    ]
    curves = page_curves(Metrics(steps=steps))["steps"]
    size = curves["mean_of"]
    assert len(curves["epoch"]) <= MOST_POINTS
    for k, value in enumerate(curves["losses"]["loss"]):
        assert value == pytest.approx(np.nanmean(values[k * size : (k + 1) * size]))


def test_the_matrix_of_many_classes_keeps_the_most_confused_and_counts_the_others() -> None:
    content = diagnostics([f"class {k}" for k in range(100)], [])
    matrix = np.zeros((101, 101), int)
    matrix[range(100), range(100)] = 5
    matrix[3, 90], matrix[90, 3], matrix[42, 100] = 4, 9, 2
    content["confusion"]["matrix"] = matrix.tolist()
    compact = compact_diagnostics(content, 10)
    confusion = compact["confusion"]
    assert confusion["num_left_out"] == 40
    labels = confusion["labels"]
    assert labels[-1] == "background"
    named = {(labels[row], labels[column]): n for row, column, n in confusion["cells"] if row != column}
    assert named == {("class 3", "class 90"): 4, ("class 90", "class 3"): 9, ("class 42", "background"): 2}
    curves = compact["pr_curves"]
    assert curves["num_left_out"] == 90
    assert [row["category_id"] for row in curves["per_class"]] == list(range(91, 101)), "most frequent ones"


@pytest.mark.oracle
def test_runs_of_a_thousand_classes_fit_and_too_many_of_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "many", [f"class number {k}" for k in range(1000)])
    run = read_run(folder)
    text = render_page([run])
    assert len(text.encode()) < LARGEST
    monkeypatch.setattr(document, "LARGEST", len(text) // 4)
    with pytest.raises(YoloflowError, match="a page of 1 runs would be larger"):
        render_page([run])
