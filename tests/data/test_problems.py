"""Bad input: each thing wrong is named with file and line, repaired as said, and no count is lost."""

import struct
from pathlib import Path
from typing import Any

import cv2
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
    write_yolo,
)
from tests.support.rich_sets import assert_account_closes
from yoloflow.data.dataset import COCODataset
from yoloflow.data.index import read_index
from yoloflow.data.problems import problems_report, summarise_problems
from yoloflow.structures import DatasetIndex, YoloflowError

GOOD = "0 .5 .5 .2 .25\n"
NAMES = ["cat", "dog"]


def only_problem(index: DatasetIndex) -> tuple[str, int | None, str, str]:
    assert_account_closes(index)
    assert len(index.problems) == 1, index.problems
    problem = index.problems[0]
    return Path(problem.file).name, problem.line, problem.kind, problem.action


# Label lines


@pytest.mark.parametrize(
    ("line", "kind", "action"),
    [
        ("0 nan .5 .2 .2", "box-nan", "drop-box"),
        ("0 .5 inf .2 .2", "box-nan", "drop-box"),
        ("0 1e308 1e308 1e308 1e308", "not-normalised", "drop-box"),
        ("0 .5 .5 -.2 .2", "box-negative", "drop-box"),
        ("0 -.5 .5 .2 .2", "box-negative", "drop-box"),
        ("0 .05 .5 .2 .2", "box-negative", "clip-box"),
        ("0 .95 .5 .2 .2", "box-over-one", "clip-box"),
        ("0 .5 1.05 .2 .2", "box-over-one", "clip-box"),
        ("0 320 240 50 50", "not-normalised", "drop-box"),
        ("0 1e9 1e9 1 1", "not-normalised", "drop-box"),
        ("0 20 10 60 50", "not-normalised", "drop-box"),
        ("0 -3 .5 .2 .2", "not-normalised", "drop-box"),
        ("0 20 10 60 10 60 50", "not-normalised", "drop-box"),
        ("0 1.3 .5 .2 .2", "box-over-one", "drop-box"),
        ("0 .5 .5 0 .2", "box-zero-area", "drop-box"),
        ("0 .5 .5 .2 0", "box-zero-area", "drop-box"),
        ("0 .5 .5 .2 .25", "duplicate-box", "drop-box"),
        ("0 .5 .5 .2", "wrong-column-count", "drop-box"),
        ("0 .5 .5 .2 .2 .9", "wrong-column-count", "drop-box"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "wrong-column-count", "drop-box"),
        ("0", "wrong-column-count", "drop-box"),
        ("cat .5 .5 .2 .2", "class-not-a-number", "drop-box"),
        ("0.5 .5 .5 .2 .2", "class-not-a-number", "drop-box"),
        ("nan .5 .5 .2 .2", "class-not-a-number", "drop-box"),
        ("1e300 .5 .5 .2 .2", "class-not-a-number", "drop-box"),
        ("1_0 .5 .5 .2 .2", "class-not-a-number", "drop-box"),
        ("0 .5 x .2 .2", "box-not-a-number", "drop-box"),
        ("0 .5,.5,.2,.2", "box-not-a-number", "drop-box"),
        ("0 .1 .1 .2 nan .3 .3", "box-nan", "drop-box"),
        ("0 .1 .1 .2 .1 .3 .1", "box-zero-area", "drop-box"),
        ("0 -.1 .1 .2 .1 .3 .4", "box-negative", "clip-box"),
    ],
)
def test_a_bad_label_line_is_named_and_repaired(tmp_path: Path, line: str, kind: str, action: str) -> None:
    source = write_yolo(tmp_path, {"a": GOOD + "\n" + line + "\n1 .5 .5 .1 .1\n", "b": GOOD})
    index = read_index(str(source), names=NAMES)
    assert only_problem(index) == ("a.txt", 3, kind, action)
    assert index.num_boxes_listed == 4
    assert len(index.classes) == (4 if action == "clip-box" else 3)
    with pytest.raises(YoloflowError, match=rf"a\.txt:3: .*\[{kind}\]; correct the data"):
        read_index(str(source), names=NAMES, policy="error")


