"""Outlines that cannot be masks are named and counted; sets without outlines train no masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.data_sets import HEIGHT, WIDTH, annotation, write_coco, write_yolo
from tests.support.rich_sets import assert_account_closes
from yoloflow.data.formats.outlines import mask_of_pixels
from yoloflow.data.index import read_index
from yoloflow.data.outline_remarks import crosses_itself
from yoloflow.data.sets import read_sets
from yoloflow.data.settings import DataSettings
from yoloflow.structures import DatasetIndex, YoloflowError

BOX = [10, 10, 20, 30]
ROUND_BOX = [10, 10, 30, 10, 30, 40, 10, 40]
MASKS: list[dict[str, Any]] = [{"func_name": "letterbox"}, {"func_name": "segment_poly2mask"}]


def problems_of(index: DatasetIndex) -> dict[str, str]:
    return {problem.kind: problem.detail for problem in index.problems}


def train_set(source: Path, *, deep: bool = False, **settings: Any) -> DatasetIndex:
    settings = {"train_transforms": MASKS, "index_cache": False, **settings}
    data = DataSettings(train_set=str(source), **settings)
    return read_sets(data, 64, with_val=False, decode=deep)["train_set"]


@pytest.mark.parametrize(
    "segmentation",
    [
        [[10, 10, 30, 40, 10, 10, 30, 40]],
        [[10, 10, 30, 40, 20, 25]],
        dict(mask_of_pixels(np.zeros((HEIGHT, WIDTH), np.uint8))),
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},
    ],
)
@pytest.mark.parametrize(
    ("action", "images", "boxes"), [("keep", 2, 2), ("drop-box", 2, 1), ("drop-image", 1, 1)]
)
def test_an_outline_without_area_is_left_out_and_named(
    tmp_path: Path, segmentation: Any, action: str, images: int, boxes: int
) -> None:
    source = write_coco(tmp_path, [annotation(10, segmentation=segmentation), annotation(20)])
    index = read_index(str(source), policy={"outline-empty": action})
    assert [problem.kind for problem in index.problems] == ["outline-empty"]
    assert_account_closes(index)
    assert (len(index), len(index.classes)) == (images, boxes)
    assert not len(index.polygon_points)
    assert not index.masks


def test_a_mask_elsewhere_than_its_box_is_left_out_as_an_outline_is(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[50:60, 60:80] = 1
    source = write_coco(tmp_path, [annotation(segmentation=dict(mask_of_pixels(pixels)))])
    index = read_index(str(source))
    assert list(problems_of(index)) == ["outline-mismatch"]
    assert not index.masks


def test_a_part_of_too_few_points_is_left_out_alone(tmp_path: Path) -> None:
    parts = [[1, 2, 3, 4], ROUND_BOX, "x"]
    index = read_index(str(write_coco(tmp_path, [annotation(bbox=BOX, segmentation=parts)])))
    assert problems_of(index) == {
        "polygon-malformed": "annotations[0]: its segmentation has a part (number 1 of 3) that is not at "
        "least three x y pairs; the others are used"
    }
    assert index.polygon_points.ravel().tolist() == ROUND_BOX
    assert_account_closes(index)


def test_a_set_without_outlines_trains_no_masks(tmp_path: Path) -> None:
    source = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .25\n", "b": "0 .5 .5 .4 .25\n"})
    with pytest.raises(YoloflowError) as raised:
        train_set(source, nc=1)
    message = str(raised.value)
    assert message.startswith(f"{source}: none of its 2 objects has an outline or mask to learn from")
    assert "recipe of boxes" in message
    assert "data.problems.nothing-to-segment to keep" in message
    kept = train_set(source, nc=1, problems={"nothing-to-segment": "keep"})
    assert "nothing-to-segment" in problems_of(kept)
    boxes_alone = train_set(source, nc=1, train_transforms=MASKS[:1])
    assert not {"nothing-to-segment", "box-without-outline"} & problems_of(boxes_alone).keys()


def test_a_set_of_boxes_and_outlines_is_counted(tmp_path: Path) -> None:
    outline = "0 .1 .1 .3 .1 .3 .5\n"
    source = write_yolo(tmp_path, {"a": "0 .5 .5 .2 .25\n" + outline, "b": outline})
    detail = problems_of(train_set(source, nc=1))["box-without-outline"]
    assert detail == "1 of 3 objects (33.3%) have no outline; their masks are their boxes"
    mixed = DataSettings(
        train_set=str(source), val_set=str(write_yolo(tmp_path / "val", {"c": "0 .5 .5 .2 .25\n"})), nc=1
    ).model_copy(update={"train_transforms": MASKS})
    val = read_sets(mixed, 64, with_val=True)["val_set"]
    assert problems_of(val)["box-without-outline"].startswith("1 of 1 objects (100.0%)")


def test_objects_of_less_than_a_pixel_of_the_masks_are_counted(tmp_path: Path) -> None:
    thin = [10, 10, 30, 40, 12, 10.5]
    rows = [
        annotation(bbox=BOX, segmentation=[ROUND_BOX]),
        annotation(bbox=[50, 50, 4, 4], segmentation=[[50, 50, 54, 50, 54, 54, 50, 54]]),
        annotation(20, bbox=BOX, segmentation=[thin]),
    ]
    source = write_coco(tmp_path, rows)
    details = problems_of(train_set(source))
    assert details["tiny-masks"].startswith("1 of 3 objects cover less than a pixel of the masks, 4 x 4 px")
    assert "tiny-masks" not in problems_of(train_set(source, train_transforms=[]))


def test_outlines_that_cross_themselves_are_found_by_a_deep_look(tmp_path: Path) -> None:
    bow = [10, 10, 30, 40, 30, 10, 10, 40]
    rows = [annotation(bbox=BOX, segmentation=[ROUND_BOX]), annotation(20, bbox=BOX, segmentation=[bow])]
    source = write_coco(tmp_path, rows)
    assert "outline-crosses-itself" not in problems_of(train_set(source))
    detail = problems_of(train_set(source, deep=True))["outline-crosses-itself"]
    assert detail == (
        f"1 of 2 outlines cross themselves, first that of the object from 10, 10 to 30, 40 px in "
        f"{tmp_path / 'images' / '2.png'}"
    )
    with pytest.raises(YoloflowError, match="outline-crosses-itself"):
        train_set(source, problems={"outline-crosses-itself": "error"})


@pytest.mark.parametrize("count", [5, 600])
def test_only_edges_that_cross_between_their_ends_count(count: int) -> None:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1).astype(np.float32)
    assert not crosses_itself(circle)
    hole = np.concatenate((circle, circle[:1], circle[::-1] * 0.5, circle[-1:] * 0.5))
    assert not crosses_itself(hole)
    swapped = circle.copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    assert crosses_itself(swapped)
    assert not crosses_itself(circle[:2])
