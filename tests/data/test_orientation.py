"""Boxes of a program that does not look at EXIF, or that follows XMP, lie on the image as it is decoded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.data_sets import voc_object, write_picture
from yoloflow.data.formats.outlines import mask_of_pixels, pixels_of_mask
from yoloflow.data.image_files import decode_image, inspect_image
from yoloflow.data.index import read_index
from yoloflow.structures import DatasetIndex, YoloflowError

WIDTH, HEIGHT = 80, 48
BOX = (10, 5, 30, 10)


def write_turned(path: Path, orientation: int) -> Path:
    """A black image with a white box, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    x, y, w, h = BOX
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def write_json(
    folder: Path, sizes: dict[str, tuple[int, int]], bbox: Any = BOX, segmentation: Any = ()
) -> str:
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, (name, (width, height)) in enumerate(sizes.items())
    ]
    annotations = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": bbox, "segmentation": segmentation}
        for number in range(len(images))
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "c"}]}
    (folder / "set.json").write_text(json.dumps(content))
    return str(folder / "set.json")


def white_box(path: str) -> list[int]:
    rows, columns = np.nonzero(decode_image(path)[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def kinds(index: DatasetIndex) -> list[str]:
    return [problem.kind for problem in index.problems if problem.kind != "exif-rotated"]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_outlines_and_masks_in_raw_coordinates_are_turned(tmp_path: Path, orientation: int) -> None:
    paths = [write_turned(tmp_path / "a.png", orientation), write_turned(tmp_path / "b.png", 6)]
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y, w, h = BOX
    pixels[y : y + h, x : x + w] = 1
    index = read_index(
        write_json(
            tmp_path, {path.name: (WIDTH, HEIGHT) for path in paths}, segmentation=mask_of_pixels(pixels)
        )
    )
    assert kinds(index) == ["raw-frame-boxes"] * 2
    for image, path in enumerate(map(str, paths)):
        expected = white_box(path)
        assert index.boxes_xyxy[image].tolist() == expected
        points = index.polygon_points[index.polygon_offsets[image] : index.polygon_offsets[image + 1]]
        assert np.abs(np.concatenate((points.min(0), points.max(0))) - expected).max() == 0
        assert (pixels_of_mask(index.masks[image]) == (decode_image(path)[..., 0] > 128)).all()


def test_boxes_of_xml_files_in_raw_coordinates_are_turned(tmp_path: Path) -> None:
    path = write_turned(tmp_path / "a.png", 8)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    box = voc_object("c", 10, 5, 40, 15)
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{size}{box}</annotation>")
    index = read_index(str(tmp_path))
    assert index.boxes_xyxy.tolist() == [white_box(str(path))]
    assert kinds(index) == ["raw-frame-boxes"]


def test_boxes_of_the_turned_image_stay(tmp_path: Path) -> None:
    write_turned(tmp_path / "a.png", 6)
    write_turned(tmp_path / "b.png", 3)
    index = read_index(write_json(tmp_path, {"a.png": (HEIGHT, WIDTH), "b.png": (WIDTH, HEIGHT)}))
    assert kinds(index) == []
    assert index.boxes_xyxy.tolist() == [[10, 5, 40, 15]] * 2


def test_each_stated_size_is_about_its_own_image(tmp_path: Path) -> None:
    raw = write_turned(tmp_path / "a.png", 6)
    write_turned(tmp_path / "b.png", 6)
    index = read_index(write_json(tmp_path, {"a.png": (WIDTH, HEIGHT), "b.png": (HEIGHT, WIDTH)}))
    assert kinds(index) == ["raw-frame-boxes"]
    assert index.boxes_xyxy.tolist() == [white_box(str(raw)), [10, 5, 40, 15]]


def test_a_box_that_fits_the_turned_image_only_shows_how_it_was_drawn(tmp_path: Path) -> None:
    write_turned(tmp_path / "a.png", 6)
    index = read_index(write_json(tmp_path, {"a.png": (WIDTH, HEIGHT)}, bbox=(5, 50, 20, 25)))
    assert kinds(index) == ["size-mismatch"]
    assert index.boxes_xyxy.tolist() == [[5, 50, 25, 75]]


def read_kept(source: str) -> DatasetIndex:
    return read_index(source, policy={"foreign-size": "keep"})


@pytest.mark.parametrize("size", [(160, 96), (40, 24), (60, 60), (8000, 4800)])
def test_a_stated_size_that_nothing_explains_is_an_error_with_advice_that_works(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    write_picture(tmp_path / "a.png", WIDTH, HEIGHT)
    source = write_json(tmp_path, {"a.png": size}, bbox=(3, 5, 20, 10))
    stated = f"a.png is stated as {size[0]} x {size[1]} .* but has {WIDTH} x {HEIGHT}"
    with pytest.raises(
        YoloflowError, match=rf"{stated}.*set data.problems.foreign-size to keep or drop-image"
    ):
        read_index(source)
    assert kinds(read_kept(source)) == ["foreign-size"]


@pytest.mark.parametrize("orientation", [1, 6])
def test_boxes_that_fit_the_stated_frame_only_are_not_taken(tmp_path: Path, orientation: int) -> None:
    write_turned(tmp_path / "a.png", orientation)
    size = (HEIGHT, WIDTH) if orientation == 1 else (WIDTH * 2, HEIGHT * 2)
    source = write_json(
        tmp_path, {"a.png": size}, bbox=(5, 50, 20, 25) if orientation == 1 else (99, 5, 9, 9)
    )
    with pytest.raises(YoloflowError, match="foreign-size"):
        read_index(source)


def test_a_box_that_fits_the_image_only_speaks_for_the_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, WIDTH, HEIGHT)
    path = Path(write_json(tmp_path, {"a.png": (20, 20), "b.png": (20, 20)}))
    assert kinds(read_index(str(path))) == ["size-mismatch"] * 2
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [1, 1, 5, 5]
    path.write_text(json.dumps(content))
    assert kinds(read_index(str(path))) == ["size-mismatch"] * 2


@pytest.mark.parametrize(("size", "bbox"), [((WIDTH + 1, HEIGHT - 1), BOX), ((HEIGHT, WIDTH), BOX)])
def test_a_pixel_more_and_exchanged_sides_are_a_remark(
    tmp_path: Path, size: tuple[int, int], bbox: Any
) -> None:
    write_picture(tmp_path / "a.png", WIDTH, HEIGHT)
    assert kinds(read_index(write_json(tmp_path, {"a.png": size}, bbox))) == ["size-mismatch"]


def test_an_image_without_objects_may_state_any_size(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, WIDTH, HEIGHT)
    path = Path(write_json(tmp_path, {"a.png": (1, 1), "b.png": (WIDTH, HEIGHT)}))
    content = json.loads(path.read_text())
    del content["annotations"][0]
    path.write_text(json.dumps(content))
    assert kinds(read_index(str(path))) == ["size-mismatch"]


def test_each_of_the_entries_that_are_joined_has_its_own_size(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", WIDTH, HEIGHT)
    path = Path(write_json(tmp_path, {"a.png": (WIDTH, HEIGHT), "./a.png": (160, 96)}, bbox=(3, 5, 20, 10)))
    with pytest.raises(YoloflowError, match="stated as 160 x 96"):
        read_index(str(path))
    assert kinds(read_kept(str(path))) == ["duplicate-image", "foreign-size", "duplicate-box"]


def test_xml_files_state_sizes_too(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", WIDTH, HEIGHT)
    size = "<size><width>200</width><height>100</height><depth>3</depth></size>"
    box = voc_object("c", 10, 5, 40, 15)
    (tmp_path / "a.xml").write_text(f"<annotation><filename>a.png</filename>{size}{box}</annotation>")
    with pytest.raises(YoloflowError, match=r"a\.xml: .*a\.png is stated as 200 x 100"):
        read_index(str(tmp_path))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tiff", ".png"])
def test_an_orientation_that_only_xmp_has_is_not_taken(tmp_path: Path, suffix: str) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x010F] = "a maker, and no orientation"
    path = write_picture(tmp_path / f"a{suffix}", WIDTH, HEIGHT, xmp=xmp, exif=exif)
    header = inspect_image(str(path))
    assert (header.height, header.width, header.orientation) == (HEIGHT, WIDTH, 1)
    assert decode_image(str(path)).shape[:2] == (HEIGHT, WIDTH)


def test_boxes_of_a_program_that_follows_xmp_are_turned_back(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    write_picture(tmp_path / "a.jpg", WIDTH, HEIGHT, xmp=xmp)
    index = read_index(write_json(tmp_path, {"a.jpg": (HEIGHT, WIDTH)}, bbox=(8, 10, 30, 30)))
    assert kinds(index) == ["raw-frame-boxes"]
    assert index.boxes_xyxy.tolist() == [[10, 10, 40, 40]]
