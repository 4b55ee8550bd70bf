"""Data sets with nearly every fault and every kind of object, and the account that must close."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as pycoco_mask

from tests.support.data_sets import HEIGHT, WIDTH, annotation, write_coco, write_picture, write_yolo
from yoloflow.data.problems import KINDS, problems_report
from yoloflow.structures import DatasetIndex

GOOD = "0 .5 .5 .2 .25\n"

CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 17, "name": "cow & calf"}]

TRIANGLE = [10.25, 10.5, 30.0, 10.5, 10.25, 40.75]

SQUARE = [50.0, 50.0, 60.0, 50.0, 60.0, 60.0, 50.0, 60.0]


def _damage(path: Path) -> None:
    """Break the pixels of a PNG and leave its header and its end."""
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 8
    data[middle : middle + 20] = bytes(20)
    path.write_bytes(data)


def a_mask(rows: slice, columns: slice) -> dict[str, Any]:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[rows, columns] = 1
    mask = pycoco_mask.encode(np.asfortranarray(pixels))
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}


def assert_account_closes(index: DatasetIndex) -> None:
    report = problems_report(index)
    assert report == json.loads(json.dumps(report))
    for things in (report["images"], report["boxes"]):
        assert things["listed"] == things["used"] + sum(things["dropped"].values())
    assert {problem.kind for problem in index.problems} <= KINDS.keys()
    assert len(report["problems"]) == len(index.problems)
    assert index.box_offsets[0] == 0
    assert index.box_offsets[-1] == len(index.classes) == len(index.boxes_xyxy) == len(index.areas)
    assert index.polygon_offsets[-1] == len(index.polygon_points)
    assert len(index.polygon_offsets) == len(index.classes) + 1
    assert len(index.box_offsets) == len(index) + 1 == len(index.sizes_hw) + 1 == len(index.image_ids) + 1
    assert np.isfinite(index.boxes_xyxy).all()
    assert (index.boxes_xyxy[:, 2:] > index.boxes_xyxy[:, :2]).all()


def write_messy_set(root: Path) -> Path:
    """A data set with nearly every fault that a YOLO set can have; returns its list file."""
    labels: dict[str, str | bytes | None] = {
        "good": GOOD + "1 .3 .3 .1 .1\n",
        "second": GOOD,
        "nan": "0 nan .5 .2 .2\n0 .5 .5 .2 .2\n",
        "left": "0 .05 .5 .2 .2\n0 .05 .5 .2 .2\n",
        "right": "0 .95 .5 .2 .2\n" + GOOD,
        "outside": "0 7 7 .1 .1\n" + GOOD,
        "flat": "0 .5 .5 0 .2\n0 nan .5 .5 .5\n" + GOOD,
        "twice": GOOD + GOOD + GOOD,
        "columns": "0 .5 .5\n0 .5 .5 .1\n" + GOOD,
        "words": "cat .5 .5 .1 .1\n0 .5 x .1 .1\n" + GOOD,
        "binary": b"\0\1\2",
        "nolabel": None,
        "empty": "",
        "unknown": "9 .5 .5 .1 .1\n9 .5 .5 .2 .2\n" + GOOD,
        "gone": GOOD,
        "zero": GOOD,
        "text": GOOD,
        "turned": GOOD,
        "misnamed": GOOD,
        "cut": GOOD,
        "damaged": GOOD,
    }
    source = write_yolo(root, labels)
    pictures = root / "images"
    for number, path in enumerate(sorted(pictures.iterdir())):
        # Each image has other pixels, but for "second", which has those of "good".
        pixels = np.full((80, 100, 3), 40 if path.stem in ("good", "second") else 50 + number, np.uint8)
        Image.fromarray(pixels).save(path)
    (pictures / "gone.png").unlink()
    (pictures / "zero.png").write_bytes(b"")
    (pictures / "text.png").write_text("no image")
    exif = Image.Exif()
    exif[0x0112] = 6
    write_picture(pictures / "turned.png", exif=exif.tobytes())
    write_picture(pictures / "misnamed.jpg").rename(pictures / "misnamed.png")
    whole = (pictures / "cut.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) - 30])
    _damage(pictures / "damaged.png")
    (root / "labels" / "orphan.txt").write_text(GOOD)
    (root / "labels" / "classes.txt").write_text("cat\ndog\n")
    source.write_text(source.read_text() + "images/good.png\n")
    return source


def rich_coco(root: Path) -> Path:
    """Crowd, masks in both forms, outlines of one and two parts, gaps in ids, an image without objects."""
    runs = [0, 5 * HEIGHT, HEIGHT * WIDTH - 5 * HEIGHT]
    rows = [
        annotation(20, 90, [10.25, 10.5, 19.75, 30.25], segmentation=[TRIANGLE], area=298.4),
        annotation(20, 3, [10.25, 10.5, 49.75, 49.5], segmentation=[TRIANGLE, SQUARE]),
        annotation(10, 17, [30, 20, 10, 20], segmentation=a_mask(slice(20, 40), slice(30, 40))),
        annotation(10, 3, [0, 0, 5, 80], iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": runs}),
        annotation(10, 3, [1.125, 2, 30.3, 40.7]),
    ]
    return write_coco(root, rows, num_images=3, categories=CATEGORIES)
