"""Plots of a training: the first batch of each stage, the curves, and the newest detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.data.image_files import decode_image
from yoloflow.report.box_drawing import draw_detections, draw_grid
from yoloflow.report.curves_plot import plot_curves
from yoloflow.structures import Batch, Detections, Uint8Array


class PicturesCallback(BaseCallback):
    """Writes `plots/`: the first batch of each stage, the curves, and detections on validation images."""

    def __init__(self, images: int = 16, columns: int = 4, min_score: float = 0.25) -> None:
        """Sets the grid.

        Args:
            images: images in a grid at most.
            columns: images side by side.
            min_score: weaker detections are not drawn.
        """
        self.min_score = min_score
        self.images = images
        self.columns = columns
        self._stage_drawn = -1

    def on_step_begin(self, context: RunContext) -> None:
        """Writes the first batch of a stage, with its boxes as the network sees them."""
        if context.stage == self._stage_drawn or not context.ranks.is_main or context.batch is None:
            return
        self._stage_drawn = context.stage
        tiles = draw_batch_images(context.batch, context.class_names)[: self.images]
        path = context.run.plots / f"train_batch_stage{context.stage + 1}.jpg"
        _write_jpeg(path, draw_grid(tiles, self.columns))

    def on_evaluation(self, context: RunContext) -> None:
        """Writes the curves so far, and the detections."""
        self._draw_curves(context)
        if context.evaluation is None or not context.ranks.is_main:
            return
        tiles = [
            draw_image_file(image.path, image.detections, context.class_names, self.min_score)
            for image in context.evaluation.examples[: self.images]
        ]
        if tiles:
            _write_jpeg(context.run.plots / "detections.jpg", draw_grid(tiles, self.columns))

    def on_train_end(self, context: RunContext) -> None:
        """Writes the whole curves."""
        self._draw_curves(context)

    def state_dict(self) -> dict[str, Any]:
        """Returns the stage whose first batch is drawn."""
        return {"stage_drawn": self._stage_drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back the stage: a resumed run is in the middle of it."""
        self._stage_drawn = state["stage_drawn"]

    @staticmethod
    def _draw_curves(context: RunContext) -> None:
        if context.ranks.is_main and context.run.metrics.exists():
            plot_curves(context.run.metrics, context.run.plots / "curves.png")


def draw_image_file(path: Path, detections: Detections, names: list[str], min_score: float) -> Uint8Array:
    """Draws the detections of at least `min_score` on an image file; returns it as BGR."""
    chosen = detections.scores >= min_score
    return draw_detections(
        decode_image(str(path)),
        detections.boxes_xyxy[chosen],
        detections.classes[chosen],
        detections.scores[chosen],
        names,
    )


def draw_batch_images(batch: Batch, names: list[str]) -> list[Uint8Array]:
    """Draws the label boxes on each image of a batch; returns them as BGR."""
    drawn = []
    for image, labels in zip(batch.images.cpu().numpy(), batch.labels.cpu().numpy(), strict=True):
        bgr = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
        rows = labels[labels[:, 1] >= 0]
        height, width = bgr.shape[:2]
        centre, half = rows[:, 2:4], rows[:, 4:6] / 2
        size = np.array([width, height, width, height], np.float32)
        boxes = np.concatenate((centre - half, centre + half), 1) * size
        drawn.append(draw_detections(bgr, boxes, rows[:, 1].astype(np.int64), None, names))
    return drawn


def _write_jpeg(path: Path, image_bgr: Uint8Array) -> None:
    # OpenCV ends the process where the name of a file is no UTF-8.
    path.write_bytes(cv2.imencode(".jpg", image_bgr)[1].tobytes())
