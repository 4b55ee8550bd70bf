"""Plots: truth beside detections, and captions that can be read on small images."""

from pathlib import Path

import cv2
import numpy as np

from yoloflow.callbacks.plots import draw_image_file, draw_truth
from yoloflow.data.index import read_index
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
