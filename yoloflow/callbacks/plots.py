"""Plots of a training: the first batch of each stage, the curves, and the newest detections."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.data.decoder_messages import decode_again
from yoloflow.data.object_masks import masks_of_image, separate_masks
from yoloflow.report.box_drawing import draw_detections, draw_grid, enlarged
from yoloflow.report.curves_plot import plot_curves
from yoloflow.structures import Batch, DatasetIndex, Detections, Uint8Array

logger = logging.getLogger("yoloflow")

_CURVES_SHARE = 0.02
"""Share of a training's time that drawing its curves may take; the last ones are drawn in any case."""


class PicturesCallback(BaseCallback):
    """Writes `plots/`: first batch of each stage, curves, truth beside detections of validation images."""

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
        self._next_curves = 0.0

    def on_step_begin(self, context: RunContext) -> None:
        """Writes the first batch of a stage, with its boxes as the network sees them."""
        if context.stage == self._stage_drawn or not context.ranks.is_main or context.batch is None:
            return
        self._stage_drawn = context.stage
        tiles = draw_batch_images(context.batch, context.class_names)[: self.images]
        path = context.run.plots / f"train_batch_stage{context.stage + 1}.jpg"
        _write_jpeg(path, draw_grid(tiles, self.columns))

    def on_evaluation(self, context: RunContext) -> None:
        """Writes the detections and, unless they were drawn just now, the curves so far."""
        if time.monotonic() >= self._next_curves:
            self._draw_curves(context)
        if context.evaluation is None or not context.ranks.is_main:
            return
        index, names = context.evaluation.index, context.class_names
        tiles = []
        for image in context.evaluation.examples[: self.images]:
            tiles.append(draw_truth(image.path, index))
            tiles.append(draw_image_file(image.path, image.detections, names, self.min_score))
        if tiles:
            columns = max(self.columns // 2, 1) * 2
            captions = ["truth", f"found, scores from {self.min_score:g}"] * (len(tiles) // 2)
            _write_jpeg(context.run.plots / "detections.jpg", draw_grid(tiles, columns, captions))

    def on_train_end(self, context: RunContext) -> None:
        """Writes the whole curves."""
        self._draw_curves(context)

    def state_dict(self) -> dict[str, Any]:
        """Returns the stage whose first batch is drawn."""
        return {"stage_drawn": self._stage_drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back the stage: a resumed run is in the middle of it."""
        self._stage_drawn = state["stage_drawn"]

    def _draw_curves(self, context: RunContext) -> None:
        if context.ranks.is_main and context.run.metrics.exists():
            begun = time.monotonic()
            plot_curves(context.run.metrics, context.run.plots / "curves.png")
            ended = time.monotonic()
            self._next_curves = ended + (ended - begun) / _CURVES_SHARE


def draw_truth(path: Path, index: DatasetIndex) -> Uint8Array:
    """Draws the labels of an image file of a data set; returns it as BGR."""
    place = int(np.flatnonzero(index.image_paths == str(path))[0])
    boxes = slice(*index.box_offsets[place : place + 2])
    image = enlarged(decode_again(str(path)))
    factor = image.shape[1] / index.sizes_hw[place, 1]
    corners = (index.boxes_xyxy[boxes] * factor).astype(np.float32)
    masks = masks_of_image(index, place)
    return draw_detections(image, corners, index.classes[boxes], None, index.names, masks)


def draw_image_file(path: Path, detections: Detections, names: list[str], min_score: float) -> Uint8Array:
    """Draws the detections of at least `min_score` on an image file; returns it as BGR."""
    chosen, masks = detections.scores >= min_score, detections.masks
    image = decode_again(str(path))
    larger = enlarged(image)
    return draw_detections(
        larger,
        detections.boxes_xyxy[chosen] * (larger.shape[1] / image.shape[1]),
        detections.classes[chosen],
        detections.scores[chosen],
        names,
        None if masks is None else [masks[row] for row in np.flatnonzero(chosen)],
    )


def draw_batch_images(batch: Batch, names: list[str]) -> list[Uint8Array]:
    """Draws the labels on each image of a batch, with their masks where it has them; returns them as BGR."""
    drawn = []
    pairs = zip(batch.images.cpu().numpy(), batch.labels.cpu().numpy(), strict=True)
    for number, (image, labels) in enumerate(pairs):
        bgr = enlarged(np.ascontiguousarray(image[::-1].transpose(1, 2, 0)))
        rows = labels[labels[:, 1] >= 0]
        height, width = bgr.shape[:2]
        centre, half = rows[:, 2:4], rows[:, 4:6] / 2
        size = np.array([width, height, width, height], np.float32)
        boxes = np.concatenate((centre - half, centre + half), 1) * size
        masks = None if batch.masks is None else separate_masks(batch.masks[number].cpu().numpy(), len(rows))
        drawn.append(draw_detections(bgr, boxes, rows[:, 1].astype(np.int64), None, names, masks))
    return drawn


def _write_jpeg(path: Path, image_bgr: Uint8Array) -> None:
    # OpenCV ends the process where the name of a file is no UTF-8.
    content = cv2.imencode(".jpg", image_bgr)[1].tobytes()
    try:
        path.write_bytes(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        logger.warning("%s: cannot be written (%s); the training goes on", path, error.strerror)
