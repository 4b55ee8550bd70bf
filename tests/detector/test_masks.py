"""The masks of a detector's results: run lengths, arrays on demand, and what goes with them."""

import copy
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.tiny_run import NUM_MASKS, read_image, tiny_run, tiny_segment_run, write_images
from yoloflow.data.formats.outlines import mask_of_pixels, pixels_of_mask
from yoloflow.detector import Detector
from yoloflow.structures import YoloflowError


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.load(tiny_segment_run(tmp_path_factory.mktemp("runs") / "tiny"), device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", {"a.png": (50, 80), "b.png": (90, 64), "c.png": (20, 200)})


def test_each_box_has_a_mask_of_the_image_s_size_that_lies_in_it(detector: Detector, images: Path) -> None:
    results = detector(images, conf_thres=0.5)
    assert [(result.height, result.width) for result in results] == [(50, 80), (90, 64), (20, 200)]
    for result in results:
        assert result.masks is not None
        assert len(result.masks) == len(result) > 3
        assert all(isinstance(mask["counts"], str) for mask in result.masks)
        masks = result.mask_array
        assert masks.shape == (len(result), result.height, result.width)
        assert masks.dtype == np.bool_
        assert 0.1 < masks.sum() / (result.boxes_xyxy[:, 2:] - result.boxes_xyxy[:, :2]).prod(1).sum() < 0.9
        for detection, pixels in zip(result, masks, strict=True):
            assert detection.mask is not None
            np.testing.assert_array_equal(detection.mask_array, pixels)
            y, x = np.nonzero(pixels)
            x1, y1, x2, y2 = detection.box_xyxy
            assert ((x >= x1 - 0.5) & (x < x2) & (y >= y1 - 0.5) & (y < y2)).all()


def test_a_mask_is_where_its_prototypes_sum_is_positive(detector: Detector) -> None:
    # At the input's own size nothing is resized but the prototypes.
    image = np.asarray(
        cv2.resize(np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8), (64, 64)), np.uint8
    )
    prediction = detector.predict([detector.prepare(image)])
    assert prediction.prototypes is not None
    assert prediction.prototypes.shape == (1, NUM_MASKS, 16, 16)
    (result,) = detector(image, conf_thres=0.5)
    for detection in result:
        of_class = prediction.rows[0, :, 4 + detection.class_number]
        row = prediction.rows[0, (of_class - detection.score).abs().argmin()]
        logits = torch.einsum("k,khw->hw", row[-NUM_MASKS:], prediction.prototypes[0])[None, None]
        expected = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")[0, 0].numpy() > 0
        x1, y1, x2, y2 = (round(corner) for corner in detection.box_xyxy)
        expected[:y1], expected[y2:], expected[:, :x1], expected[:, x2:] = False, False, False, False
        assert (detection.mask_array != expected).mean() < 0.01


def test_nothing_found_is_an_empty_list_and_an_empty_array(detector: Detector, images: Path) -> None:
    for result in detector(images, conf_thres=1.0):
        assert result.masks == []
        assert result.mask_array.shape == (0, result.height, result.width)
        assert result.to_dict()["detections"] == []


def test_masks_go_with_their_boxes_through_limit_classes_batches_and_copies(
    detector: Detector, images: Path
) -> None:
    expected = detector(images, conf_thres=0.5)
    for other in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        assert list(other(images, conf_thres=0.5, batch_size=2)[0]) == list(expected[0])
    for some, all_of_it in zip(detector(images, conf_thres=0.5, max_det=3), expected, strict=True):
        assert list(some) == list(all_of_it)[:3]
    for some, all_of_it in zip(detector(images, conf_thres=0.5, classes="bee"), expected, strict=True):
        assert list(some) == [found for found in all_of_it if found.name == "bee"]
    assert sum(found.name == "bee" for result in expected for found in result) > 0
    (frame, streamed), *_ = detector.stream(str(images), conf_thres=0.5)
    assert frame.image.shape[:2] == (50, 80)
    assert list(streamed) == list(expected[0])


def test_rectangular_inputs_give_masks_too(tmp_path: Path, images: Path) -> None:
    run = tiny_segment_run(tmp_path / "runs" / "rect", "data.test_rect=true")
    for result in Detector.load(run, device="cpu")(images, conf_thres=0.5):
        assert result.mask_array.any((1, 2)).any()


def test_masks_are_drawn_over_the_image_and_stand_in_the_dictionary(detector: Detector, images: Path) -> None:
    (result,) = detector(images / "a.png", conf_thres=0.5, max_det=1)
    original, drawn = read_image(images / "a.png"), result.plot()
    changed = (drawn != original).any(2)
    assert changed[result.mask_array[0]].mean() > 0.95
    (row,) = result.to_dict()["detections"]
    np.testing.assert_array_equal(pixels_of_mask(row["segmentation"]) > 0, result.mask_array[0])


def test_a_network_of_boxes_has_no_masks_and_says_so(tmp_path: Path, images: Path) -> None:
    boxes = Detector.load(tiny_run(tmp_path / "boxes"), device="cpu")
    (result,) = boxes(images / "a.png", conf_thres=0.0, max_det=2)
    assert result.masks is None
    assert result[0].mask is None
    assert "segmentation" not in result.to_dict()["detections"][0]
    for asked in (result, result[0]):
        with pytest.raises(
            YoloflowError, match="predicts boxes alone; one that segments, such as yolov8n-seg, has masks"
        ):
            _ = asked.mask_array


def test_a_detection_can_be_hashed_and_its_text_is_short(detector: Detector, images: Path) -> None:
    (result,) = detector(images / "a.png", conf_thres=0.5, max_det=1)
    assert len({result[0], result[0]}) == 1
    assert "counts" not in repr(result[0])
    assert result[0].mask == mask_of_pixels(result.mask_array[0].astype(np.uint8))
