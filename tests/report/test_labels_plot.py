"""The plot of a data set's labels, in the run folder and on the page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.data_sets import write_yolo
from yoloflow.data.index import read_index
from yoloflow.report.labels_plot import plot_labels
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_content import read_run
from yoloflow.report.plot_fonts import families_for

LABELS = "0 .5 .5 .2 .2\n1 .2 .3 .4 .1\n"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog"],
        ["$x^2$", "n" * 300],
        [str(k) for k in range(90)],
        ["\u732b", "\u72d7"],
        ["\U00012000", "\u05d0"],
    ],
)
def test_the_labels_of_a_set_are_drawn(tmp_path: Path, names: list[str]) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": LABELS, "b": ""})), names)
    plot_labels(index, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.size == (1300, 420)
        assert len(np.unique(np.asarray(image.convert("L")))) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"images", "labels", "list.txt", "labels.png"}


def test_letters_are_drawn_by_a_font_that_has_them() -> None:
    families, missing = families_for(["cat", "dog\n"])
    assert not missing
    assert families_for(["cat \U00012000"]) == (families, {"\U00012000"})
    chinese = {"\u732b", "\u72d7"}
    more, missing = families_for([*chinese, "\u043a"])
    assert more[: len(families)] == families
    assert missing == (set() if len(more) > len(families) else chinese)


def test_a_plot_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": LABELS})), nc=2)
    plot_labels(index, tmp_path / "no folder" / "labels.png")
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(("content", "is_shown"), [(b"\x89PNG\r\n", True), (b"no PNG", False), (None, False)])
def test_the_page_shows_the_plot_where_there_is_one(
    tmp_path: Path, content: bytes | None, is_shown: bool
) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "config.yaml").write_text("epochs: 1\n")
    if content is not None:
        (tmp_path / "plots" / "labels.png").write_bytes(content)
    assert ("data:image/png;base64,iVBO" in render_page([read_run(tmp_path)])) == is_shown
