"""The quick start's scenes: exact boxes, no digit in both splits, equal on every call."""

import hashlib
import json
import multiprocessing
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.images import read_image
from yoloflow.data.digits import (
    SceneRecipe,
    Split,
    compose_scene,
    digits_dataset,
    handwritten_digits,
    split_originals,
)
from yoloflow.data.index import read_index
from yoloflow.files import default_cache_folder
from yoloflow.structures import YoloflowError

SMALL = SceneRecipe(num_train=6, num_val=3)


def test_the_embedded_digits_are_the_1797_of_the_origin() -> None:
    images, classes = handwritten_digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(classes).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    digest = hashlib.sha256(images.tobytes() + classes.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_the_embedded_digits_equal_those_of_scikit_learn() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    images, classes = handwritten_digits()
    assert np.array_equal(images, digits.images)
    assert np.array_equal(classes, digits.target)


def test_no_handwritten_digit_is_in_both_splits() -> None:
    train, val = split_originals("train"), split_originals("val")
    assert not set(train.tolist()) & set(val.tolist())
    assert len(train) + len(val) == 1797
    images, _ = handwritten_digits()
    train_pixels = {images[number].tobytes() for number in train}
    assert not any(images[number].tobytes() in train_pixels for number in val)
    splits: list[tuple[Split, Any]] = [("train", train), ("val", val)]
    for split, allowed in splits:
        used = np.concatenate([compose_scene(SMALL, split, index).originals for index in range(8)])
        assert np.isin(used, allowed).all()


def test_every_box_is_the_tight_box_of_the_ink_that_is_visible() -> None:
    for index in range(30):
        scene = compose_scene(SMALL, "train", index)
        assert len(scene.boxes_xyxy) == len(scene.classes) == scene.ink_owner.max() + 1
        for number, box in enumerate(scene.boxes_xyxy.tolist()):
            points = [(x, y) for y, x in zip(*np.nonzero(scene.ink_owner == number), strict=True)]
            xs, ys = zip(*points, strict=True)
            assert box == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_the_image_itself_changes_where_a_box_begins() -> None:
    recipe = SceneRecipe(digits_per_scene=(1, 1), noise=0.0, min_contrast=100.0)
    for index in range(20):
        scene = compose_scene(recipe, "val", index)
        x1, y1, x2, y2 = scene.boxes_xyxy[0]
        luma = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY).astype(float)
        inside = luma[scene.ink_owner == 0].mean()
        frame = np.ones_like(luma, bool)
        frame[max(y1 - 6, 0) : y2 + 6, max(x1 - 6, 0) : x2 + 6] = False
        outside = luma[frame].mean()
        assert abs(inside - outside) > 40


def test_digits_of_a_scene_hardly_overlap_and_are_as_many_as_asked() -> None:
    for index in range(40):
        scene = compose_scene(SMALL, "train", index)
        assert 3 <= len(scene.classes) <= 8
        assert scene.boxes_xyxy.min() >= 0
        assert scene.boxes_xyxy.max() <= SMALL.side
        for first, second in combinations(scene.boxes_xyxy, 2):
            sides = np.clip(np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]), 0, None)
            areas = sum(np.prod(box[2:] - box[:2]) for box in (first, second))
            assert sides.prod() / (areas - sides.prod()) <= SMALL.max_iou


def test_a_scene_depends_on_its_seed_split_and_number_alone() -> None:
    first, again = compose_scene(SMALL, "train", 2), compose_scene(SMALL, "train", 2)
    assert np.array_equal(first.image, again.image)
    others = [
        compose_scene(SMALL, "train", 3),
        compose_scene(SMALL, "val", 2),
        compose_scene(SceneRecipe(seed=1), "train", 2),
    ]
    assert not any(np.array_equal(first.image, other.image) for other in others)


def test_the_data_set_on_disk_is_coco_json_with_its_images_beside_it(tmp_path: Path) -> None:
    splits: list[tuple[Split, int]] = [("train", 6), ("val", 3)]
    for split, num_scenes in splits:
        path = digits_dataset(split, SMALL, tmp_path)
        content = json.loads(path.read_text())
        assert [category["name"] for category in content["categories"]] == list("0123456789")
        assert len(content["images"]) == num_scenes
        assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"])
        for row in content["images"]:
            scene = compose_scene(SMALL, split, row["id"] - 1)
            assert np.array_equal(read_image(path.parent / row["file_name"]), scene.image)
            mine = [note for note in content["annotations"] if note["image_id"] == row["id"]]
            assert [note["category_id"] for note in mine] == scene.classes.tolist()
            corners = [[x, y, x + w, y + h] for x, y, w, h in (note["bbox"] for note in mine)]
            assert corners == scene.boxes_xyxy.tolist()


def test_a_second_call_takes_the_first_ones_files_and_other_recipes_get_another_folder(
    tmp_path: Path,
) -> None:
    path = digits_dataset("train", SMALL, tmp_path)
    written = path.stat().st_mtime_ns
    assert digits_dataset("train", SMALL, tmp_path) == path
    assert path.stat().st_mtime_ns == written
    other = digits_dataset("train", SceneRecipe(num_train=2, num_val=1), tmp_path)
    assert other != path
    assert {folder.name for folder in tmp_path.iterdir()} == {path.parts[-3], other.parts[-3]}


def _build(folder: str) -> str:
    return str(digits_dataset("train", SMALL, folder))


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.map(_build, [str(tmp_path)] * 4, chunksize=1)
    assert len(set(paths)) == 1
    assert len(json.loads(Path(paths[0]).read_text())["images"]) == 6
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_lies_where_the_platform_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "yoloflow"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path.home() / ".cache" / "yoloflow"


def test_an_unknown_split_and_a_cache_that_is_a_file_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="digits:vall.*did you mean val"):
        digits_dataset("vall", SMALL, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(YoloflowError, match="XDG_CACHE_HOME"):
        digits_dataset("val", SMALL, tmp_path / "file")


@pytest.mark.oracle
def test_the_embedded_set_is_a_data_source_without_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    index = read_index("digits:val")
    assert (len(index), index.names, index.problems) == (100, list("0123456789"), [])
    scene = compose_scene(SceneRecipe(), "val", 7)
    boxes = slice(index.box_offsets[7], index.box_offsets[8])
    assert np.array_equal(index.boxes_xyxy[boxes], scene.boxes_xyxy)
    assert np.array_equal(index.classes[boxes], scene.classes)
