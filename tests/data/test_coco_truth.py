"""COCO's json beside a list file is the truth of an evaluation, and COCO's classes have COCO's ids."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yoloflow import COCODataset
from yoloflow.data.coco_truth import ForeignTruthError
from yoloflow.data.index import read_index
from yoloflow.data.sets import read_set
from yoloflow.data.settings import DataSettings
from yoloflow.structures import DatasetIndex
from yoloflow.weights.published import coco_names

NAMES = ["dog", "cat"]
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Three listed images with label files, and a json with a fourth image, areas and a crowd region."""
    for folder in ("images/val2017", "labels/val2017", "annotations"):
        (tmp_path / folder).mkdir(parents=True)
    numbers = (139, 285, 632, 724)
    for number in numbers:
        cv2.imwrite(
            str(tmp_path / f"images/val2017/{number:012d}.png"), np.full((40, 60, 3), number % 255, np.uint8)
        )
        (tmp_path / f"labels/val2017/{number:012d}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    listed = [f"./images/val2017/{number:012d}.png" for number in (632, 139, 285)]
    (tmp_path / "val2017.txt").write_text("\n".join(listed))
    annotations = [
        {"id": 1, "image_id": 139, "category_id": 17, "bbox": [1, 2, 30, 20], "area": 77.5, "iscrowd": 0},
        {"id": 2, "image_id": 139, "category_id": 18, "bbox": [0, 0, 60, 40], "area": 900, "iscrowd": 1},
        {"id": 3, "image_id": 724, "category_id": 17, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
    ]
    images = [{"id": n, "file_name": f"{n:012d}.png", "width": 60, "height": 40} for n in numbers]
    write(tmp_path, {"images": images, "annotations": annotations, "categories": CATEGORIES})
    return tmp_path


def write(folder: Path, content: dict[str, Any], name: str = "instances_val2017.json") -> None:
    (folder / "annotations" / name).write_text(json.dumps(content))


def val_set(folder: Path, **settings: Any) -> DatasetIndex:
    source = str(folder / "val2017.txt")
    data = DataSettings(**{"val_set": source, "names": NAMES, "index_cache": False, **settings})
    return read_set(data, "val_set")


def test_the_json_is_the_truth_of_the_listed_images_in_their_order(
    coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yoloflow")
    index = val_set(coco)
    assert index.image_ids.tolist() == [632, 139, 285]
    assert np.diff(index.box_offsets).tolist() == [0, 2, 0]
    assert [index.names[number] for number in index.classes] == ["cat", "dog"]
    assert index.areas.tolist() == [77.5, 900]
    assert index.is_crowd.tolist() == [False, True]
    assert index.category_ids.tolist() == [18, 17]
    assert index.num_images_listed == 3
    assert index.num_boxes_listed == 2
    assert "is evaluated by" in caplog.text
    assert "instances_val2017.json (areas, crowd regions), not by label files" in caplog.text


def test_numbers_of_classes_are_the_categories_in_the_order_of_their_ids(coco: Path) -> None:
    assert val_set(coco, names=None, nc=2).names == ["cat", "dog"]
    assert val_set(coco, names=["0", "1"]).category_ids.tolist() == [17, 18]


def test_the_training_set_is_read_from_its_labels(coco: Path) -> None:
    data = DataSettings(train_set=str(coco / "val2017.txt"), names=NAMES, index_cache=False)
    assert np.diff(read_set(data, "train_set").box_offsets).tolist() == [1, 1, 1]


def test_the_json_named_as_the_list_goes_first(coco: Path) -> None:
    (coco / "valid.txt").write_text((coco / "val2017.txt").read_text())
    images = [
        {"id": n, "file_name": f"val2017/{n:012d}.png", "width": 60, "height": 40} for n in (139, 285, 632)
    ]
    write(coco, {"images": images, "annotations": [], "categories": CATEGORIES}, "instances_valid.json")
    assert len(val_set(coco, val_set=str(coco / "valid.txt")).classes) == 0
    assert len(val_set(coco).classes) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": []}, "3 of 3 images are not in it, or not once, such as"),
        ({"categories": [{"id": 17, "name": "cat"}]}, r"has other classes than the data set \(dog\)"),
        ({"categories": "none"}, "is no COCO json"),
    ],
)
def test_a_json_about_something_else_is_named_and_the_labels_count(
    coco: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any], reason: str
) -> None:
    path = coco / "annotations/instances_val2017.json"
    write(coco, json.loads(path.read_text()) | change)
    index = val_set(coco)
    assert np.diff(index.box_offsets).tolist() == [1, 1, 1]
    assert "is evaluated by its label files, not by the json beside it" in caplog.text
    with pytest.raises(ForeignTruthError, match=reason):
        read_index(str(coco / "val2017.txt"), NAMES, truth=str(path))


def test_a_truth_that_appears_or_changes_is_seen_through_the_index_cache(coco: Path) -> None:
    path = coco / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    path.unlink()
    assert len(val_set(coco, index_cache=True).classes) == 3
    write(coco, content)
    assert len(val_set(coco, index_cache=True).classes) == 2
    write(coco, content | {"annotations": []})
    assert len(val_set(coco, index_cache=True).classes) == 0


def test_yolo_labels_open_without_class_names(coco: Path) -> None:
    (coco / "labels/val2017/000000000285.txt").write_text("4 0.5 0.5 0.5 0.5\n")
    dataset = COCODataset(str(coco / "val2017.txt"), img_size=64)
    assert dataset.index.names == ["0", "1", "2", "3", "4"]
    assert len(dataset.index.classes) == 3
    assert COCODataset(str(coco / "val2017.txt"), names=[*"abcdef"]).index.names == [*"abcdef"]


def test_coco_s_classes_carry_coco_s_ids_without_a_json_too(coco: Path) -> None:
    (coco / "annotations/instances_val2017.json").unlink()
    names = coco_names()
    index = val_set(coco, names=names)
    assert len(index.names) == 80
    assert index.category_ids[[0, 10, 11, 12, 79]].tolist() == [1, 11, 13, 14, 90]
    assert index.image_ids.tolist() == [632, 139, 285]
    other = val_set(coco, names=names[:-1])
    assert other.category_ids.tolist() == list(range(1, 80))
    assert other.image_ids.tolist() == [1, 2, 3]
