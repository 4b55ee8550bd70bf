"""Index PNG of PASCAL VOC as masks of objects: beside xml files and alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.data_sets import (
    HEIGHT,
    WIDTH,
    annotation,
    voc_object,
    write_coco,
    write_picture,
    write_voc,
)
from tests.support.rich_sets import assert_account_closes, rich_coco
from yoloflow.convert import convert, split_data
from yoloflow.data.dataset import COCODataset
from yoloflow.data.formats.outlines import pixels_of_mask
from yoloflow.data.formats.voc_masks import colour_map, numbers_of_colours
from yoloflow.data.index import read_index
from yoloflow.data.problems import problems_report
from yoloflow.structures import DatasetIndex, YoloflowError

SHAPES = {
    1: (slice(10, 30), slice(5, 25)),
    2: (slice(40, 70), slice(50, 90)),
    3: (slice(0, 9), slice(60, 99)),
}


def numbers_of(*order: int, void: int = 2) -> np.ndarray:
    """Objects of three sizes, one with a hole, numbered in an order, with a band of void around."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, shape in zip(order, SHAPES, strict=False):
        rows, columns = SHAPES[shape]
        numbers[rows, columns] = 255
        inside = slice(rows.start + void, rows.stop - void), slice(columns.start + void, columns.stop - void)
        numbers[inside] = number
    numbers[45:50, 60:70][numbers[45:50, 60:70] > 0] = 0
    return numbers


def save(path: Path, numbers: np.ndarray, mode: str = "P") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(numbers)
    if mode == "P":
        picture.putpalette(colour_map().ravel().tolist())
    if mode == "RGB":
        picture = Image.fromarray(colour_map()[numbers])
    picture.save(path)
    return path


def voc_with_masks(root: Path, order: tuple[int, ...] = (1, 2, 3), mode: str = "P") -> Path:
    """Two images with three objects each, whose boxes go round the void too; one has masks."""
    boxes = [(c.start, r.start, c.stop, r.stop) for r, c in SHAPES.values()]
    names = ("dog", "cat", "dog")
    objects = "".join(voc_object(name, *box) for name, box in zip(names, boxes, strict=True))
    source = write_voc(root, {"a": objects, "b": objects})
    save(root / "SegmentationObject" / "a.png", numbers_of(*order), mode)
    return source


def kinds(index: DatasetIndex) -> list[str]:
    return [problem.kind for problem in index.problems]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (7, 200, 30)])
def test_each_box_gets_the_mask_that_lies_in_it(tmp_path: Path, order: tuple[int, ...], mode: str) -> None:
    index = read_index(str(voc_with_masks(tmp_path, order, mode)))
    assert_account_closes(index)
    assert kinds(index) == []
    assert index.names == ["cat", "dog"] or index.names == ["dog", "cat"]
    assert sorted(index.masks) == [0, 1, 2]
    for box, number in enumerate(order):
        np.testing.assert_array_equal(pixels_of_mask(index.masks[box]), numbers_of(*order) == number)
    assert (np.diff(index.polygon_offsets) > 0).tolist() == [True] * 3 + [False] * 3
    polygons = COCODataset(index, img_size=WIDTH).load(0).polygons
    assert [len(polygon) > 0 for polygon in polygons] == [True] * 3


def test_a_png_with_a_fault_is_named_and_the_boxes_stay(tmp_path: Path) -> None:
    source = voc_with_masks(tmp_path)
    path = tmp_path / "SegmentationObject" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    save(tmp_path / "SegmentationObject" / "b.png", np.ones((HEIGHT, WIDTH - 1), np.uint8))
    index = read_index(str(source))
    assert kinds(index) == ["mask-unusable"] * 2
    assert index.problems[0].file == str(path)
    assert "99 x 80, its image 100 x 80" in index.problems[1].detail
    assert len(index.classes) == 6
    assert not index.masks


def test_masks_that_fit_no_box_are_counted(tmp_path: Path) -> None:
    numbers = numbers_of(1, 2)
    numbers[72:78, 5:30] = 9
    source = voc_with_masks(tmp_path)
    save(tmp_path / "SegmentationObject" / "a.png", numbers)
    index = read_index(str(source))
    assert kinds(index) == ["mask-without-box"]
    assert "the objects 9 fit no box of" in index.problems[0].detail
    assert sorted(index.masks) == [0, 1]


