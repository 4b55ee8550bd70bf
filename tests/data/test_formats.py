"""COCO json, YOLO txt and VOC xml give the same index."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from yoloflow.data.index import read_index
from yoloflow.data.problems import problems_report
from yoloflow.structures import DatasetIndex, YoloflowError

NAMES = ["cat", "dog"]


def boxes_of(index: DatasetIndex, image: int) -> list[list[float]]:
    first, last = index.box_offsets[image : image + 2]
    boxes: list[list[float]] = index.boxes_xyxy[first:last].round(6).tolist()
    return boxes


def assert_no_problems(index: DatasetIndex) -> None:
    assert index.problems == []
    assert index.num_images_listed == len(index)
    assert index.num_boxes_listed == len(index.classes)


# COCO json


def test_category_ids_with_gaps_become_classes_in_id_order(tmp_path: Path) -> None:
    index = read_index(str(write_coco(tmp_path, [annotation(20, 7), annotation(10, 3), annotation(20, 3)])))
    assert index.names == ["cat", "dog"]
    assert index.category_ids.tolist() == [3, 7]
    assert index.image_ids.tolist() == [10, 20]
    assert index.classes.tolist() == [0, 1, 0]
    assert index.box_offsets.tolist() == [0, 1, 3]
    assert boxes_of(index, 0) == [[10, 10, 30, 40]]
    assert index.sizes_hw.tolist() == [[HEIGHT, WIDTH]] * 2
    assert_no_problems(index)


def test_given_names_decide_the_class_order_and_ids_follow(tmp_path: Path) -> None:
    source = str(write_coco(tmp_path, [annotation(10, 7), annotation(10, 3)]))
    index = read_index(source, names=["dog", "cat"], nc=2)
    assert index.classes.tolist() == [0, 1]
    assert index.category_ids.tolist() == [7, 3]


def test_areas_and_crowds_are_kept(tmp_path: Path) -> None:
    runs = {"counts": [0, 5, HEIGHT * WIDTH - 5], "size": [HEIGHT, WIDTH]}
    rows = [annotation(area=123.5), annotation(bbox=[0, 0, 50, 50], iscrowd=1, segmentation=runs)]
    index = read_index(str(write_coco(tmp_path, rows)))
    assert index.areas.tolist() == [123.5, 2500]
    assert index.is_crowd.tolist() == [False, True]
    assert len(index.polygon_points) == 0
    assert_no_problems(index)


@pytest.mark.parametrize("value", [1, True, 1.0, "1", "1.0", "true", "True", "yes"])
def test_crowd_is_written_in_several_ways(tmp_path: Path, value: object) -> None:
    rows = [annotation(iscrowd=value), annotation(20)]
    assert read_index(str(write_coco(tmp_path, rows))).is_crowd.tolist() == [True, False]
    others: list[object] = [0, "0", "false", None, [], 2]
    for other in others:
        rows[0]["iscrowd"] = other
        assert not read_index(str(write_coco(tmp_path, rows))).is_crowd.any()


@pytest.mark.filterwarnings("error")
def test_a_box_that_ends_beyond_all_numbers_is_named(tmp_path: Path) -> None:
    rows = [annotation(bbox=[1e308, 1, 1e308, 3]), annotation(20)]
    index = read_index(str(write_coco(tmp_path, rows)))
    assert [problem.kind for problem in index.problems] == ["box-nan"]


def test_polygons_stay_with_their_boxes(tmp_path: Path) -> None:
    triangle, square = [10, 10, 30, 10, 10, 40], [50, 50, 60, 50, 60, 60, 50, 60]
    rows = [
        annotation(20, bbox=[50, 50, 10, 10], segmentation=[square]),
        annotation(10, bbox=[1, 1, 5, 5]),
        annotation(10, segmentation=[triangle]),
    ]
    index = read_index(str(write_coco(tmp_path, rows)))
    assert index.polygon_offsets.tolist() == [0, 0, 3, 7]
    assert index.polygon_points[:3].ravel().tolist() == triangle
    assert index.polygon_points[3:].ravel().tolist() == square


def test_the_parts_of_an_outline_are_joined_without_new_area(tmp_path: Path) -> None:
    parts = [[0, 0, 10, 0, 10, 10, 0, 10], [30, 0, 40, 0, 40, 10, 30, 10], [0, 30, 10, 30, 10, 50, 0, 50]]
    index = read_index(str(write_coco(tmp_path, [annotation(bbox=[0, 0, 40, 50], segmentation=parts)])))
    x, y = index.polygon_points.astype(float).T
    shoelace = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    assert shoelace == 100 + 100 + 200


@pytest.mark.parametrize("where", ["annotations", "images", "annotations/images", "set", ".", "elsewhere"])
def test_images_are_found_where_people_put_them(tmp_path: Path, where: str) -> None:
    source = write_coco(tmp_path, [annotation()])
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        (tmp_path / "images" / f"{number}.png").rename(tmp_path / where / f"{number}.png")
    folder = str(tmp_path / where) if where == "elsewhere" else None
    index = read_index(str(source), image_folder=folder)
    assert [os.path.dirname(path) for path in index.image_paths] == [os.path.normpath(tmp_path / where)] * 2


def test_a_json_named_after_its_split_finds_the_folder_of_the_split(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation()]).rename(tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "images").rename(tmp_path / "val2017")
    assert len(read_index(str(source))) == 2


def test_a_byte_order_mark_in_a_json_is_read_over(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation()])
    for encoding in ("utf-8-sig", "utf-16"):
        source.write_text(json.dumps(json.loads(source.read_bytes())), encoding=encoding)
        assert len(read_index(str(source))) == 2


def test_ids_written_as_text_are_numbers_still(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation("10", "3"), annotation(20.0, 7.0)])
    index = read_index(str(source))
    assert index.classes.tolist() == [0, 1]
    assert index.image_ids.tolist() == [10, 20]


def test_a_json_without_annotations_lists_images_to_predict_on(tmp_path: Path) -> None:
    index = read_index(str(write_coco(tmp_path, [])))
    assert len(index) == 2
    assert len(index.classes) == 0
    assert index.boxes_xyxy.shape == (0, 4)


# YOLO txt


def test_boxes_and_polygons_stand_in_one_file(tmp_path: Path) -> None:
    label = "1 0.5 0.5 0.2 0.25\n\n0 0.1 0.1 0.3 0.1 0.3 0.5\n1.0 0.25 0.25 0.1 0.1\n"
    index = read_index(str(write_yolo(tmp_path, {"a": label, "b": ""})), names=NAMES)
    assert boxes_of(index, 0) == [[40, 30, 60, 50], [10, 8, 30, 40], [20, 16, 30, 24]]
    assert index.classes.tolist() == [1, 0, 1]
    assert index.polygon_offsets.tolist() == [0, 0, 3, 3]
    np.testing.assert_allclose(index.polygon_points, [[10, 8], [30, 8], [30, 40]], rtol=1e-6)
    np.testing.assert_allclose(index.areas, [400, 640, 80])
    assert index.image_ids.tolist() == [1, 2]
    assert index.category_ids.tolist() == [1, 2]
    assert_no_problems(index)
    assert problems_report(index)["images"]["background"] == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path, encoding: str) -> None:
    label = "1 0.5 0.5 0.2 0.25\r\n0 0.5 0.5 0.4 0.25\r\n".encode(encoding)
    source = write_yolo(tmp_path, {"a": label, "b": b"0 0.5 0.5 0.2 0.25\r0 0.5 0.5 0.1 0.25"})
    source.write_bytes(source.read_text().replace("\n", "\r\n").encode(encoding))
    index = read_index(str(source), names=NAMES)
    assert index.classes.tolist() == [1, 0, 0, 0]
    assert_no_problems(index)


def test_list_folder_pattern_and_absolute_paths_are_the_same_set(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2", "b": "1 .5 .5 .2 .2"})
    absolute = tmp_path / "absolute.txt"
    absolute.write_text("".join(f"{tmp_path / 'images' / name}.png\n" for name in "ab"))
    elsewhere = tmp_path / "lists" / "list.txt"
    elsewhere.parent.mkdir()
    elsewhere.write_text(source.read_text())
    indexes = [
        read_index(str(source), names=NAMES),
        read_index(str(absolute), names=NAMES),
        read_index(str(tmp_path / "images"), names=NAMES),
        read_index(str(tmp_path), names=NAMES),
        read_index(str(tmp_path / "images" / "*.png"), names=NAMES),
        read_index(str(elsewhere), names=NAMES, image_folder=str(tmp_path)),
    ]
    for index in indexes:
        assert index.image_paths.tolist() == [str(tmp_path / "images" / f"{name}.png") for name in "ab"]
        assert index.classes.tolist() == [0, 1]
        assert_no_problems(index)


def test_the_last_images_folder_of_a_path_is_the_one_with_labels_beside_it(tmp_path: Path) -> None:
    write_yolo(tmp_path / "images" / "set", {"a": "0 .5 .5 .2 .2"})
    index = read_index(str(tmp_path / "images" / "set" / "images"), nc=1)
    assert len(index.classes) == 1


def test_a_label_may_lie_beside_its_image(tmp_path: Path) -> None:
    write_picture(tmp_path / "pictures" / "a.b.jpg")
    (tmp_path / "pictures" / "a.b.txt").write_text("0 .5 .5 .2 .2")
    assert len(read_index(str(tmp_path / "pictures"), nc=1).classes) == 1


def test_folders_below_and_links_are_followed_once(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"x/a": "0 .5 .5 .2 .2", "y/b": "0 .5 .5 .2 .2"})
    (tmp_path / "images" / "y" / "loop").symlink_to(tmp_path / "images")
    index = read_index(str(tmp_path / "images"), nc=1)
    assert len(index) == 2


def test_count_alone_names_the_classes_by_number(tmp_path: Path) -> None:
    index = read_index(str(write_yolo(tmp_path, {"a": "2 .5 .5 .2 .2"})), nc=3)
    assert index.names == ["0", "1", "2"]


# VOC xml


def test_voc_corners_are_pixels_and_names_are_sorted(tmp_path: Path) -> None:
    rows = {"a": voc_object("dog", 10, 20, 30, 40) + voc_object("cat", 0, 0, 100, 80), "b": ""}
    root = write_voc(tmp_path, rows)
    for source in (root, root / "Annotations"):
        index = read_index(str(source))
        assert index.names == ["cat", "dog"]
        assert index.classes.tolist() == [1, 0]
        assert boxes_of(index, 0) == [[10, 20, 30, 40], [0, 0, 100, 80]]
        assert len(index) == 2
        assert_no_problems(index)


def test_pascals_own_files_count_pixels_from_one(tmp_path: Path) -> None:
    rows = {"a": voc_object("cat", 1, 1, 100, 80)}
    index = read_index(str(write_voc(tmp_path, rows, database="The VOC2007 Database")))
    assert boxes_of(index, 0) == [[0, 0, 100, 80]]


def test_difficult_objects_are_ignored_regions_and_parts_are_no_objects(tmp_path: Path) -> None:
    part = voc_object("head", 1, 1, 5, 5).strip().replace("object", "part")
    rows = voc_object("cat", 10, 20, 30, 40, "<difficult>1</difficult>") + voc_object("cat", 1, 2, 3, 4, part)
    index = read_index(str(write_voc(tmp_path, {"a": rows})))
    assert index.is_crowd.tolist() == [True, False]
    assert index.names == ["cat"]


def test_a_list_of_stems_chooses_annotations(tmp_path: Path) -> None:
    write_voc(tmp_path, {name: voc_object("cat", 10, 20, 30, 40) for name in "abc"})
    source = tmp_path / "ImageSets" / "Main" / "val.txt"
    source.parent.mkdir(parents=True)
    source.write_text("c\na\n")
    index = read_index(str(source), names=NAMES)
    assert [os.path.basename(path) for path in index.image_paths] == ["c.png", "a.png"]


def test_an_image_is_found_by_the_annotations_own_stem(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_object("cat", 10, 20, 30, 40)})
    (tmp_path / "JPEGImages" / "a.png").rename(tmp_path / "Annotations" / "a.png")
    path = tmp_path / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("a.png", "C:\\old\\name.jpg"))
    assert len(read_index(str(tmp_path))) == 1


# Classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nc": 5}, "has 2 categories but data.nc=5; set data.nc=2"),
        ({"names": ["dig"]}, "class cat is not in data.names .known: dig"),
        ({"names": ["dog", "cut"]}, "class cat is not in data.names .did you mean cut"),
        ({"names": ["cat", "dog"], "nc": 3}, "data.nc=3 but data.names has 2 names; set data.nc=2"),
        ({"names": ["cat", "cat"]}, "cat stands there twice"),
        ({"names": []}, "is empty"),
    ],
)
def test_contradicting_class_lists_say_which_to_set(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(YoloflowError, match=message):
        read_index(str(write_coco(tmp_path, [annotation()])), **arguments)


def test_yolo_labels_need_names_or_a_count(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="set data.nc=COUNT or data.names"):
        read_index(str(write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2"})))


def test_voc_names_and_count_must_agree(tmp_path: Path) -> None:
    root = str(write_voc(tmp_path, {"a": voc_object("cat", 10, 20, 30, 40)}))
    with pytest.raises(
        YoloflowError, match=r"data.nc=2 but the annotations name 1 classes \(cat\); set data.names"
    ):
        read_index(root, nc=2)
    with pytest.raises(YoloflowError, match=r"a.xml:5: class cat is not in data.names \(did you mean cats"):
        read_index(root, names=["dog", "cats"])


# Several sources


@pytest.mark.parametrize(
    ("images", "label"),
    [
        ("images", "labels/a.TXT"),
        ("images", "Labels/a.txt"),
        ("Images", "Labels/a.TXT"),
        ("IMAGES", "LABELS/a.txt"),
        ("Images", "labels/a.txt"),
        ("images", "images/a.TXT"),
    ],
)
def test_yolo_labels_in_capitals_are_found(tmp_path: Path, images: str, label: str) -> None:
    for name in ("a", "b"):
        write_picture(tmp_path / images / f"{name}.JPG", format="JPEG")
    path = tmp_path / label
    path.parent.mkdir(exist_ok=True)
    path.write_text("0 .5 .5 .2 .25\n")
    (path.parent / f"orphan{path.suffix}").write_text("0 .5 .5 .2 .25\n")
    index = read_index(str(tmp_path / images), nc=1)
    assert index.box_offsets.tolist() == [0, 1, 1]
    details = {problem.kind: problem.detail for problem in index.problems}
    assert sorted(details) == ["missing-label", "orphan-label"]
    labels = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}[images]
    assert f"no {tmp_path}/{labels}/b.txt;" in details["missing-label"]
    if path.parent.name != images:
        with pytest.raises(YoloflowError, match=f"it is a folder of labels.*; give {tmp_path}/{images}"):
            read_index(str(path.parent), nc=1)


def test_files_without_the_name_of_an_image_are_counted_and_named(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 .5 .5 .2 .25", "b": "0 .5 .5 .2 .25", "c": "0 .5 .5 .2 .25"})
    images = tmp_path / "images"
    (images / "b.png").rename(images / "b.png_large")
    (images / "c.png").rename(images / "c")
    write_picture(images / "d.png").rename(images / "a.png.bak")
    for name in ("README.txt", "labels.cache", "Thumbs.db", ".DS_Store", "LICENSE"):
        (images / name).write_text("no image")
    (images / "e.fits").write_bytes(b"SIMPLE")
    for source in (images, images / "*"):
        index = read_index(str(source), nc=1)
        assert len(index) == index.num_images_listed == 1
        (others,) = [one.detail for one in index.problems if one.kind == "other-files"]
        assert others.startswith("4 files are not read, as no image has such a name: ")
        assert f"{images}/a.png.bak (PNG by its content)" in others
        orphans = [one.detail for one in index.problems if one.kind == "orphan-label"]
        assert [one.partition("; ")[2] for one in orphans] == [
            "b.png_large there does not end as an image's name does",
            "c there does not end as an image's name does",
        ]
    (images / "a.png").unlink()
    with pytest.raises(YoloflowError, match=r"lists no images.*; 4 files are not read"):
        read_index(str(images), nc=1)


def test_an_image_is_found_by_the_name_that_its_xml_gives_whatever_it_ends_in(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": voc_object("cat", 1, 2, 30, 40), "b": voc_object("cat", 1, 2, 30, 40)})
    images = tmp_path / "JPEGImages"
    xml = tmp_path / "Annotations/b.xml"
    xml.write_text(xml.read_text().replace("b.jpg", "b.png"))
    (images / "b.png").rename(images / "b.png_large")
    index = read_index(str(tmp_path))
    assert (len(index), sorted(one.kind for one in index.problems)) == (1, ["missing-image", "other-files"])
    xml.write_text(xml.read_text().replace("b.png", "b.png_large"))
    index = read_index(str(tmp_path))
    assert len(index) == 2
    assert [problem.kind for problem in index.problems] == ["wrong-suffix"]


def test_sources_of_all_formats_are_joined(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco", [annotation(20, 7), annotation(10, 3)])
    yolo = write_yolo(tmp_path / "yolo", {"a": "1 .5 .5 .2 .25\n0 .1 .1 .3 .1 .3 .5"})
    voc = write_voc(tmp_path / "voc", {"a": voc_object("dog", 1, 2, 3, 4)})
    index = read_index([str(coco), str(yolo), str(voc)], NAMES)
    assert index.names == NAMES
    assert len(index) == 4
    assert index.classes.tolist() == [0, 1, 1, 0, 1]
    assert index.box_offsets.tolist() == [0, 1, 2, 4, 5]
    assert boxes_of(index, 2) == [[40, 30, 60, 50], [10, 8, 30, 40]]
    assert index.polygon_offsets.tolist() == [0, 0, 0, 0, 3, 3]
    assert len(set(index.image_ids.tolist())) == 4
    assert_no_problems(index)


def test_voc_sources_share_one_list_of_names(tmp_path: Path) -> None:
    parts = [write_voc(tmp_path / name, {"a": voc_object(name, 1, 2, 3, 4)}) for name in ("dog", "cat")]
    index = read_index([str(part) for part in parts])
    assert index.names == NAMES
    assert index.classes.tolist() == [1, 0]


def test_the_categories_of_two_jsons_are_mapped_by_name(tmp_path: Path) -> None:
    first = write_coco(tmp_path / "one", [annotation()])
    second = write_coco(
        tmp_path / "two", [annotation()], categories=[{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}]
    )
    assert read_index([str(first), str(second)]).classes.tolist() == [0, 1]
    index = read_index([str(first), str(second)], names=NAMES[::-1])
    assert (index.names, index.classes.tolist()) == (["dog", "cat"], [1, 0])


# Real data


def by_name(index: DatasetIndex) -> dict[str, tuple[list[int], np.ndarray]]:
    found = {}
    for image, path in enumerate(index.image_paths):
        rows = slice(*index.box_offsets[image : image + 2])
        keep = ~index.is_crowd[rows]
        classes = [index.names[number] for number in index.classes[rows][keep]]
        found[os.path.splitext(os.path.basename(path))[0]] = (classes, index.boxes_xyxy[rows][keep])
    return found


def assert_same_boxes(first: DatasetIndex, second: DatasetIndex, tolerance_px: float) -> None:
    one, other = by_name(first), by_name(second)
    for name in one.keys() & other.keys():
        assert one[name][0] == other[name][0]
        np.testing.assert_allclose(one[name][1], other[name][1], rtol=0, atol=tolerance_px)


@pytest.mark.parametrize(("name", "crowds"), [("bccd", 0), ("balloon", 0), ("coco_free", 17)])
def test_real_sets_are_the_same_as_coco_and_as_yolo(shared: Path, name: str, crowds: int) -> None:
    root = shared / "data" / name
    splits = ("train", "val")
    coco = read_index([str(root / "coco" / f"{split}.json") for split in splits], policy="error")
    yolo = read_index([str(root / f"{split}.txt") for split in splits], names=coco.names, policy="error")
    assert len(coco) == len(yolo) == len(list((root / "images").iterdir()))
    assert coco.is_crowd.sum() == crowds
    assert len(coco.classes) == len(yolo.classes) + crowds
    assert_same_boxes(coco, yolo, 0.01)
    for index in (coco, yolo):
        assert_no_problems(index)


def test_the_blood_cells_are_the_same_as_voc(shared: Path) -> None:
    root = shared / "data" / "bccd"
    voc = read_index(str(root / "voc"))
    coco = read_index([str(root / "coco" / f"{split}.json") for split in ("train", "val")])
    assert len(voc) == len(coco) == 364
    assert voc.names == ["Platelets", "RBC", "WBC"]
    # The two boxes of one point in the VOC files are not in the COCO ones.
    assert [problem.kind for problem in voc.problems] == ["box-zero-area"] * 2
    assert voc.num_boxes_listed == len(coco.classes) + 2
    assert_same_boxes(coco, voc, 0)


def test_the_outlines_of_the_balloons_have_the_stated_areas(shared: Path) -> None:
    index = read_index(str(shared / "data" / "balloon" / "coco" / "train.json"))
    for box in range(len(index.classes)):
        points = index.polygon_points[index.polygon_offsets[box] : index.polygon_offsets[box + 1]].astype(
            float
        )
        x, y = points.T
        shoelace = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
        assert shoelace == pytest.approx(index.areas[box], rel=0.01)
        np.testing.assert_allclose(points.min(0), index.boxes_xyxy[box, :2], atol=1)
        np.testing.assert_allclose(points.max(0), index.boxes_xyxy[box, 2:], atol=1)


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("data.yaml", "train: x", "data.yaml describes a data set: data="),
        ("obj.names", "cat\n\ndog\n", r"obj.names names 2: 'data.names=\[cat, dog\]'"),
        ("classes.txt", "cat\nhot, dog\n", "classes.txt names 2: data.nc=2"),
        ("labels/classes.txt", "cat\n", r"data.names=\[cat\]"),
    ],
)
def test_files_that_name_classes_are_pointed_at(tmp_path: Path, name: str, content: str, advice: str) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / name).write_text(content)
    for place in (source, tmp_path / "images"):
        with pytest.raises(YoloflowError, match=f"name no classes; set data.nc=COUNT .*; .*{advice}"):
            read_index(str(place))


def test_a_data_set_file_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: x")
    with pytest.raises(YoloflowError, match="describes a data set, it is none itself; give data="):
        read_index(str(tmp_path / "data.yaml"))


def test_a_link_to_itself_stops_nothing(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "images" / "loop.png").symlink_to("loop.png")
    (tmp_path / "images" / "loop").symlink_to("loop")
    index = read_index(str(tmp_path / "images"), nc=1)
    assert [problem.action for problem in index.problems] == ["drop-image"]
    assert (len(index), index.num_images_listed) == (1, 2)


@pytest.mark.parametrize(("image", "label"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9")])
def test_two_spellings_of_an_accent_are_one_name(tmp_path: Path, image: str, label: str) -> None:
    write_yolo(tmp_path, {image: "0 .5 .5 .2 .2\n"})
    (tmp_path / f"labels/{image}.txt").rename(tmp_path / f"labels/{label}.txt")
    index = read_index(str(tmp_path / "images"), nc=1)
    assert (len(index.classes), index.problems) == (1, [])


@pytest.mark.parametrize(
    "start", ["data/set/images/", "data\\set\\images\\", "C:\\me\\set\\images\\", "/gone/set/images/"]
)
def test_the_list_of_a_label_tool_finds_the_folder_beside_it(tmp_path: Path, start: str) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "b": ""})
    source.write_bytes(f"{start}a.png\r\n{start}b.png\r\n".encode())
    index = read_index(str(source), nc=1)
    assert (len(index), len(index.classes)) == (2, 1)
    assert [problem.kind for problem in index.problems] == ["image-path-mended"]


@pytest.mark.parametrize("below", ["", "/train"])
def test_a_folder_of_labels_is_told_to_be_one(tmp_path: Path, below: str) -> None:
    for folder in ("images", "labels"):
        (tmp_path / f"{folder}{below}").mkdir(parents=True)
    (tmp_path / f"labels{below}" / "a.txt").write_text("0 .5 .5 .1 .1\n")
    with pytest.raises(YoloflowError, match=f"it is a folder of labels.*; give {tmp_path}/images{below}"):
        read_index(str(tmp_path / f"labels{below}"), nc=1)
