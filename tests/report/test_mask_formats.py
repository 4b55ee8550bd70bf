"""Masks in the files of predictions, and what reads them back."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.support.tiny_run import NAMES, read_image, tiny_run, tiny_segment_run, write_images, write_video
from yoloflow.data.formats.outlines import mask_of_pixels, pixels_of_mask
from yoloflow.data.index import read_index
from yoloflow.data.sources import Frame
from yoloflow.data.transforms.fill import fill_outlines
from yoloflow.detector import Detector
from yoloflow.predict import PredictSettings, predict
from yoloflow.report.prediction_formats import Naming
from yoloflow.report.prediction_writer import PredictionWriter
from yoloflow.structures import Detections, Uint8Array, YoloflowError

ALL = PredictSettings(device="cpu", conf_thres=0.5, formats=("json", "coco"), save_images=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_segment_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "set" / "images", {"x.jpg": (50, 80), "y.png": (90, 64)})


def with_masks(*pixels: Uint8Array) -> Detections:
    """Detections whose boxes are those of their masks."""
    boxes = [(x, y, x + width, y + height) for x, y, width, height in map(cv2.boundingRect, pixels)]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(pixels), 0.5, np.float32),
        np.arange(len(pixels), dtype=np.int64) % len(NAMES),
        [mask_of_pixels(some) for some in pixels],
    )


def blank(*rectangles: tuple[int, int, int, int]) -> Uint8Array:
    """Pixels of a 40 x 60 image, 1 in rectangles x1 y1 x2 y2."""
    pixels = np.zeros((40, 60), np.uint8)
    for x1, y1, x2, y2 in rectangles:
        pixels[y1:y2, x1:x2] = 1
    return pixels


def written(folder: Path, found: Detections, *formats: str, scores: bool = True) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    with PredictionWriter(folder, Naming(NAMES, scores=scores), formats, save_images=False) as writer:
        writer.write(Frame(Path("x.jpg"), image), found)
    return folder


def filled(line: str, size_wh: tuple[int, int]) -> Uint8Array:
    """The pixels of a label line's polygon, as training draws it."""
    points = (np.array(line.split()[1:], float).reshape(-1, 2) * size_wh).astype(np.float32)
    pixels = np.zeros(size_wh[::-1], np.uint8)
    (one,) = fill_outlines([points])
    pixels[one.window] = one.pixels
    return pixels


def test_json_and_coco_files_have_cocos_run_lengths(run: Path, images: Path, tmp_path: Path) -> None:
    done = predict(run, [str(images)], tmp_path / "out", ALL)
    results = Detector.load(run, device="cpu")(images, conf_thres=0.5)
    rows = [row for image in json.loads(done.paths["json"].read_text()) for row in image["detections"]]
    coco = json.loads(done.paths["coco"].read_text())
    expected = [mask for result in results for mask in result.mask_array]
    assert len(rows) == len(coco) == len(expected) > 10
    for row, result, pixels in zip(rows, coco, expected, strict=True):
        assert row["segmentation"] == result["segmentation"]
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), pixels)


def test_yolo_labels_are_polygons_that_are_read_as_a_data_set(run: Path, images: Path) -> None:
    done = predict(run, [str(images)], images.parent, replace(ALL, formats=("yolo", "json"), scores=False))
    index = read_index(str(images), names=NAMES)
    assert index.num_boxes_listed == done.num_detections > 10
    assert (np.diff(index.polygon_offsets) >= 3).all()
    # Some of these random masks reach all edges of the image: of equal boxes of a class one is kept.
    left_out = [problem.kind for problem in index.problems if problem.action == "drop-box"]
    assert set(left_out) <= {"duplicate-box"}
    assert len(index.classes) + len(left_out) == done.num_detections
    rows = [row for image in json.loads(done.paths["json"].read_text()) for row in image["detections"]]
    lines = [line for path in sorted(done.paths["yolo"].iterdir()) for line in path.read_text().splitlines()]
    for line, row in zip(lines, rows, strict=True):
        pixels = pixels_of_mask(row["segmentation"])
        np.testing.assert_array_equal(filled(line, pixels.shape[::-1]), pixels)


def test_a_score_ends_a_polygon_s_row_unless_labels_are_asked_for(tmp_path: Path) -> None:
    found = with_masks(blank((10, 10, 20, 30)))
    line = (written(tmp_path / "with", found, "yolo") / "labels/x.txt").read_text()
    shares = "0.166667 0.250000 0.166667 0.750000 0.333333 0.750000 0.333333 0.250000"
    assert line == f"0 {shares} 0.50000\n"
    line = (written(tmp_path / "without", found, "yolo", scores=False) / "labels/x.txt").read_text()
    assert line == f"0 {shares}\n"


def test_polygons_keep_parts_and_holes_and_an_empty_mask_has_its_box(tmp_path: Path) -> None:
    ring = blank((5, 5, 25, 25))
    ring[10:20, 10:20] = 0
    parts = blank((2, 2, 8, 8), (40, 30, 55, 38), (30, 1, 31, 2))
    masks = (ring, parts, blank((30, 4, 31, 5)), blank((30, 8, 45, 9)))
    found = with_masks(*masks, blank())
    found.boxes_xyxy[-1] = (50, 10, 54, 20)
    folder = written(tmp_path / "out", found, "yolo", scores=False)
    lines = (folder / "labels/x.txt").read_text().splitlines()
    for line, pixels in zip(lines, (*masks, blank((50, 10, 54, 20))), strict=True):
        np.testing.assert_array_equal(filled(line, (60, 40)), pixels)


def test_cutouts_are_transparent_outside_the_mask(run: Path, images: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 2)
    done = predict(
        run, [str(images / "y.png"), str(clip)], tmp_path / "out", replace(ALL, formats=("cutouts", "json"))
    )
    with (tmp_path / "out" / "cutouts.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == done.num_detections > 5
    assert {row["frame"] for row in listed} == {"", "0", "1"}
    image, first = read_image(images / "y.png"), json.loads(done.paths["json"].read_text())[0]
    for row, detection in zip(listed, first["detections"], strict=False):
        cut = cv2.imread(str(tmp_path / "out" / "cutouts" / row["cutout"]), cv2.IMREAD_UNCHANGED)
        assert cut is not None
        x1, y1, x2, y2 = detection["box_xyxy"]
        part = np.s_[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        np.testing.assert_array_equal(cut[..., :3], image[part])
        np.testing.assert_array_equal(cut[..., 3], pixels_of_mask(detection["segmentation"])[part] * 255)


def test_cutouts_of_a_network_without_masks_are_refused_and_nothing_is_written(
    images: Path, tmp_path: Path
) -> None:
    boxes = tiny_run(tmp_path / "runs" / "boxes")
    with pytest.raises(
        YoloflowError, match="format cutouts needs masks, and .* predicts boxes alone; take crops"
    ):
        predict(boxes, [str(images)], tmp_path / "out", replace(ALL, formats=("json", "cutouts")))
    assert not (tmp_path / "out").exists()


def test_images_and_videos_are_drawn_with_masks(run: Path, images: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.avi", 3)
    settings = replace(ALL, save_images=True, max_det=1)
    done = predict(run, [str(images), str(clip)], tmp_path / "out", settings)
    row = json.loads(done.paths["json"].read_text())[1]
    drawn = read_image(tmp_path / "out" / row["picture"]).astype(int)
    inside = pixels_of_mask(row["detections"][0]["segmentation"]) > 0
    changed = abs(drawn - read_image(images / "y.png")).max(2) > 25
    assert changed[inside].mean() > 0.8
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