def test_a_clipped_box_keeps_what_is_inside(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .05 .95 .2 .25\n0 .9 .1 1.2 .1 1.2 .5"})
    index = read_index(str(source), nc=1)
    np.testing.assert_allclose(index.boxes_xyxy, [[0, 66, 15, 80], [90, 8, 100, 40]])
    np.testing.assert_allclose(index.areas, [15 * 14, 10 * 32])
    np.testing.assert_allclose(index.polygon_points, [[90, 8], [100, 8], [100, 40]], rtol=1e-6)
    assert_account_closes(index)


def test_rounded_figures_at_the_edge_are_no_problem(tmp_path: Path) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": "0 .500001 .5 1.000001 1.0"})), nc=1)
    assert index.problems == []


def test_objects_of_one_box_and_different_outlines_are_no_duplicates(tmp_path: Path) -> None:
    upper, lower = "0 .2 .2 .6 .2 .6 .6", "0 .2 .2 .2 .6 .6 .6"
    lines = "\n".join([upper, lower, upper, lower])
    index = read_index(str(write_yolo(tmp_path, {"a": lines})), nc=1)
    assert len(index.boxes_xyxy) == 2
    assert [(problem.line, problem.kind) for problem in index.problems] == [
        (line, "duplicate-box") for line in (3, 4)
    ]


def test_equal_boxes_of_other_classes_or_images_are_no_duplicates(tmp_path: Path) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": GOOD + "1 .5 .5 .2 .25", "b": GOOD})), nc=2)
    assert index.problems == []


@pytest.mark.parametrize("value", [2, -1, 10**9])
def test_a_class_out_of_range_is_an_error_unless_the_user_says_otherwise(tmp_path: Path, value: int) -> None:
    label = f"{GOOD}{value} .5 .5 .1 .1\n{value} .5 .5 .3 .3"
    with pytest.raises(
        YoloflowError, match=rf"a\.txt:2: class {value} does not exist: .* 0 to 1 .*\(and 1 more problem\)"
    ):
        read_index(str(write_yolo(tmp_path, {"a": label})), nc=2)
    index = read_index(str(tmp_path / "list.txt"), nc=2, policy={"class-out-of-range": "drop-box"})
    assert_account_closes(index)
    assert len(index.classes) == 1


def test_the_error_policy_says_how_many_more_there_are(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 nan .5 .2 .2\n0 .5 .5 0 .2\n0 .5 .5\n" + GOOD})
    with pytest.raises(YoloflowError, match=r"and 2 more problems"):
        read_index(str(source), nc=1, policy="error")
    with pytest.raises(YoloflowError, match='must be "repair", "error", or actions'):
        read_index(str(source), nc=1, policy="ignore")


# Files


def test_a_missing_label_is_background_and_named_an_empty_one_is_not(tmp_path: Path) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": GOOD, "b": None, "c": " \n\n"})), nc=1)
    assert only_problem(index) == ("b.png", None, "missing-label", "keep")
    images = problems_report(index)["images"]
    assert (images["used"], images["background"], images["background_without_label_file"]) == (3, 2, 1)


@pytest.mark.parametrize(
    "content", ["0 .5 .5 .2 .2".encode("utf-16-le"), b"\0\x01\x02\xff", b"0 .5 .5 .2 .2\0"]
)
def test_a_label_file_that_is_no_text_drops_its_image(tmp_path: Path, content: bytes) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": content, "b": GOOD})), nc=1)
    assert only_problem(index) == ("a.txt", None, "label-not-text", "drop-image")


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "empty-image-file"), (b"some text", "not-an-image"), (None, "truncated-image")],
)
def test_an_unusable_image_goes_with_its_boxes(tmp_path: Path, content: bytes | None, kind: str) -> None:
    source = write_yolo(tmp_path, {"a": GOOD + "0 .5 .5 0 0\n0 nan 0 0 0", "b": GOOD, "c": None})
    picture = tmp_path / "images" / "a.png"
    picture.write_bytes(picture.read_bytes()[:-40] if content is None else content)
    (tmp_path / "images" / "c.png").write_bytes(b"")
    index = read_index(str(source), nc=1)
    assert_account_closes(index)
    assert [(Path(problem.file).name, problem.kind) for problem in index.problems] == [
        ("a.png", kind),
        ("c.png", "empty-image-file"),
    ]
    assert problems_report(index)["boxes"]["dropped"] == {"with-dropped-image": 3}


