"""Messages about labels that lie nearby in a format that is not read, or under another name."""

import json
import re
from pathlib import Path

import pytest

from tests.support.data_sets import voc_object, write_picture, write_voc
from yoloflow.data.index import read_index
from yoloflow.structures import YoloflowError

_LABELME = {"shapes": [{"label": "cat", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}]}
_LABEL_STUDIO = [{"id": 1, "data": {"image": "/data/upload/1/a.jpg"}, "annotations": []}]
_CREATE_ML = [{"image": "a.jpg", "annotations": []}]
_JSON_MIN = [{"image": "/data/upload/a.jpg", "id": 1, "label": [{"x": 1, "rectanglelabels": ["cat"]}]}]
_JSON_MIN_EMPTY = [{"image": "a.jpg", "id": 1, "annotator": 1, "annotation_id": 1, "lead_time": 7.2}]
_BDD = [{"name": "a.jpg", "labels": [{"category": "cat", "box2d": {"x1": 1, "y1": 1, "x2": 9, "y2": 9}}]}]
_VIA = {"a.jpg12": {"filename": "a.jpg", "regions": []}}


@pytest.mark.parametrize(
    ("content", "program"),
    [
        (_LABELME, "LabelMe's json of one image"),
        (_LABEL_STUDIO, "Label Studio's own json"),
        (_CREATE_ML, "CreateML's json"),
        (_JSON_MIN, "Label Studio's JSON_MIN"),
        (_JSON_MIN_EMPTY, "Label Studio's JSON_MIN"),
        (_BDD, "BDD100K's json (its bdd100k.label.to_coco makes COCO json of it)"),
        (_VIA, "VIA's own json"),
    ],
)
def test_a_json_of_another_program_is_named_as_a_source_and_beside_images(
    content: object, program: str, tmp_path: Path
) -> None:
    write_picture(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(YoloflowError, match=f"a.json: is {re.escape(program)}, which is not read; export"):
        read_index(str(tmp_path / "a.json"))
    with pytest.raises(YoloflowError) as error:
        read_index(str(tmp_path))
    assert f"no image has a label file; for {tmp_path / 'a.jpg'} there should be" in str(error.value)
    assert f"{tmp_path / 'a.json'} is {program}, which is not read: save its labels" in str(error.value)


def test_a_coco_json_among_the_images_is_named_as_the_source(tmp_path: Path) -> None:
    write_picture(tmp_path / "train" / "a.jpg")
    (tmp_path / "train" / "_annotations.coco.json").write_text('{"images": [], "categories": []}')
    with pytest.raises(YoloflowError, match="_annotations.coco.json may be a COCO json of these images"):
        read_index(str(tmp_path / "train"), ["cat"])


def test_cvats_own_xml_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "annotations.xml").write_text("<annotations><image id='0' name='a.jpg'/></annotations>")
    for source in (tmp_path, tmp_path / "images"):
        with pytest.raises(YoloflowError, match="annotations.xml is CVAT's own XML, which is not read"):
            read_index(str(source))


def test_a_set_of_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"images": [], "categories": [{"id": 1, "name": "cat"}]}')
    with pytest.raises(YoloflowError, match=r"none.json: lists no images$"):
        read_index(str(tmp_path / "none.json"))


def test_the_report_of_a_check_is_no_label_file_and_xml_files_in_any_folder_are_named(tmp_path: Path) -> None:
    images = tmp_path / "JPEGImages"
    write_picture(images / "shot1.jpg")
    report = {"errors": [], "train_set": {"problems": [{"image": str(images / "shot1.jpg")}]}}
    (tmp_path / "data_check.json").write_text(json.dumps(report))
    (tmp_path / "package.json").write_text('{"name": "mine"}')
    with pytest.raises(YoloflowError, match=r"there should be \S+/shot1\.txt$"):
        read_index(str(images))
    write_voc(tmp_path / "other", {"shot1": voc_object("cat", 1, 2, 30, 40)})
    (tmp_path / "other" / "Annotations").rename(tmp_path / "Annotation")
    advice = f"; {tmp_path / 'Annotation'} has XML files of PASCAL VOC: give it as the source"
    with pytest.raises(YoloflowError, match=f"{advice}$"):
        read_index(str(images))
    assert read_index(str(tmp_path / "Annotation")).names == ["cat"]
    images.rename(tmp_path / "pics")
    with pytest.raises(YoloflowError, match=f"{advice}, with data.image_folder={tmp_path / 'pics'}$"):
        read_index(str(tmp_path / "pics"))


def test_a_folder_of_json_files_is_asked_for_one_of_them(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match=r"lists no images \(looked for \.jpg, \.png and the like\)$"):
        read_index(str(tmp_path))
    for name in ("all", "train"):
        (tmp_path / f"{name}.json").write_text('{"images": [], "categories": []}')
    (tmp_path / "data_check.json").write_text('{"errors": [], "train_set": {"images": {}}}')
    files = ", ".join(str(tmp_path / f"{name}.json") for name in ("all", "train"))
    with pytest.raises(YoloflowError, match=f"lists no images: holds {files}; give one$"):
        read_index(str(tmp_path))
