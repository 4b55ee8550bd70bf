"""VOC sets as people have them: every annotation and every image is counted, wherever it lies."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.data_sets import voc_object, write_picture, write_voc, write_yolo
from yoloflow.data.index import read_index
from yoloflow.structures import DatasetIndex, Problem, YoloflowError

CAT = voc_object("cat", 20, 10, 60, 50)


def stems(index: DatasetIndex) -> list[str]:
    return [Path(path).stem for path in index.image_paths]


def problem(index: DatasetIndex, kind: str) -> Problem:
    (found,) = [one for one in index.problems if one.kind == kind]
    return found


def move_below(root: Path, name: str, below: str) -> None:
    """Move an image and its annotation into folders below their own."""
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".png")):
        (root / folder / below).mkdir(parents=True, exist_ok=True)
        shutil.move(root / folder / f"{name}{suffix}", root / folder / below)


@pytest.mark.parametrize("source", ["", "Annotations", "JPEGImages"])
def test_annotations_below_are_read_with_those_on_top(tmp_path: Path, source: str) -> None:
    write_voc(tmp_path, {"top": CAT, "low": CAT, "deep": CAT})
    move_below(tmp_path, "low", "cam1")
    move_below(tmp_path, "deep", "cam1/day2")
    index = read_index(str(tmp_path / source))
    assert sorted(stems(index)) == ["deep", "low", "top"]
    assert index.num_images_listed == index.num_boxes_listed == 3
    assert index.problems == []


def test_equal_names_in_subfolders_keep_their_images(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        write_voc(tmp_path, {"0000": voc_object(camera, 1, 1, 9, 9)})
        move_below(tmp_path, "0000", camera)
    index = read_index(str(tmp_path))
    assert [Path(path).parent.name for path in index.image_paths] == ["cam1", "cam2"]
    assert [index.names[number] for number in index.classes] == ["cam1", "cam2"]
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/default.txt").write_text("cam2/0000\n")
    index = read_index(str(tmp_path / "ImageSets/Main/default.txt"))
    assert [Path(path).parent.name for path in index.image_paths] == ["cam2"]


@pytest.mark.parametrize("source", ["", "images", "labels", "images/train", "labels/train"])
def test_xml_files_in_a_folder_called_labels_are_found(tmp_path: Path, source: str) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT})
    for old, new in (("Annotations", "labels/train"), ("JPEGImages", "images/train")):
        (tmp_path / new).parent.mkdir()
        (tmp_path / old).rename(tmp_path / new)
    (tmp_path / "labels/train/b.xml").unlink()
    index = read_index(str(tmp_path / source))
    assert stems(index) == ["a", "b"]
    assert len(index.classes) == 1
    assert [p.kind for p in index.problems] == ["missing-label"]
    assert f"no {tmp_path}/labels/train/b.xml" in index.problems[0].detail


@pytest.mark.parametrize("source", ["", "images", "annotations"])
def test_lower_case_folders_are_the_same(tmp_path: Path, source: str) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT})
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    index = read_index(str(tmp_path / source))
    assert (stems(index), index.problems) == (["a", "b"], [])


def test_images_lie_beside_the_folder_of_annotations(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": CAT})
    (tmp_path / "JPEGImages/a.png").rename(tmp_path / "a.png")
    assert stems(read_index(str(tmp_path))) == ["a"]


@pytest.mark.parametrize("source", ["", "Annotations"])
def test_images_without_annotation_are_counted_as_background(tmp_path: Path, source: str) -> None:
    write_voc(tmp_path, {"a": CAT, "none": CAT})
    (tmp_path / "Annotations/none.xml").unlink()
    write_picture(tmp_path / "SegmentationClass/a.png")
    index = read_index(str(tmp_path / source))
    assert stems(index) == ["a", "none"]
    assert index.num_images_listed == 2
    missing = problem(index, "missing-label")
    assert f"no {tmp_path}/Annotations/none.xml" in missing.detail
    assert len(read_index(str(tmp_path / source), policy={"missing-label": "drop-image"})) == 1


def test_images_of_another_split_are_no_background(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT})
    for name, split in (("a", "train"), ("b", "val")):
        (tmp_path / "Annotations" / split).mkdir()
        (tmp_path / f"Annotations/{name}.xml").rename(tmp_path / f"Annotations/{split}/{name}.xml")
    assert stems(read_index(str(tmp_path / "Annotations/train"))) == ["a"]
    assert stems(read_index(str(tmp_path / "Annotations/val"))) == ["b"]
    assert stems(read_index(str(tmp_path))) == ["a", "b"]


@pytest.mark.parametrize(
    "form",
    [
        "<annotation><objects>{}</objects></annotation>",
        "<root><annotation>{}</annotation></root>",
        "<ANNOTATION>{}</ANNOTATION>",
        '<v:annotation xmlns:v="x">{}</v:annotation>',
        "<doc><data><annotation><objects>{}</objects></annotation></data></doc>",
    ],
)
def test_objects_are_found_in_wrappers(tmp_path: Path, form: str) -> None:
    write_voc(tmp_path, {"a": ""})
    text = CAT.upper().replace("CAT", "cat") if "ANNO" in form else CAT
    (tmp_path / "Annotations/a.xml").write_text(form.format(text * 2))
    index = read_index(str(tmp_path), policy={"duplicate-box": "keep"})
    np.testing.assert_array_equal(index.boxes_xyxy, [[20, 10, 60, 50]] * 2)
    assert index.names == ["cat"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotations><image/></annotations>", "it is <annotations>...: there is no <annotation>"),
        (f"<set><annotation>{CAT}</annotation><annotation>{CAT}</annotation></set>", "it has 2 <annotation>"),
    ],
)
def test_xml_of_another_form_drops_its_image_with_a_word(tmp_path: Path, text: str, words: str) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT})
    (tmp_path / "Annotations/b.xml").write_text(text)
    index = read_index(str(tmp_path))
    assert stems(index) == ["a"]
    assert words in problem(index, "xml-malformed").detail


def test_boxes_outside_of_objects_are_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": CAT + CAT.replace("object", "item")})
    index = read_index(str(tmp_path))
    assert (len(index.classes), index.num_boxes_listed) == (1, 2)
    assert problem(index, "malformed-entry").line is not None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            CAT.replace("</object>", "<bndbox><xmin>1</xmin></bndbox></object>"),
            "xmin> stands there .*20 and 1",
        ),
        (
            CAT.replace("<bndbox>", "<name>dog</name><bndbox>"),
            "<name> stands there more than once: cat and dog",
        ),
        (
            CAT.replace("<bndbox>", "<difficult>0</difficult><difficult>1</difficult><bndbox>"),
            "<difficult> .*",
        ),
    ],
)
def test_an_object_with_two_boxes_or_names_is_named_and_not_glued(
    tmp_path: Path, row: str, words: str
) -> None:
    write_voc(tmp_path, {"a": CAT + row, "b": CAT})
    index = read_index(str(tmp_path))
    assert (len(index.classes), index.num_boxes_listed, index.names) == (2, 3, ["cat"])
    detail = problem(index, "malformed-entry").detail
    assert re.search(words, detail)
    assert "give each box an <object> of its own" in detail


def test_the_same_name_twice_is_one_name(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": CAT.replace("<bndbox>", "<name> cat </name><bndbox>")})
    assert read_index(str(tmp_path)).names == ["cat"]


def test_two_sizes_of_an_image_are_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": CAT + "<size><width>7</width></size>", "b": CAT})
    index = read_index(str(tmp_path))
    assert stems(index) == ["b"]
    assert "<size><width> stands there more than once" in problem(index, "xml-malformed").detail


@pytest.mark.parametrize("value", ["1", "true", "True", "1.0"])
def test_difficult_is_written_in_several_ways(tmp_path: Path, value: str) -> None:
    write_voc(tmp_path, {"a": CAT + voc_object("cat", 1, 1, 9, 9, f"<difficult>{value}</difficult>")})
    assert read_index(str(tmp_path)).is_crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    "lines",
    [
        "a  1\nb -1\n",
        "a.png\nb.png\n",
        "JPEGImages/a.png Annotations/a.xml\nJPEGImages/b.png Annotations/b.xml\n",
    ],
)
def test_lists_of_other_programs_choose_annotations(tmp_path: Path, lines: str) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT, "c": CAT})
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    list_file = tmp_path / ("list.txt" if "/" in lines else "ImageSets/Main/list.txt")
    list_file.write_text(lines)
    index = read_index(str(list_file))
    assert (stems(index), index.problems) == (["a", "b"], [])


# XML and YOLO labels in one folder


def test_a_stray_xml_does_not_hide_a_yolo_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "a.xml").write_text(f"<annotation>{CAT}</annotation>")
    index = read_index(str(tmp_path), nc=1)
    assert (stems(index), index.num_boxes_listed) == (["a", "b"], 2)
    assert "1 XML files lie there too" in problem(index, "other-labels").detail
    with pytest.raises(YoloflowError, match="other-labels"):
        read_index(str(tmp_path), nc=1, policy="error")


def test_the_xml_of_another_program_above_a_yolo_set_is_said(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "annotations.xml").write_text("<annotations><image name='a.png'/></annotations>")
    index = read_index(str(tmp_path), nc=1)
    assert stems(index) == ["a"]
    assert "annotations.xml" in problem(index, "other-labels").detail


def test_a_voc_folder_with_some_yolo_labels_says_that_they_are_there(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT})
    (tmp_path / "JPEGImages/a.txt").write_text("0 .5 .5 .2 .2\n")
    index = read_index(str(tmp_path))
    assert (index.names, stems(index)) == (["cat"], ["a", "b"])
    assert "1 YOLO labels lie there too" in problem(index, "other-labels").detail


def test_complete_labels_of_both_kinds_are_read_as_before(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n"})
    (tmp_path / "voc/xmls").mkdir(parents=True)
    (tmp_path / "voc/xmls/a.xml").write_text(f"<annotation>{CAT}</annotation>")
    assert read_index(str(tmp_path), nc=1).names == ["0"]
    shutil.move(tmp_path / "voc/xmls", tmp_path / "Annotations")
    assert read_index(str(tmp_path)).names == ["cat"]


@pytest.mark.parametrize("source", ["images/val", "annotations/val", "images", "annotations", ""])
def test_splits_in_folders_below_images_and_annotations(tmp_path: Path, source: str) -> None:
    write_voc(tmp_path, {"a": CAT, "b": CAT, "none": CAT})
    for name, split in (("a", "train"), ("b", "val"), ("none", "val")):
        move_below(tmp_path, name, split)
    (tmp_path / "Annotations/val/none.xml").unlink()
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    index = read_index(str(tmp_path / source))
    assert sorted(stems(index)) == (["b", "none"] if "val" in source else ["a", "b", "none"])
    assert f"no {tmp_path}/annotations/val/none.xml" in problem(index, "missing-label").detail


@pytest.mark.parametrize("filenames", [("a.png", "a.png"), ("b.png", "a.png"), (r"C:\old\b.jpg", "b.png")])
def test_an_image_of_the_xmls_own_name_goes_before_a_filename_left_by_renaming(
    tmp_path: Path, filenames: tuple[str, str]
) -> None:
    write_voc(tmp_path, {"a": CAT, "b": voc_object("dog", 1, 1, 9, 9)})
    for stem, filename in zip("ab", filenames, strict=True):
        xml = tmp_path / "Annotations" / f"{stem}.xml"
        xml.write_text(xml.read_text().replace(f"<filename>{stem}.png", f"<filename>{filename}"))
    index = read_index(str(tmp_path))
    assert stems(index) == ["a", "b"]
    assert [index.names[number] for number in index.classes] == ["cat", "dog"]
    stale = [one for one in index.problems if one.kind == "stale-filename"]
    own = [stem == Path(name.replace("\\", "/")).stem for stem, name in zip("ab", filenames, strict=True)]
    assert len(stale) == own.count(False)
    assert len(index.problems) == len(stale)
    assert str(tmp_path / "JPEGImages") in stale[0].detail
    strict = {"stale-filename": "error"}
    with pytest.raises(YoloflowError, match=r"<filename> is .*, but .* has the name of this file"):
        read_index(str(tmp_path), policy=strict)