def test_a_listed_image_that_does_not_exist_is_named_with_its_line(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD})
    source.write_text("images/a.png\n\nimages/none.png\n")
    assert only_problem(read_index(str(source), nc=1)) == ("list.txt", 3, "missing-image", "drop-image")


def test_an_image_listed_twice_is_used_once(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD, "b": GOOD})
    source.write_text("images/a.png\nimages/b.png\n./images/../images/a.png\n")
    index = read_index(str(source), nc=1)
    assert only_problem(index) == ("list.txt", 3, "duplicate-image", "drop-image")
    assert len(read_index([str(source), str(tmp_path / "images")], nc=1)) == 2


def test_an_image_of_one_pixel_is_used(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 1 1"})
    write_picture(tmp_path / "images" / "a.png", 1, 1)
    index = read_index(str(source), nc=1)
    assert index.problems == []
    assert index.boxes_xyxy.tolist() == [[0, 0, 1, 1]]


def test_boxes_follow_the_exif_rotation(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 1 .5"})
    exif = Image.Exif()
    exif[0x0112] = 6
    write_picture(tmp_path / "images" / "a.png", exif=exif)
    index = read_index(str(source), nc=1)
    assert index.sizes_hw.tolist() == [[WIDTH, HEIGHT]]
    assert index.boxes_xyxy.tolist() == [[0, 25, HEIGHT, 75]]


def test_what_pillow_warns_of_is_told_with_the_file(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD, "b": GOOD})
    path = tmp_path / "images" / "b.png"
    write_picture(tmp_path / "b.tiff")
    data = bytearray((tmp_path / "b.tiff").read_bytes())
    entry = data.index(struct.pack("<HHI", 259, 3, 1))  # the compression, said to be three numbers
    data[entry + 4] = 2
    path.write_bytes(data)
    index = read_index(str(source), nc=1)
    assert_account_closes(index)
    (found,) = (problem for problem in index.problems if problem.kind == "odd-image-file")
    assert (found.file, found.action) == (str(path), "keep")
    assert "tag 259 had too many entries" in found.detail
    assert len(read_index(str(source), nc=1, policy={"odd-image-file": "drop-image"})) == 1


def test_what_the_decoder_prints_is_told_with_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = write_yolo(tmp_path, {"a": GOOD, "b": GOOD})
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.jpg")
    data = (tmp_path / "b.jpg").read_bytes()
    path = tmp_path / "images" / "b.png"
    path.write_bytes(data[: len(data) // 2] + data[-2:])
    index = read_index(str(source), nc=1, decode=True)
    (found,) = (problem for problem in index.problems if problem.kind == "odd-image-file")
    assert found.file == str(path)
    assert "the decoder says: Corrupt JPEG data: premature end of data segment" in found.detail
    assert capfd.readouterr().err == ""


# Whole sources


def test_a_source_without_anything_usable_is_an_error(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 0 0"})
    with pytest.raises(YoloflowError, match=r"none of its 1 boxes can be used: .*a\.txt:1"):
        read_index(str(source), nc=1)
    (tmp_path / "labels" / "a.txt").unlink()
    with pytest.raises(
        YoloflowError, match=r"no image has a label file; for .*a\.png there should be .*labels/a\.txt"
    ):
        read_index(str(source), nc=1)
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(YoloflowError, match=r"none of its 1 images can be used: .*a\.png"):
        read_index(str(source), nc=1)
    source.write_text("\n \n")
    with pytest.raises(YoloflowError, match=r"list\.txt: lists no images"):
        read_index(str(source), nc=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(YoloflowError, match="empty: lists no images"):
        read_index(str(tmp_path / "empty"), nc=1)
    with pytest.raises(YoloflowError, match="no data source"):
        read_index([], nc=1)


def test_a_missing_source_names_its_neighbours(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": GOOD})
    with pytest.raises(
        YoloflowError, match=r"lst\.txt: there is no such file or folder \(did you mean list\.txt"
    ):
        read_index(str(tmp_path / "lst.txt"), nc=1)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    with pytest.raises(YoloflowError, match="no data set of a known kind"):
        read_index(str(tmp_path / "data.parquet"), nc=1)
    (tmp_path / "bad.txt").write_bytes(b"images/\xe9.png")
    with pytest.raises(YoloflowError, match=r"bad\.txt: cannot be read as UTF-8 text"):
        read_index(str(tmp_path / "bad.txt"), nc=1)


# COCO json


@pytest.mark.parametrize(
    ("row", "kind", "action"),
    [
        (annotation(bbox=[0, 0, 1]), "wrong-column-count", "drop-box"),
        (annotation(bbox="0 0 1 1"), "wrong-column-count", "drop-box"),
        (annotation(bbox=[0, 0, "wide", 1]), "box-not-a-number", "drop-box"),
        (annotation(bbox=[0, 0, None, 1]), "box-not-a-number", "drop-box"),
        (annotation(bbox=[0, 0, 10**400, 1]), "box-not-a-number", "drop-box"),
        (annotation(bbox=[0, float("nan"), 1, 1]), "box-nan", "drop-box"),
        (annotation(bbox=[0, 0, -1, 1]), "box-negative", "drop-box"),
        (annotation(bbox=[-5, 0, 10, 10]), "box-negative", "clip-box"),
        (annotation(bbox=[95, 0, 10, 10]), "box-over-one", "clip-box"),
        (annotation(bbox=[0, 0, 0, 10]), "box-zero-area", "drop-box"),
        (annotation(), "duplicate-box", "drop-box"),
        (annotation(11), "unknown-image-id", "drop-box"),
        (annotation(None), "unknown-image-id", "drop-box"),
        (annotation([10]), "unknown-image-id", "drop-box"),
        (annotation(10, None), "class-not-a-number", "drop-box"),
        (annotation(10, "cat"), "class-not-a-number", "drop-box"),
        ({"id": 3, "image_id": 10, "category_id": 3}, "malformed-entry", "drop-box"),
        ("annotation", "malformed-entry", "drop-box"),
        (annotation(bbox=[1, 1, 5, 5], segmentation=[[1, 2, 3]]), "polygon-malformed", "keep"),
        (annotation(bbox=[1, 1, 5, 5], segmentation=[["a"] * 6]), "polygon-malformed", "keep"),
        (annotation(bbox=[1, 1, 5, 5], segmentation=[[float("nan")] * 6]), "polygon-malformed", "keep"),
        (annotation(bbox=[1, 1, 5, 5], segmentation="outline"), "polygon-malformed", "keep"),
    ],
)
def test_a_bad_annotation_is_named_and_repaired(tmp_path: Path, row: Any, kind: str, action: str) -> None:
    source = write_coco(tmp_path, [annotation(), row, annotation(20)])
    index = read_index(str(source))
    assert only_problem(index) == ("set.json", None, kind, action)
    assert "annotation" in index.problems[0].detail
    assert len(index.classes) == (2 if action == "drop-box" else 3)


def test_a_category_that_is_not_listed_is_an_error(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation(), annotation(10, 99)])
    with pytest.raises(YoloflowError, match=r"annotation 1: category_id 99 .*\(3, 7\)"):
        read_index(str(source))


@pytest.mark.parametrize("area", [None, "big", float("nan"), -1, True])
def test_an_area_that_is_none_is_width_times_height(tmp_path: Path, area: Any) -> None:
    index = read_index(str(write_coco(tmp_path, [annotation(area=area)])))
    assert index.areas.tolist() == ([1] if area is True else [600])
    assert index.problems == []


def test_a_box_far_outside_of_its_image_is_told_with_the_likely_cause(tmp_path: Path) -> None:
    index = read_index(str(write_coco(tmp_path, [annotation(bbox=(60, 10, 90, 30))])))
    assert only_problem(index)[2:] == ("box-over-one", "clip-box")
    assert f"far outside of the image of {WIDTH} x {HEIGHT} (width x height); is it of another image" in (
        index.problems[0].detail
    )


def test_a_stated_size_that_is_not_the_files_is_named(tmp_path: Path) -> None:
    images = [{"id": 10, "file_name": "1.png", "width": HEIGHT, "height": WIDTH}]
    index = read_index(str(write_coco(tmp_path, [annotation()], images=images)))
    assert only_problem(index) == ("set.json", None, "size-mismatch", "keep")
    assert index.sizes_hw.tolist() == [[HEIGHT, WIDTH]]


@pytest.mark.parametrize("bad", [{"id": 20}, {"file_name": "2.png"}, None, {}])
def test_a_bad_image_entry_is_named_and_dropped(tmp_path: Path, bad: Any) -> None:
    images = [{"id": 10, "file_name": "1.png"}, bad]
    index = read_index(str(write_coco(tmp_path, [annotation()], images=images)))
    assert only_problem(index) == ("set.json", None, "malformed-image-entry", "drop-image")
    assert index.image_ids.tolist() == [10]


def test_one_id_for_two_files_is_an_error_and_can_drop_both(tmp_path: Path) -> None:
    images = [
        *({"id": 10, "file_name": f"{number}.png"} for number in (1, 2)),
        {"id": 30, "file_name": "3.png"},
    ]
    source = str(write_coco(tmp_path, [annotation(), annotation(30)], 3, images=images))
    with pytest.raises(
        YoloflowError, match=r"1\.png has the id 10 of 2\.png \(images\[1\]\) too; give .* \[ambiguous"
    ):
        read_index(source)
    index = read_index(source, policy={"ambiguous-image-id": "drop-image"})
    assert_account_closes(index)
    assert (index.image_ids.tolist(), index.num_images_listed) == ([30], 3)
    assert index.num_boxes_of_dropped_images == 1


@pytest.mark.parametrize("more", [{"id": 11, "file_name": "1.png"}, {"id": 10, "file_name": "./1.png"}])
def test_objects_of_an_image_with_several_entries_are_joined(tmp_path: Path, more: dict[str, Any]) -> None:
    images = [{"id": 10, "file_name": "1.png"}, more]
    boxes = [annotation(), annotation(more["id"], bbox=[50, 5, 20, 20])]
    index = read_index(str(write_coco(tmp_path, boxes, images=images)))
    assert only_problem(index) == ("set.json", None, "duplicate-image", "drop-image")
    assert index.image_ids.tolist() == [10]
    assert index.boxes_xyxy.tolist() == [[10, 10, 30, 40], [50, 5, 70, 25]]


def test_two_xml_files_of_one_image_are_joined_and_keep_their_places(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": voc_object("cat", 10, 10, 30, 40), "b": ""})
    name = "<filename>b.png</filename>"
    other = root / "Annotations" / "b.xml"
    text = other.read_text().replace(name, "<filename>a.png</filename>")
    objects = voc_object("cat", 50, 5, 70, 25) + voc_object("cat", 50, 5, 50, 25)
    other.write_text(text.replace("</annotation>", objects + "</annotation>"))
    index = read_index(str(root))
    assert_account_closes(index)
    assert index.boxes_xyxy.tolist() == [[10, 10, 30, 40], [50, 5, 70, 25]]
    assert [(Path(p.file).name, p.kind) for p in index.problems if p.action == "drop-box"] == [
        ("b.xml", "box-zero-area")
    ]


def test_ids_that_are_names_are_numbered(tmp_path: Path) -> None:
    images = [{"id": "one", "file_name": "1.png"}, {"id": "two", "file_name": "2.png"}]
    index = read_index(str(write_coco(tmp_path, [annotation("two"), annotation("one")], images=images)))
    assert only_problem(index) == ("set.json", None, "image-ids-renumbered", "keep")
    assert index.image_ids.tolist() == [1, 2]


def test_a_json_without_its_images_says_where_it_looked(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation(20)])
    (tmp_path / "images" / "1.png").unlink()
    index = read_index(str(source))
    assert only_problem(index)[2:] == ("missing-image", "drop-image")
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(
        YoloflowError, match=r"none of its 2 images \(1\.png, \.\.\.\).*; set data.image_folder"
    ):
        read_index(str(source))
    with pytest.raises(YoloflowError, match="there is no such folder"):
        read_index(str(source), image_folder="nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"set\.json:1:1: no valid JSON"),
        ('{"images": [\n}', r"set\.json:2:1: no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("[]", "a list .of detections"),
        ("3", "no COCO json"),
        ('{"images": []}', '"categories" is missing'),
        ('{"categories": [], "images": 3}', '"images" is missing or no list'),
        ('{"categories": [3], "images": []}', r"categories\[0\] needs"),
        (
            '{"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "images": []}',
            "is given to a and to b",
        ),
        ('{"categories": [{"id": 1, "name": "a"}], "images": []}', "lists no images"),
        ('{"categories": [], "images": []}', "lists no categories"),
    ],
)
def test_a_json_that_is_no_annotation_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(YoloflowError, match=message) as error:
        read_index(str(tmp_path / "set.json"))
    assert "set.json" in str(error.value)


# VOC xml


@pytest.mark.parametrize(
    ("row", "line", "kind", "action"),
    [
        ("<object><name>cat</name></object>\n", 6, "malformed-entry", "drop-box"),
        (voc_object(" ", 1, 1, 9, 9), 6, "malformed-entry", "drop-box"),
        (voc_object("cat", 1, "x", 9, 9), 6, "box-not-a-number", "drop-box"),
        (voc_object("cat", "nan", 1, 9, 9), 6, "box-nan", "drop-box"),
        (voc_object("cat", 9, 1, 1, 9), 6, "box-negative", "drop-box"),
        (voc_object("cat", -9, 1, 9, 9), 6, "box-negative", "clip-box"),
        (voc_object("cat", 90, 70, 110, 90), 6, "box-over-one", "clip-box"),
        (voc_object("cat", 1, 1, 1, 9), 6, "box-zero-area", "drop-box"),
        (voc_object("cat", 10, 20, 30, 40), 6, "duplicate-box", "drop-box"),
        ("<object>\n", 7, "xml-malformed", "drop-image"),
        ("&undefined;\n", 6, "xml-malformed", "drop-image"),
    ],
)
def test_a_bad_object_is_named_and_repaired(
    tmp_path: Path, row: str, line: int, kind: str, action: str
) -> None:
    good = voc_object("cat", 10, 20, 30, 40)
    root = write_voc(tmp_path, {"a": good + row, "b": good})
    assert only_problem(read_index(str(root))) == ("a.xml", line, kind, action)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\0",
        b"<svg/>",
        b'<!DOCTYPE a [<!ENTITY b "bb">]><annotation><object/></annotation>',
        b'<?xml version="1.0" encoding="martian"?><annotation><folder>x</folder></annotation>',
    ],
)
def test_an_xml_that_is_no_annotation_drops_its_image(tmp_path: Path, content: bytes) -> None:
    root = write_voc(tmp_path, {"a": "", "b": voc_object("cat", 10, 20, 30, 40)})
    (root / "Annotations" / "a.xml").write_bytes(content)
    assert only_problem(read_index(str(root)))[2:] == ("xml-malformed", "drop-image")


# The account


def test_the_summary_tells_the_whole_account(tmp_path: Path) -> None:
    lines = "0 nan .5 .2 .2\n" * 5 + "0 .95 .5 .2 .2\n" + GOOD
    source = write_yolo(tmp_path, {"a": lines, "b": GOOD, "c": None, "d": ""})
    (tmp_path / "images" / "b.png").write_bytes(b"")
    summary = summarise_problems(read_index(str(source), nc=1))
    assert summary[0] == "images: 4 listed = 3 used + 1 dropped (1 empty-image-file)"
    assert summary[1] == "boxes: 8 listed = 2 used + 6 dropped (5 box-nan, 1 with-dropped-image)"
    assert summary[2] == "background: 2 images without a box, 1 without label file"
    assert summary[3] == "clipped: 1 (1 box-over-one)"
    assert "box-nan (5): a coordinate that is NaN or infinite" in summary
    assert "  ... and 2 more" in summary


def test_no_label_text_crashes_or_loses_a_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = [
        "0",
        "1",
        "2.0",
        ".5",
        "-.5",
        "1.5",
        "nan",
        "inf",
        "1e308",
        "1e-320",
        "x",
        "\ufeff",
        "0x1",
        "1_0",
        "é",
    ]
    separators = [" ", "\t", "\n", "\r\n", "\r", "\f", "  ", "\n\n"]
    sets = []
    for number in range(200):
        words = rng.choice(tokens, rng.integers(0, 40))
        text = "".join(word + rng.choice(separators) for word in words)
        sets.append((f"n{number}", text.encode(rng.choice(["utf-8", "utf-16", "utf-8-sig", "utf-16-le"]))))
    source = write_yolo(tmp_path, dict(sets) | {"good": GOOD})
    index = read_index(str(source), nc=3)
    assert_account_closes(index)
    assert len(index.problems) > 200


def test_no_json_value_crashes_or_loses_a_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        3,
        10,
        1e308,
        float("nan"),
        "3",
        "",
        [],
        [1, 2],
        {},
        [[0, 0, 9, 9, 0, 9]],
        [0, 0, 5, 5],
    ]
    keys = ["id", "image_id", "bbox", "iscrowd", "area", "segmentation"]
    rows: list[Any] = []
    for number in range(400):
        row: Any = annotation(bbox=[number / 8, 1, 20, 30])
        for key in rng.choice(keys, 2):
            row[str(key)] = values[rng.integers(len(values))]
        rows.append(row if rng.random() < 0.95 else values[rng.integers(len(values))])
    index = read_index(str(write_coco(tmp_path, rows)))
    assert_account_closes(index)
    assert index.num_boxes_listed == 400
    assert 0 < len(index.classes) < 400


# Formats


def test_images_that_no_library_reads_are_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.avif", "b.jfif", "c.jp2", "d.jpe"):
        write_picture(tmp_path / "images" / name, format="JPEG" if ".j" in name and "2" not in name else None)
    (tmp_path / "images" / "e.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "labels").mkdir()
    for name in "abcde":
        (tmp_path / "labels" / f"{name}.txt").write_text(GOOD)
    index = read_index(str(tmp_path), names=NAMES)
    assert only_problem(index) == ("e.heic", None, "unsupported-image", "drop-image")
    assert [Path(path).suffix for path in index.image_paths] == [".avif", ".jfif", ".jp2", ".jpe"]


# Outlines beside boxes


FAR = [1, 30, 10, 30, 10, 60, 1, 60]


def test_an_outline_elsewhere_is_named_and_the_box_is_trained_on(tmp_path: Path) -> None:
    box = annotation(bbox=[70, 5, 20, 20], segmentation=[FAR])
    source = str(write_coco(tmp_path, [box, annotation(20, segmentation=[[10, 10, 30, 10, 30, 40, 10, 40]])]))
    index = read_index(source)
    assert only_problem(index) == ("set.json", None, "outline-mismatch", "keep")
    assert "are 70, 5, 90, 25 px, its outline's 1, 30, 10, 60 px" in index.problems[0].detail
    assert np.diff(index.polygon_offsets).tolist() == [0, 4]
    row = {"func_name": "random_perspective", "translate": 0, "scale": 0}
    sample = COCODataset(source, WIDTH, [row], is_training=True).get(0, 0)
    np.testing.assert_allclose(sample.boxes_xyxy, [[70, 15, 90, 35]], atol=1e-3)


@pytest.mark.parametrize(
    ("action", "images", "boxes"), [("keep", 2, 2), ("drop-box", 2, 1), ("drop-image", 1, 1)]
)
def test_a_box_with_an_outline_elsewhere_goes_where_the_policy_says(
    tmp_path: Path, action: str, images: int, boxes: int
) -> None:
    source = str(write_coco(tmp_path, [annotation(segmentation=[FAR]), annotation(20)]))
    index = read_index(source, policy={"outline-mismatch": action})
    assert_account_closes(index)
    assert (len(index), len(index.classes)) == (images, boxes)
    with pytest.raises(YoloflowError, match="annotation 1: .*its outline's .*outline-mismatch"):
        read_index(source, policy="error")


@pytest.mark.parametrize(
    "outline",
    [
        [10.5, 10.5, 29.5, 10.5, 29.5, 39.5, 10.5, 39.5],
        [8.5, 10, 31.5, 10, 31.5, 41.5, 8.5, 41.5],
        [10, 10, 30, 10, 20, 40],
    ],
)
def test_an_outline_that_is_rounded_otherwise_stays(tmp_path: Path, outline: list[float]) -> None:
    index = read_index(str(write_coco(tmp_path, [annotation(segmentation=[outline])])))
    assert index.problems == []
    assert index.polygon_points.ravel().tolist() == outline


def test_an_outline_beyond_the_image_is_cut_where_its_box_is(tmp_path: Path) -> None:
    outline = [80, 10, 140, 10, 140, 40, 80, 40]
    index = read_index(str(write_coco(tmp_path, [annotation(bbox=[80, 10, 20, 30], segmentation=[outline])])))
    assert index.problems == []
    assert index.polygon_points.max(0).tolist() == [WIDTH, 40]


def test_12_bit_samples_in_16_bits_are_a_remark_of_the_doctor(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": GOOD, "b": GOOD})
    ramp = np.linspace(0, 4095, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), ramp)
    assert read_index(str(source), names=NAMES).problems == []
    index = read_index(str(source), names=NAMES, policy="error", decode=True)
    assert only_problem(index) == ("a.png", None, "dark-image", "keep")


def test_shares_of_the_image_in_a_format_of_pixels_are_an_error(tmp_path: Path) -> None:
    source = write_coco(
        tmp_path, [annotation(bbox=[0.1, 0.1, 0.4, 0.5]), annotation(20, bbox=[0, 0, 1, 0.5])]
    )
    with pytest.raises(YoloflowError, match=r"set\.json: all 2 boxes end within the first pixel .*shares"):
        read_index(str(source))
    allowed = read_index(str(source), policy={"not-in-pixels": "keep"})
    assert len(allowed.classes) == 2
    one_is_in_pixels = write_coco(tmp_path / "b", [annotation(bbox=[0.1, 0.1, 0.4, 0.5]), annotation(20)])
    assert len(read_index(str(one_is_in_pixels)).classes) == 2
    voc = write_voc(tmp_path / "voc", {"a": voc_object("cat", 0.1, 0.2, 0.4, 0.9)})
    with pytest.raises(YoloflowError, match=r"a\.xml:\d+: .* 0\.1, 0\.2, 0\.4, 0\.9\).*not-in-pixels"):
        read_index(str(voc))
