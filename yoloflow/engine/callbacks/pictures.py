"""Pictures of what goes in and what comes out: training batches by stage, and detections at the end."""

from __future__ import annotations

import cv2
import numpy as np

from yoloflow.engine.callbacks.base import BaseCallback, RunContext
from yoloflow.report.curves import plot_curves
from yoloflow.report.draw import draw_detections, draw_grid
from yoloflow.structures import Batch, Uint8Array


class PicturesCallback(BaseCallback):
    """Writes `plots/`: the first batch of each stage, the curves, and detections on validation images."""

    def __init__(self, images: int = 16, columns: int = 4) -> None:
        """State the grid.

        Args:
            images: pictures in a grid at most.
            columns: pictures side by side.
        """
        self.images = images
        self.columns = columns
        self._stage_drawn = -1

    def on_step_begin(self, context: RunContext) -> None:
        """The first batch of a stage, with its boxes as the network sees them."""
        if context.stage == self._stage_drawn or not context.ranks.is_main or context.batch is None:
            return
        self._stage_drawn = context.stage
        tiles = batch_pictures(context.batch, context.class_names)[: self.images]
        path = context.run.plots / f"train_batch_stage{context.stage + 1}.jpg"
        cv2.imwrite(str(path), draw_grid(tiles, self.columns))

    def on_epoch_end(self, context: RunContext) -> None:
        """The curves so far."""
        if context.ranks.is_main and context.run.metrics.exists():
            plot_curves(context.run.metrics, context.run.plots / "curves.png")

    def on_train_end(self, context: RunContext) -> None:
        """Detections of the last evaluation."""
        if context.evaluation is None or not context.ranks.is_main:
            return
        tiles = [
            draw_detections(
                cv2.imread(str(picture.path)),
                picture.detections.boxes_xyxy[picture.detections.scores > 0.25],
                picture.detections.classes[picture.detections.scores > 0.25],
                picture.detections.scores[picture.detections.scores > 0.25],
                context.class_names,
            )
            for picture in context.evaluation.pictures[: self.images]
        ]
        if tiles:
            cv2.imwrite(str(context.run.plots / "detections.jpg"), draw_grid(tiles, self.columns))


def batch_pictures(batch: Batch, names: list[str]) -> list[Uint8Array]:
    """Each image of a batch with its label boxes drawn, as BGR pictures."""
    pictures = []
    for image, labels in zip(batch.images.cpu().numpy(), batch.labels.cpu().numpy(), strict=True):
        bgr = np.ascontiguousarray(image[::-1].transpose(1, 2, 0))
        rows = labels[labels[:, 1] >= 0]
        height, width = bgr.shape[:2]
        centre, half = rows[:, 2:4], rows[:, 4:6] / 2
        size = np.array([width, height, width, height], np.float32)
        boxes = np.concatenate((centre - half, centre + half), 1) * size
        pictures.append(draw_detections(bgr, boxes, rows[:, 1].astype(np.int64), None, names))
    return pictures
