"""The stored index: equal to what was read, never used once anything has changed, whole or not there."""

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.data_sets import Bomb, voc_object, write_picture, write_voc, write_yolo
from tests.support.rich_sets import rich_coco, write_messy_set
from yoloflow.data.caches.files import digest
from yoloflow.data.caches.index import cached_index
from yoloflow.data.index import read_index
from yoloflow.structures import DatasetIndex, YoloflowError

GOOD = "0 .5 .5 .2 .25\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the stored indexes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "yoloflow" / "indexes"


@pytest.fixture(autouse=True)
def _shorter_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems whose clock ticks in two seconds are not where these tests run."""
    monkeypatch.setattr("yoloflow.data.caches.index._TICK_NS", 300_000_000)


def age(root: Path, seconds: float = 0.32) -> None:
    """Waits until the files are old enough to be trusted."""
    newest = max(os.stat(path).st_ctime for path in [root, *root.rglob("*")])
    time.sleep(max(0.0, newest + seconds - time.time()))


def assert_equal(first: DatasetIndex, second: DatasetIndex) -> None:
    for one in fields(DatasetIndex):
        a, b = getattr(first, one.name), getattr(second, one.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


def write_set(kind: str, root: Path) -> str:
    if kind == "coco":
        return str(rich_coco(root))
    if kind == "voc":
        return str(write_voc(root, {"a": voc_object("cat", 1, 2, 30, 40), "b": ""}))
    source = write_yolo(root, {"a": GOOD, "b": "1 .1 .1 .2 .1 .2 .3\n", "c": None})
    return str(source if kind == "list" else root / "images")


def test_a_stored_index_is_found_and_equal(tmp_path: Path, folder: Path) -> None:
    sources = {kind: write_set(kind, tmp_path / kind) for kind in ("coco", "voc", "list", "folder")}
    age(tmp_path)
    for count, (kind, source) in enumerate(sources.items(), 1):
        nc = 2 if kind in ("list", "folder") else None
        first = read_index(source, nc=nc, cache=True)
        assert len(list(folder.iterdir())) == count
        before = [path.stat().st_mtime_ns for path in folder.iterdir()]
        assert_equal(first, read_index(source, nc=nc, cache=True))
        assert_equal(first, read_index(source, nc=nc))
        assert [path.stat().st_mtime_ns for path in folder.iterdir()] == before


def test_the_messy_set_is_stored_with_every_problem(tmp_path: Path, folder: Path) -> None:
    source = str(write_messy_set(tmp_path / "set"))
    age(tmp_path / "set")
    first = read_index(source, nc=2, decode=True, stop_at_errors=False, cache=True)
    assert_equal(first, read_index(source, nc=2, decode=True, stop_at_errors=False, cache=True))
    assert len(list(folder.iterdir())) == 1
    with pytest.raises(YoloflowError, match="class-out-of-range"):
        read_index(source, nc=2, decode=True, cache=True)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a label is edited in place": lambda root: (root / "labels" / "a.txt").write_text(
        GOOD.replace("0", "1", 1)
    ),
    "a label appears": lambda root: (root / "labels" / "c.txt").write_text(GOOD),
    "a label appears beside the image": lambda root: (root / "images" / "c.txt").write_text(GOOD),
    "a label goes": lambda root: (root / "labels" / "a.txt").unlink(),
    "an image goes": lambda root: (root / "images" / "a.png").unlink(),
    "an image is replaced": lambda root: write_picture(root / "images" / "a.png", 50, 60),
    "an image appears": lambda root: write_picture(root / "images" / "d.png"),
    "an image appears deep below": lambda root: write_picture(root / "images" / "x" / "y" / "d.png"),
    "an orphan appears": lambda root: (root / "labels" / "orphan.txt").write_text(GOOD),
    "a file is restored with its old times": lambda root: restored(root / "labels" / "a.txt"),
}


def restored(path: Path) -> None:
    """Other content of the same size, with the old time of change."""
    before = path.stat()
    path.write_text("1" + GOOD[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_any_change_is_seen(tmp_path: Path, folder: Path) -> None:
    cases = [(kind, change) for kind in ("list", "folder") for change in CHANGES]
    roots = [tmp_path / str(number) for number in range(len(cases))]
    sources = [write_set(kind, root) for (kind, _), root in zip(cases, roots, strict=True)]
    age(tmp_path)
    for number, ((_, change), root, source) in enumerate(zip(cases, roots, sources, strict=True), 1):
        before = read_index(source, nc=2, cache=True)
        assert len(list(folder.iterdir())) == number
        CHANGES[change](root)
        after = read_index(source, nc=2, cache=True)
        assert_equal(after, read_index(source, nc=2))
        if "image appears" not in change or source.endswith("images"):
            with pytest.raises(AssertionError):
                assert_equal(before, after)


def test_changes_of_json_xml_and_their_images_are_seen(tmp_path: Path, folder: Path) -> None:
    coco, voc = tmp_path / "coco", tmp_path / "voc"
    json_file, voc_root = rich_coco(coco), write_voc(voc, {"a": voc_object("cat", 1, 2, 30, 40)})
    age(tmp_path)
    for source in (json_file, voc_root):
        read_index(str(source), cache=True)
    # An image of the same name in a place that is looked at first.
    shutil.copy(coco / "images" / "1.png", coco / "annotations" / "1.png")
    write_picture(coco / "annotations" / "1.png", 40, 30)
    (voc / "Annotations" / "b.xml").write_text((voc / "Annotations" / "a.xml").read_text())
    assert_equal(read_index(str(json_file), cache=True), read_index(str(json_file)))
    assert_equal(read_index(str(voc_root), cache=True), read_index(str(voc_root)))
    json_file.write_text(json_file.read_text().replace('"dog"', '"cow"'))
    assert_equal(read_index(str(json_file), cache=True), read_index(str(json_file)))


def test_other_settings_are_another_index(tmp_path: Path, folder: Path) -> None:
    source = write_set("list", tmp_path / "set")
    age(tmp_path / "set")
    settings: list[dict[str, Any]] = [
        {"nc": 2},
        {"nc": 3},
        {"names": ["a", "b"]},
        {"nc": 2, "policy": {"missing-label": "drop-image"}},
    ]
    for count, how in enumerate(settings, 1):
        index = read_index(source, cache=True, **how)
        assert_equal(index, read_index(source, **how))
        assert len(list(folder.iterdir())) == count
    held_out = read_index(source, nc=2)
    again = read_index(source, nc=2, held_out=held_out, cache=True)
    assert {"leaked-image"} < {problem.kind for problem in again.problems}


def test_data_that_changed_just_now_and_patterns_are_not_stored(tmp_path: Path, folder: Path) -> None:
    source = write_set("list", tmp_path / "set")
    read_index(source, nc=2, cache=True)
    assert not folder.exists()
    age(tmp_path / "set")
    read_index(str(tmp_path / "set" / "images" / "*.png"), nc=2, cache=True)
    assert not folder.exists()
    read_index(source, nc=2)
    assert not folder.exists()


def test_a_damaged_file_is_ignored_and_replaced(tmp_path: Path, folder: Path) -> None:
    source = write_set("coco", tmp_path / "set")
    age(tmp_path / "set")
    truth = read_index(source, cache=True)
    (stored,) = folder.iterdir()
    whole = stored.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:cut] for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for position in rng.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        stored.write_bytes(content)
        assert_equal(read_index(source, cache=True), truth)


def test_nothing_in_the_file_is_executed(tmp_path: Path, folder: Path) -> None:
    source = write_set("list", tmp_path / "set")
    age(tmp_path / "set")
    read_index(source, nc=2, cache=True)
    (stored,) = folder.iterdir()
    with np.load(io.BytesIO(stored.read_bytes()[32:])) as arrays:
        content = dict(arrays)
    evil = io.BytesIO()
    np.savez(evil, **(content | {"classes": np.array([Bomb()], object)}))
    stored.write_bytes(digest(evil.getvalue()).encode() + evil.getvalue())
    with pytest.raises(ValueError, match="allow_pickle"):
        read_index(source, nc=2, cache=True)


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_set("list", tmp_path / "set")
    age(tmp_path / "set")
    (tmp_path / "file").write_text("")
    index = read_index(source, nc=2)
    assert cached_index(("x",), lambda: (index, [source]), tmp_path / "file") is index
    assert "cannot be written" in caplog.text


@pytest.mark.process
def test_processes_that_store_at_once_or_are_killed_leave_a_whole_file(tmp_path: Path, folder: Path) -> None:
    source = write_set("list", tmp_path / "set")
    age(tmp_path / "set", 2.05)
    code = (
        "from yoloflow.data.index import read_index\n"
        f"print(len(read_index({source!r}, nc=2, cache=True).problems))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert {process.communicate()[0].strip() for process in running} == {"1"}
    assert len(list(folder.iterdir())) == 1
    (folder / f".{next(folder.iterdir()).name}.1.partial").write_bytes(b"half")
    assert_equal(read_index(source, nc=2, cache=True), read_index(source, nc=2))