def test_a_list_of_the_segmented_images_takes_their_masks(tmp_path: Path) -> None:
    voc_with_masks(tmp_path)
    listing = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("a\n")
    index = read_index(str(listing))
    assert (len(index), len(index.masks)) == (1, 3)


def test_the_stored_index_knows_a_changed_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("yoloflow.data.caches.index._TICK_NS", -(10**12))
    source = voc_with_masks(tmp_path / "set")
    first = read_index(str(source), cache=True)
    assert list((tmp_path / "cache").rglob("*.index"))
    assert read_index(str(source), cache=True).masks == first.masks
    save(tmp_path / "set" / "SegmentationObject" / "a.png", numbers_of(1, 2, 3, void=3))
    assert read_index(str(source), cache=True).masks != first.masks


# PNG alone


def png_set(root: Path, *, classes: bool = True, label_map: bool = False, mode: str = "P") -> Path:
    for number, name in enumerate("abc"):
        write_picture(root / "JPEGImages" / f"{name}.jpg")
        if name != "c":
            numbers = numbers_of(1, 2, 3)
            save(root / "SegmentationObject" / f"{name}.png", numbers, mode)
            if classes:
                found = np.array([0, 2, 1, 2 - number, *[0] * 251, 255], np.uint8)[numbers]
                save(root / "SegmentationClass" / f"{name}.png", found, mode)
    if label_map:
        rows = [
            f"{name}:{','.join(map(str, colour_map()[n]))}::"
            for n, name in enumerate(("background", "cat", "dog"))
        ]
        (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_png_alone_are_objects_with_the_extents_of_their_pixels(tmp_path: Path, mode: str) -> None:
    index = read_index(str(png_set(tmp_path, mode=mode)), names=["cat", "dog"])
    assert_account_closes(index)
    assert kinds(index) == ["images-without-png"]
    assert "1 images have no PNG" in index.problems[0].detail
    assert index.classes.tolist() == [1, 0, 1, 1, 0, 0]
    assert index.boxes_xyxy[0].tolist() == [7, 12, 23, 28]
    numbers = numbers_of(1, 2, 3)
    assert index.areas.tolist() == [(numbers == n).sum() for n in (1, 2, 3)] * 2
    np.testing.assert_array_equal(pixels_of_mask(index.masks[1]), numbers == 2)
    assert problems_report(index)["images"]["listed"] == 2


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationObject"])
def test_the_folder_of_the_images_or_of_the_masks_means_the_set(tmp_path: Path, folder: str) -> None:
    whole = read_index(str(png_set(tmp_path)), nc=2)
    index = read_index(str(tmp_path / folder), nc=2)
    assert index.fingerprint() == whole.fingerprint()
    assert index.masks == whole.masks


def test_a_label_map_names_the_classes(tmp_path: Path) -> None:
    index = read_index(str(png_set(tmp_path, label_map=True, mode="RGB")))
    assert index.names == ["cat", "dog"]
    assert index.classes.tolist() == [1, 0, 1, 1, 0, 0]
    (tmp_path / "labelmap.txt").write_text("cat;1;2\n")
    with pytest.raises(YoloflowError, match=r"labelmap.txt:1: is not `name:red,green,blue`"):
        read_index(str(tmp_path))


def test_without_classes_all_objects_are_of_one(tmp_path: Path) -> None:
    index = read_index(str(png_set(tmp_path, classes=False)))
    assert index.names == ["object"]
    assert len(index.classes) == 6


def test_classes_without_names_ask_for_them(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="name no classes; set data.nc"):
        read_index(str(png_set(tmp_path)))


def test_classes_of_pixels_alone_are_no_objects(tmp_path: Path) -> None:
    shutil.rmtree(png_set(tmp_path) / "SegmentationObject")
    with pytest.raises(YoloflowError, match="do not tell one object from the next"):
        read_index(str(tmp_path), nc=2)


def test_faults_of_png_alone_are_named_and_the_account_closes(tmp_path: Path) -> None:
    source = png_set(tmp_path)
    (source / "SegmentationObject" / "a.png").write_bytes(b"no image")
    classes = np.array(Image.open(source / "SegmentationClass" / "b.png"))
    classes[numbers_of(1, 2, 3) == 2] = 255
    save(source / "SegmentationClass" / "b.png", classes)
    save(source / "SegmentationObject" / "gone.png", numbers_of(1))
    save(source / "SegmentationClass" / "gone.png", numbers_of(1))
    index = read_index(str(source), nc=2)
    assert_account_closes(index)
    assert sorted(kinds(index)) == ["images-without-png", "malformed-entry", "mask-unusable", "missing-image"]
    assert index.classes.tolist() == [1, 0]


def test_lists_of_png_alone(tmp_path: Path) -> None:
    source = png_set(tmp_path)
    listing = source / "ImageSets" / "Segmentation" / "default.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("b\n")
    index = read_index(str(listing), nc=2)
    assert [Path(path).name for path in index.image_paths] == ["b.jpg"]
    assert len(index.classes) == 3
    listing.write_text("b\nmissing\n")
    index = read_index(str(listing), nc=2)
    assert kinds(index) == ["mask-unusable"]
    assert_account_closes(index)


def test_voc_colours_are_numbers_and_back() -> None:
    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(numbers_of_colours(colour_map()[numbers]), numbers)
    assert colour_map()[[1, 15, 255]].tolist() == [[128, 0, 0], [192, 128, 128], [224, 224, 192]]


# Written


def test_masks_are_written_as_png_and_read_again(tmp_path: Path) -> None:
    source = rich_coco(tmp_path / "in")
    lines = convert([str(source)], "voc", tmp_path / "voc")
    assert not any("outlines" in line for line in lines)
    first, second = read_index(str(source)), read_index(str(tmp_path / "voc" / "train"))
    # One lies half under another: what is seen of it does not fill its box.
    assert kinds(second) == ["outline-mismatch"]
    assert any("1 masks are cut" in line for line in lines)
    num_outlines = len({*np.flatnonzero(np.diff(first.polygon_offsets)).tolist(), *first.masks})
    assert len(second.masks) == num_outlines - 1
    for box, mask in first.masks.items():
        np.testing.assert_array_equal(pixels_of_mask(second.masks[box]), pixels_of_mask(mask))
    png = np.array(Image.open(next((tmp_path / "voc" / "train" / "SegmentationClass").glob("*.png"))))
    assert set(np.unique(png)) <= {0, 1, 2, 3}


def test_masks_under_smaller_ones_are_counted(tmp_path: Path) -> None:
    large, small = [10, 10, 60, 10, 60, 60, 10, 60], [20, 20, 30, 20, 30, 30, 20, 30]
    rows = [
        annotation(bbox=[20, 20, 10, 10], segmentation=[small]),
        annotation(bbox=[10, 10, 50, 50], segmentation=[large]),
    ]
    lines = convert([str(write_coco(tmp_path / "in", rows))], "voc", tmp_path / "voc")
    assert "  lost: 1 masks are cut where others, that are smaller, lie on top" in lines
    index = read_index(str(tmp_path / "voc" / "train"))
    assert [int(pixels_of_mask(index.masks[box]).sum()) for box in (0, 1)] == [100, 2400]


def test_png_alone_are_split_as_voc_and_converted(tmp_path: Path) -> None:
    source = png_set(tmp_path / "in", label_map=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 77, np.uint8)).save(source / "JPEGImages" / "b.jpg")
    split_data([str(source)], tmp_path / "parts", {"train": 0.5, "val": 0.5})
    train = read_index(str(tmp_path / "parts" / "train"))
    assert (len(train), len(train.masks)) == (1, 3)
    convert([str(source)], "coco", tmp_path / "coco")
    whole, again = read_index(str(source)), read_index(str(tmp_path / "coco" / "annotations" / "train.json"))
    assert again.masks == whole.masks
    assert again.areas.tolist() == whole.areas.tolist()
