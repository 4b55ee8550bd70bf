"""COCO figures: special cases, files and rows alike, and errors that name file and entry."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yoloflow.evaluation.coco import STAT_NAMES, evaluate_coco
from yoloflow.evaluation.coco_truth import read_ground_truth
from yoloflow.structures import YoloflowError


def truth_of(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 3, "width": 100, "height": 100}, {"id": 8, "width": 100, "height": 100}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [{"id": i + 1, "iscrowd": 0} | row for i, row in enumerate(annotations)],
    }


# COCO's precision has an epsilon in its denominator: the best AP is 1 - 2^-52, and so it is here.
ONE = pytest.approx(1, abs=1e-15)
CAT = {"image_id": 3, "category_id": 2, "bbox": [10, 10, 20, 20], "area": 400}
FOUND_CAT = {"image_id": 3, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_perfect_detection_has_ap_1_and_absent_sizes_minus_1() -> None:
    result = evaluate_coco(truth_of(CAT), [FOUND_CAT])
    expected = {
        **{"AP": ONE, "AP50": ONE, "AP75": ONE, "AP_small": ONE, "AP_medium": -1, "AP_large": -1},
        **{"AR1": 1, "AR10": 1, "AR100": 1, "AR_small": 1, "AR_medium": -1, "AR_large": -1},
    }
    assert dict(zip(STAT_NAMES, result.stats, strict=True)) == expected
    assert result.map == ONE
    assert result.map50 == ONE
    assert result.num_images == 2


def test_a_class_without_objects_has_no_figures() -> None:
    cat, dog = evaluate_coco(truth_of(CAT), [FOUND_CAT]).per_class
    assert (cat.name, cat.category_id, cat.num_objects) == ("cat", 2, 1)
    assert cat.ap == ONE
    assert cat.ap50 == ONE
    assert (dog.name, dog.category_id, dog.num_objects, dog.ap, dog.ap50) == ("dog", 7, 0, None, None)


def test_no_ground_truth_at_all_gives_minus_1() -> None:
    assert evaluate_coco(truth_of(), [FOUND_CAT]).stats == (-1,) * 12
    assert evaluate_coco({"images": [], "categories": [], "annotations": []}, []).stats == (-1,) * 12


def test_no_detections_at_all_give_0(tmp_path: Path) -> None:
    nothing = (0, 0, 0, 0, -1, -1) * 2
    assert evaluate_coco(truth_of(CAT), []).stats == nothing
    assert evaluate_coco(truth_of(CAT), np.empty((0, 7))).stats == nothing
    assert evaluate_coco(truth_of(CAT), write(tmp_path / "found.json", [])).stats == nothing


def test_only_the_images_asked_for_count() -> None:
    dog = {"image_id": 8, "category_id": 7, "bbox": [10, 10, 20, 20], "area": 400}
    result = evaluate_coco(truth_of(CAT, dog), [FOUND_CAT], image_ids=[3, 3])
    assert result.map == ONE
    assert result.num_images == 1
    assert [row.num_objects for row in result.per_class] == [1, 0]


def test_files_rows_and_arrays_give_the_same_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = np.concatenate((np.full((40, 1), 3), rng.uniform(1, 30, (40, 4)), rng.random((40, 1))), 1)
    array = np.concatenate((array, rng.choice([2, 7], (40, 1))), 1)
    rows = [
        {
            "image_id": int(row[0]),
            "category_id": int(row[6]),
            "bbox": row[1:5].tolist(),
            "score": float(row[5]),
        }
        for row in array
    ]
    truth = truth_of(CAT, CAT | {"bbox": [5, 5, 9, 9], "area": 81, "category_id": 7})
    result = evaluate_coco(truth, rows)
    assert 0 < result.map < 1
    assert evaluate_coco(truth, array) == result
    files = write(tmp_path / "truth.json", truth), write(tmp_path / "found.json", rows)
    assert evaluate_coco(*files) == result
    assert evaluate_coco(str(files[0]), str(files[1])) == result


def test_polygons_missing_areas_and_missing_crowd_flags_are_no_obstacle(tmp_path: Path) -> None:
    bare = {
        "image_id": 3,
        "category_id": 2,
        "bbox": [10, 10, 20, 20],
        "segmentation": [[10, 10, 30, 10, 30, 30]],
    }
    truth = truth_of() | {"annotations": [bare]}
    assert evaluate_coco(truth, [FOUND_CAT]) == evaluate_coco(truth_of(CAT), [FOUND_CAT])
    assert evaluate_coco(write(tmp_path / "truth.json", truth), [FOUND_CAT]).map == ONE


def test_an_object_with_id_0_counts_like_any_other() -> None:
    # pycocotools counts it as missed, since its matches are ids and 0 means none.
    assert evaluate_coco(truth_of(CAT | {"id": 0}), [FOUND_CAT]).map == ONE


def test_a_score_above_1_and_a_box_outside_the_image_are_taken_as_they_are() -> None:
    far = FOUND_CAT | {"bbox": [-500, -500, 1, 1], "score": 7}
    assert evaluate_coco(truth_of(CAT), [FOUND_CAT, far]).map == pytest.approx(0.5)


def test_the_json_has_the_twelve_figures_and_each_class() -> None:
    content = json.loads(json.dumps(evaluate_coco(truth_of(CAT), [FOUND_CAT]).to_json()))
    assert content["stats"][:2] == [ONE, ONE]
    assert len(content["stats"]) == 12
    assert content["per_class"][1]["name"] == "dog"
    assert content["per_class"][1]["ap"] is None


WRONG_DETECTIONS: list[tuple[Any, str]] = [
    ("", r"found\.json:1:1: no valid JSON \(Expecting value\)"),
    ("[{]", r"found\.json:1:3: no valid JSON \("),
    ({}, r"found\.json: expected a list of detections .* found an object"),
    ({"annotations": [FOUND_CAT]}, r"expected a list of detections .* found an object"),
    (7, "expected a list of detections .* found a number"),
    ([7], r"found\.json: \[0\]: expected an object, found a number"),
    ([FOUND_CAT, FOUND_CAT | {"image_id": 9}], r"found\.json: \[1\]\.image_id is 9, which .* does not have"),
    ([FOUND_CAT | {"category_id": 1}], r"found\.json: \[0\]\.category_id is 1, which .* does not have"),
    ([FOUND_CAT | {"image_id": "3"}], r"\[0\]\.image_id should be a whole number, found '3'"),
    ([FOUND_CAT | {"image_id": 3.5}], r"\[0\]\.image_id should be a whole number, found 3\.5"),
    ([FOUND_CAT | {"image_id": True}], r"\[0\]\.image_id should be a whole number, found True"),
    ([FOUND_CAT | {"image_id": -3}], r"\[0\]\.image_id is -3; ids go from 0"),
    ([FOUND_CAT | {"bbox": [1, 2, 3]}], r"\[0\]\.bbox should be four numbers"),
    ([FOUND_CAT | {"bbox": [1, 2, 3, None]}], r"\[0\]\.bbox should be four finite numbers"),
    ([FOUND_CAT | {"bbox": [1, 2, 3, float("nan")]}], r"\[0\]\.bbox should be four finite numbers"),
    ([FOUND_CAT | {"score": float("nan")}], r"\[0\]\.score should be a finite number, found nan"),
    ([FOUND_CAT | {"score": None}], r"\[0\]\.score should be a finite number, found None"),
    ([FOUND_CAT | {"bbox": None}], r"\[0\]\.bbox should be four numbers x, y, w, h, found None"),
    ([FOUND_CAT | {"score": "high"}], r"\[0\]\.score should be a finite number, found 'high'"),
    ([{key: FOUND_CAT[key] for key in ("image_id", "category_id", "bbox")}], r"\[0\]\.score .* found None"),
    ([{key: FOUND_CAT[key] for key in ("image_id", "category_id", "score")}], r"\[0\]\.bbox .* found None"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_DETECTIONS)
def test_a_wrong_results_file_is_refused_with_file_and_entry(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = write(tmp_path / "found.json", content)
    with pytest.raises(YoloflowError, match=message):
        evaluate_coco(truth_of(CAT), path)
    if not isinstance(content, str):
        with pytest.raises(YoloflowError, match=message.replace(r"found\.json", "detections")):
            evaluate_coco(truth_of(CAT), content)


WRONG_TRUTH: list[tuple[Any, str]] = [
    ([], "is a list .of detections.., not an annotation file"),
    (7, "is no COCO json"),
    ({"images": [], "annotations": []}, 'is no COCO json: "categories" is missing'),
    (truth_of() | {"images": 3}, 'is no COCO json: "images" is missing'),
    (
        truth_of() | {"images": [{"id": 3, "file_name": "a"}, {"id": 3, "file_name": "b"}]},
        r"images\[1\]\.id 3 is the id of a and of b",
    ),
    (truth_of() | {"categories": [{"id": -1, "name": "cat"}]}, "category id -1 is negative"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_TRUTH)
def test_wrong_ground_truth_is_refused_with_file_and_entry(
    tmp_path: Path, content: Any, message: str
) -> None:
    path = write(tmp_path / "truth.json", content)
    with pytest.raises(YoloflowError, match=rf"truth\.json: {message}"):
        evaluate_coco(path, [FOUND_CAT])


UNUSABLE: list[tuple[Any, str]] = [
    (CAT | {"id": 1, "image_id": 5}, "unknown-image-id"),
    (CAT | {"id": 1, "category_id": 5}, "class-out-of-range"),
    (CAT | {"id": 1, "category_id": None}, "class-not-a-number"),
    (CAT | {"id": 1, "bbox": [1]}, "wrong-column-count"),
    (CAT | {"id": 1, "bbox": [1, 2, 3, "wide"]}, "box-not-a-number"),
    (CAT | {"id": 1, "bbox": [1, 2, 3, math.nan]}, "box-nan"),
    ({"id": 1}, "malformed-entry"),
    (7, "malformed-entry"),
]


@pytest.mark.parametrize(("entry", "kind"), UNUSABLE)
def test_an_annotation_that_training_leaves_out_is_left_out_and_named(
    tmp_path: Path, entry: Any, kind: str
) -> None:
    content = truth_of(CAT)
    content["annotations"].append(entry)
    for source in (content, write(tmp_path / "truth.json", content)):
        truth = read_ground_truth(source)
        assert [(problem.kind, problem.action) for problem in truth.problems] == [(kind, "drop-box")]
        assert evaluate_coco(truth, [FOUND_CAT]).stats == evaluate_coco(truth_of(CAT), [FOUND_CAT]).stats


@pytest.mark.parametrize(
    "change",
    [{"area": None}, {"area": "big"}, {"iscrowd": None}, {"iscrowd": "0"}, {"id": None}, {"id": "a"}],
)
def test_what_training_reads_is_read(change: dict[str, Any]) -> None:
    truth = read_ground_truth(truth_of(CAT | change))
    assert truth.problems == ()
    assert evaluate_coco(truth, [FOUND_CAT]).stats == evaluate_coco(truth_of(CAT), [FOUND_CAT]).stats


def test_two_annotations_of_one_id_are_two_objects() -> None:
    other = CAT | {"bbox": [60, 60, 20, 20]}
    found = [FOUND_CAT, FOUND_CAT | {"bbox": [60, 60, 20, 20]}]
    assert evaluate_coco(truth_of(CAT, other), found).map == ONE


@pytest.mark.parametrize("of_image", [lambda number: f"img{number}", str, lambda number: -number, float])
def test_image_ids_of_any_kind_are_those_of_the_detections_too(tmp_path: Path, of_image: Any) -> None:
    truth = truth_of(CAT | {"image_id": of_image(3)})
    truth["images"] = [{"id": of_image(3), "file_name": "3.png"}, {"id": of_image(4), "file_name": "4.png"}]
    found = [FOUND_CAT | {"image_id": of_image(3)}, FOUND_CAT | {"image_id": of_image(4), "score": 0.1}]
    expected = truth_of(CAT) | {"images": [{"id": 3}, {"id": 4}]}
    stats = evaluate_coco(expected, [FOUND_CAT, FOUND_CAT | {"image_id": 4, "score": 0.1}]).stats
    files = write(tmp_path / "truth.json", truth), write(tmp_path / "found.json", found)
    assert evaluate_coco(truth, found).stats == evaluate_coco(*files).stats == stats
    with pytest.raises(YoloflowError, match=r"\[0\]\.image_id is 'who', which ground truth does not have"):
        evaluate_coco(truth, [FOUND_CAT | {"image_id": "who"}])


def test_entries_of_one_image_are_joined_and_its_detections_count_once() -> None:
    dog = CAT | {"id": 1, "image_id": 4, "bbox": [60, 60, 20, 20]}
    truth = truth_of(CAT, dog) | {"images": [{"id": 3, "file_name": "a"}, {"id": 4, "file_name": "a"}]}
    each = [FOUND_CAT, FOUND_CAT | {"bbox": [60, 60, 20, 20]}]
    read = read_ground_truth(truth)
    assert [problem.kind for problem in read.problems] == ["duplicate-image"]
    assert read.image_ids == {3}
    for found in (each, [row | {"image_id": number} for number in (3, 4) for row in each]):
        assert evaluate_coco(read, found).map == ONE


@pytest.mark.parametrize(
    ("key", "ids", "message"),
    [
        (
            "image_id",
            (2, 7),
            r"\[0\]\.image_id is 2, .*; all image_ids would be known if they were one higher",
        ),
        ("category_id", (3, 8), "all category_ids would be known if they were one lower: .* from 1?"),
        ("category_id", (0, 1), "they may be positions among the categories, whose ids have gaps"),
        ("category_id", (2, 9), "are detections and ground truth of the same data set?"),
    ],
)
def test_unknown_ids_that_are_off_by_one_are_explained(key: str, ids: tuple[int, int], message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        evaluate_coco(truth_of(CAT), [FOUND_CAT | {key: number} for number in ids])


def test_an_unknown_image_is_told_in_our_words_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "found.json", [FOUND_CAT, FOUND_CAT | {"image_id": 77}])
    with pytest.raises(YoloflowError, match=r"found\.json: \[1\]\.image_id is 77"):
        evaluate_coco(truth_of(CAT), path)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match=r"missing\.json: cannot be read \(there is no such file"):
        evaluate_coco(truth_of(CAT), tmp_path / "missing.json")
    with pytest.raises(YoloflowError, match=r"missing\.json: cannot be read"):
        evaluate_coco(tmp_path / "missing.json", [])
    with pytest.raises(YoloflowError, match="cannot be read"):
        evaluate_coco(truth_of(CAT), tmp_path)
    picture = tmp_path / "image.json"
    picture.write_bytes(b"\xff\xd8\xff\xe0\x00\x10")
    with pytest.raises(YoloflowError, match=r"image\.json: no valid JSON"):
        evaluate_coco(truth_of(CAT), picture)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 6)), r"shape \(3, 6\)"),
        (np.array([[3, 1, 1, 5, 5, 0.5, 4.0]]), r"\[0\]\.category_id is 4"),
        (np.array([[3, 1, 1, 5, 5, 0.5, 2.0], [4, 1, 1, 5, 5, 0.5, 2]]), r"\[1\]\.image_id is 4"),
        (np.array([[3, 1, np.nan, 5, 5, 0.5, 2.0]]), r"\[0\] is not finite"),
    ],
)
def test_a_wrong_array_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(YoloflowError, match=message):
        evaluate_coco(truth_of(CAT), array)


def test_image_ids_that_do_not_exist_are_refused() -> None:
    with pytest.raises(YoloflowError, match="no image with id 4"):
        evaluate_coco(truth_of(CAT), [], image_ids=[3, 4])
    with pytest.raises(YoloflowError, match="image_ids is empty"):
        evaluate_coco(truth_of(CAT), [], image_ids=[])


def test_evaluating_files_imports_no_torch_and_prints_nothing(tmp_path: Path) -> None:
    files = write(tmp_path / "truth.json", truth_of(CAT)), write(tmp_path / "found.json", [FOUND_CAT])
    program = (
        "import sys, yoloflow.evaluation.coco_arrays; from yoloflow.evaluation.coco import evaluate_coco; "
        "evaluate_coco(*sys.argv[1:]); assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
