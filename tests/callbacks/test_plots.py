"""Plots: truth beside detections, and captions that can be read on small images."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.data_sets import HEIGHT, WIDTH, annotation, write_coco
from tests.support.painted_objects import PaintedObjects
from tests.support.toy_training import toy_step, toy_trainer
from yoloflow.callbacks.plots import PicturesCallback, draw_batch_images, draw_image_file, draw_truth
from yoloflow.data.collate import collate
from yoloflow.data.formats.outlines import mask_of_pixels
from yoloflow.data.index import read_index
from yoloflow.data.transforms import TransformContext, create_transforms
from yoloflow.structures import Detections


def test_truth_and_detections_are_drawn_at_the_same_place_and_large_enough(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((48, 64, 3), 30, np.uint8))
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    index = read_index(str(tmp_path), names=["cat"])
    found = Detections(
        np.array([[16, 12, 48, 36]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64)
    )
    path = Path(index.image_paths[1])
    pair = draw_truth(path, index), draw_image_file(path, found, ["cat"], 0.25)
    for image in pair:
        assert image.shape == (384, 512, 3)
        coloured = np.argwhere((image != 30).any(2))
        assert coloured[:, 1].min() == 128
        assert coloured[:, 0].max() == 287
    assert (draw_truth(Path(index.image_paths[0]), index) == 30).all()


def test_masks_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    ring = np.zeros((HEIGHT, WIDTH), np.uint8)
    ring[10:40, 10:40] = 1
    ring[20:30, 20:30] = 0
    rows = [
        annotation(10, bbox=[50, 40, 20, 30], segmentation=[[50, 40, 70, 40, 70, 70, 50, 70]]),
        annotation(10, bbox=[10, 10, 30, 30], segmentation=dict(mask_of_pixels(ring))),
        annotation(20, bbox=[10, 10, 30, 30]),
    ]
    index = read_index(str(write_coco(tmp_path, rows)))
    first, second = (Path(path) for path in index.image_paths)
    drawn, plain = draw_truth(first, index), draw_truth(second, index)
    factor = drawn.shape[0] // HEIGHT
    on_outline, on_ring, in_hole = (np.s_[y * factor, x * factor] for y, x in ((55, 60), (35, 25), (25, 25)))
    assert (drawn[on_outline] != plain[on_outline]).any()
    assert (drawn[on_ring] != plain[on_ring]).any()
    assert (drawn[in_hole] == plain[in_hole]).all()
    found = Detections(
        np.array([[10, 10, 40, 40], [50, 40, 70, 70]], np.float32),
        np.array([0.9, 0.1], np.float32),
        np.zeros(2, np.int64),
        [mask_of_pixels(ring), mask_of_pixels(ring)],
    )
    detected = draw_image_file(second, found, ["cat"], 0.25)
    assert (detected[on_ring] != plain[on_ring]).any()
    assert (detected[in_hole] == plain[in_hole]).all()


@pytest.mark.parametrize("overlap", [True, False])
def test_the_masks_of_a_batch_are_drawn(overlap: bool) -> None:
    source = PaintedObjects()
    drawn = {"func_name": "segment_poly2mask", "mask_overlap": overlap}
    rows = [{"func_name": "letterbox", "scaleup": True}, drawn]
    context = TransformContext(np.random.default_rng(0), source, 160)
    batch = collate([create_transforms(rows)(source.load(number), context) for number in range(2)])
    assert batch.masks is not None
    with_masks = draw_batch_images(batch, ["a", "b", "c", "d"])
    without = draw_batch_images(replace(batch, masks=None), ["a", "b", "c", "d"])
    for number, (one, other) in enumerate(zip(with_masks, without, strict=True)):
        masks = batch.masks[number].numpy()
        covered = np.asarray(masks > 0 if overlap else masks.any(0), np.uint8)
        changed = (one != other).any(2)
        inside = cv2.resize(cv2.erode(covered, np.ones((3, 3))), one.shape[1::-1])
        assert changed[inside > 0].mean() > 0.9
        outside = cv2.resize(cv2.dilate(covered, np.ones((3, 3))), one.shape[1::-1])
        assert not changed[outside == 0].any()


def test_curves_are_not_drawn_after_each_of_many_short_epochs_but_always_at_the_end(tmp_path: Path) -> None:
    # A drawing takes tenths of a second, so it would be the larger part of epochs like these.
    context = toy_trainer(tmp_path, toy_step()).context
    row = {"kind": "step", "step": 1, "epoch": 0, "loss": 1.0, "items": {"loss": 1.0}, "lr": [0.1]}
    context.run.metrics.write_text(json.dumps(row) + "\n")
    callback, plot = PicturesCallback(), context.run.plots / "curves.png"
    callback.on_evaluation(context)
    assert plot.exists()
    plot.unlink()
    callback.on_evaluation(context)
    assert not plot.exists()
    callback.on_train_end(context)
    assert plot.exists()
