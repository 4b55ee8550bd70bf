"""Whatever a user hands in: an account that closes, or an error that names the file; never anything else.

Each check runs on 200 cases (1,000 together) and, marked full, on 2,500 (12,500 together).
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.data_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    voc_object,
    write_coco,
    write_picture,
    write_voc,
    write_yolo,
)
from tests.support.rich_sets import assert_account_closes
from yoloflow.config.reader import load_config
from yoloflow.data.dataset import COCODataset
from yoloflow.data.index import read_index
from yoloflow.structures import YoloflowError

GOOD = "0 .5 .5 .2 .25\n"
Outcome = TypeVar("Outcome")

few = settings(max_examples=20, suppress_health_check=list(HealthCheck))
some = settings(max_examples=200, suppress_health_check=list(HealthCheck))
many = settings(max_examples=2500, suppress_health_check=list(HealthCheck))

numbers = st.one_of(
    st.integers(-3, 12),
    st.floats(width=32),
    st.floats(-0.2, 1.3).map(lambda value: round(value, 3)),
    st.sampled_from([10**400, -(2**63), 1e308, 5e-324]),
)
words = st.one_of(
    numbers.map(str), st.sampled_from(["cat", "1_0", "0x1", "\ufeff0", "é", "nan", "-inf", "\0"])
)
lines = st.lists(words, max_size=12).map(" ".join)
label_texts = st.one_of(
    st.lists(st.one_of(lines, st.just(GOOD.strip())), max_size=6).map("\n".join).map(str.encode),
    st.lists(lines, max_size=3).map("\r\n".join).map(lambda text: text.encode("utf-16")),
    st.binary(max_size=60),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner, max_size=3),
    ),
    max_leaves=8,
)
PICTURES = ("a.png", "b.jpg", "c.webp", "d.gif", "e.bmp", "f.tif")


def survives(source: Path, root: Path, **how: Any) -> None:
    """Reading gives an account that closes, or an error that names a file of the set."""
    index = outcome(lambda: read_index(str(source), **how), root)
    if index is not None:
        assert_account_closes(index)


def outcome(action: Callable[[], Outcome], root: Path) -> Outcome | None:
    """What an action gives; None where it refuses with an error that names a file of the set."""
    try:
        return action()
    except YoloflowError as error:
        message = str(error)
    assert str(root) in message
    return None


# Labels


def check_labels(root: Path, content: bytes) -> None:
    (root / "labels" / "a.txt").write_bytes(content)
    survives(root / "list.txt", root, nc=3)
    survives(root / "list.txt", root, nc=3, policy="error")


@few
@given(label_texts)
def test_any_label_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_labels(a_yolo_set(tmp_path_factory), content)


@pytest.mark.fuzz
@some
@given(label_texts)
def test_any_label_file_of_two_hundred(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_labels(a_yolo_set(tmp_path_factory), content)


@pytest.mark.full
@many
@given(label_texts)
def test_any_label_file_in_full(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_labels(a_yolo_set(tmp_path_factory), content)


_ROOTS: dict[str, Path] = {}


def a_yolo_set(factory: pytest.TempPathFactory) -> Path:
    """Two images with labels, made once."""
    if "yolo" not in _ROOTS:
        _ROOTS["yolo"] = factory.mktemp("yolo")
        write_yolo(_ROOTS["yolo"], {"a": GOOD, "b": GOOD})
    return _ROOTS["yolo"]


# COCO


@st.composite
def coco_documents(draw: st.DrawFn) -> bytes:
    """A sound document in which something was replaced; or its text, cut or with a byte changed."""
    document: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2)],
        "annotations": [annotation(1), annotation(2, 7, segmentation=[[1, 1, 9, 1, 9, 9]])],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    for _ in range(draw(st.integers(0, 3))):
        section = draw(st.sampled_from(sorted(document)))
        if not isinstance(document[section], list) or draw(st.integers(0, 9)) == 0:
            document[section] = draw(json_values)
            continue
        rows = document[section]
        row = draw(st.integers(0, max(len(rows) - 1, 0)))
        if rows and isinstance(rows[row], dict) and rows[row]:
            rows[row][draw(st.sampled_from(sorted(rows[row])))] = draw(json_values)
        else:
            rows.append(draw(json_values))
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        position = draw(st.integers(0, len(text) - 1))
        text = text[:position] + draw(st.binary(max_size=2)) + text[position + draw(st.integers(0, 3)) :]
    return text


def check_coco(factory: pytest.TempPathFactory, content: bytes) -> None:
    if "coco" not in _ROOTS:
        _ROOTS["coco"] = factory.mktemp("coco")
        write_coco(_ROOTS["coco"], [])
    source = _ROOTS["coco"] / "annotations" / "set.json"
    source.write_bytes(content)
    survives(source, _ROOTS["coco"])


@few
@given(coco_documents())
def test_any_coco_json(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_coco(tmp_path_factory, content)


@pytest.mark.fuzz
@some
@given(coco_documents())
def test_any_coco_json_of_two_hundred(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_coco(tmp_path_factory, content)


@pytest.mark.full
@many
@given(coco_documents())
def test_any_coco_json_in_full(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_coco(tmp_path_factory, content)


# VOC


@st.composite
def voc_documents(draw: st.DrawFn) -> bytes:
    names = st.sampled_from(["cat", "dog", "", "<b/>", "&amp;", "&bad;", "cow", "é"])
    objects = draw(st.lists(st.builds(voc_object, names, words, words, words, words), max_size=4))
    sizes = f"<size><width>{draw(words)}</width><height>{draw(words)}</height></size>"
    text = f"<annotation><filename>{draw(names)}</filename>{sizes}{''.join(objects)}</annotation>"
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-16", "latin-1"])), "replace")
    if draw(st.booleans()):
        position = draw(st.integers(0, len(content) - 1))
        content = (
            content[:position] + draw(st.binary(max_size=3)) + content[position + draw(st.integers(0, 9)) :]
        )
    return content


def check_voc(factory: pytest.TempPathFactory, content: bytes) -> None:
    if "voc" not in _ROOTS:
        _ROOTS["voc"] = factory.mktemp("voc")
        write_voc(_ROOTS["voc"], {"a": "", "b": voc_object("cat", 1, 2, 30, 40)})
    (_ROOTS["voc"] / "Annotations" / "a.xml").write_bytes(content)
    survives(_ROOTS["voc"], _ROOTS["voc"])


@few
@given(voc_documents())
def test_any_voc_xml(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_voc(tmp_path_factory, content)


@pytest.mark.fuzz
@some
@given(voc_documents())
def test_any_voc_xml_of_two_hundred(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_voc(tmp_path_factory, content)


@pytest.mark.full
@many
@given(voc_documents())
def test_any_voc_xml_in_full(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_voc(tmp_path_factory, content)


# Images


@st.composite
def damaged_pictures(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]], float]:
    """Which file, which bytes (by their place in 0..10,000) become what, and how much of it is kept."""
    flips = draw(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=5))
    return draw(st.sampled_from(PICTURES)), flips, draw(st.one_of(st.just(1.0), st.floats(0, 1)))


def check_picture(
    factory: pytest.TempPathFactory, name: str, flips: list[tuple[int, int]], kept: float
) -> None:
    if "pictures" not in _ROOTS:
        _ROOTS["pictures"] = factory.mktemp("pictures")
        for picture in PICTURES:
            write_picture(_ROOTS["pictures"] / "sound" / picture)
    root = _ROOTS["pictures"]
    content = bytearray((root / "sound" / name).read_bytes())
    for place, value in flips:
        content[place * (len(content) - 1) // 10_000] = value
    folder = root / "set"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for stem, data in (("x", bytes(content[: int(len(content) * kept)])), ("y", None)):
        path = folder / f"{stem}{Path(name).suffix}"
        path.write_bytes((root / "sound" / name).read_bytes() if data is None else data)
        path.with_suffix(".txt").write_text(GOOD)
    survives(folder, folder, nc=1, policy={"damaged-image": "drop-image"})
    for augment in (False, True):
        dataset = COCODataset(
            read_index(str(folder), nc=1), 40, [{"func_name": "letterbox"}], augment=augment
        )
        for number in range(len(dataset)):
            sample = outcome(partial(dataset.get, 0, number), folder)
            assert sample is None or sample.image.shape == (40, 40, 3)


@few
@given(damaged_pictures())
def test_any_image(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, list[tuple[int, int]], float]
) -> None:
    check_picture(tmp_path_factory, *case)


@pytest.mark.fuzz
@some
@given(damaged_pictures())
def test_any_image_of_two_hundred(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, list[tuple[int, int]], float]
) -> None:
    check_picture(tmp_path_factory, *case)


@pytest.mark.full
@many
@given(damaged_pictures())
def test_any_image_in_full(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, list[tuple[int, int]], float]
) -> None:
    check_picture(tmp_path_factory, *case)


# Recipes and data set files


@st.composite
def yaml_texts(draw: st.DrawFn) -> tuple[str, str]:
    """A recipe and a data set file, each with some values that make no sense, or no YAML at all."""
    keys = [
        "epochs",
        "img_size",
        "data",
        "optimizer",
        "loss",
        "network",
        "problems",
        "train_set",
        "train_transforms",
        "sampler",
        "stage_epochs",
        "__BASE__",
    ]
    values = st.recursive(
        json_values,
        lambda inner: st.dictionaries(st.sampled_from(keys), inner, max_size=3),
        max_leaves=5,
    )
    recipe = {"__BASE__": "yolov8n", **draw(st.dictionaries(st.sampled_from(keys), values, max_size=3))}
    described: dict[str, Any] = {"train": "a", "val": "b", "names": ["cat"]}
    for key in draw(st.lists(st.sampled_from(["path", "train", "val", "nc", "names"]), max_size=2)):
        described[key] = draw(json_values)
    texts = [yaml.safe_dump(recipe, allow_unicode=True), yaml.safe_dump(described, allow_unicode=True)]
    if draw(st.integers(0, 3)) == 0:
        position = draw(st.integers(0, len(texts[0]) - 1))
        texts[0] = texts[0][:position] + draw(st.text(max_size=3)) + texts[0][position:]
    return texts[0], texts[1]


def check_yaml(factory: pytest.TempPathFactory, texts: tuple[str, str]) -> None:
    if "yaml" not in _ROOTS:
        _ROOTS["yaml"] = factory.mktemp("yaml")
    root = _ROOTS["yaml"]
    for name, text in zip(("recipe.yaml", "data.yaml"), texts, strict=True):
        (root / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    outcome(partial(load_config, root / "recipe.yaml", []), root)
    outcome(partial(load_config, "yolov8n", [f"data={root / 'data.yaml'}"]), root)


@settings(few, max_examples=8)
@given(yaml_texts())
def test_any_yaml(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, str]) -> None:
    check_yaml(tmp_path_factory, texts)


@pytest.mark.fuzz
@some
@given(yaml_texts())
def test_any_yaml_of_two_hundred(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, str]) -> None:
    check_yaml(tmp_path_factory, texts)


@pytest.mark.full
@many
@given(yaml_texts())
def test_any_yaml_in_full(tmp_path_factory: pytest.TempPathFactory, texts: tuple[str, str]) -> None:
    check_yaml(tmp_path_factory, texts)
