"""TensorBoard files: scalars, batches and detections as images, curves of precision and recall."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.callbacks.plots import draw_batch_images, draw_image_file
from yoloflow.callbacks.scalars import MAX_CLASSES, evaluation_scalars, step_scalars
from yoloflow.report.box_drawing import draw_grid, shrunk
from yoloflow.structures import Uint8Array, YoloflowError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from yoloflow.evaluation.coco import CocoResult

logger = logging.getLogger("yoloflow")

_LONGEST_SIDE = 256
"""Pixels of an image in TensorBoard, which is stored as PNG."""

_shrunk = partial(shrunk, side=_LONGEST_SIDE)

_NUM_THRESHOLDS = 101


class SummaryCallback(BaseCallback):
    """Writes TensorBoard files into `<run>/tensorboard`, by step over all epochs.

    Scalars: losses, rates and speed of every logged step; AP, also of each class, of every evaluation.
    Images: the first batch of each stage as the network sees it. Images of detections, and each class's
    curve of precision over recall at IoU 0.50, are written for the last evaluation and for at most so many
    before it as `rounds` says, however many there are, so that the files stay small.
    """

    def __init__(self, images: int = 8, columns: int = 4, min_score: float = 0.25, rounds: int = 20) -> None:
        """Checks that TensorBoard is installed.

        Args:
            images: images in a grid at most.
            columns: images side by side.
            min_score: weaker detections are not drawn.
            rounds: evaluations with images and curves.

        Raises:
            YoloflowError: the package is not installed.
        """
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise YoloflowError(
                "SummaryCallback needs TensorBoard: pip install 'yoloflow[tensorboard]', or set summary=false"
            ) from error
        self.images = images
        self.columns = columns
        self.min_score = min_score
        self.rounds = rounds
        self._writer: SummaryWriter | None = None
        self._stage_begins = False
        self._evaluated_at = self._drawn_at = -1

    def on_train_begin(self, context: RunContext) -> None:
        """Opens the file; events after a resumed step are purged."""
        if context.ranks.is_main:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(context.run.path / "tensorboard"), purge_step=context.step + 1)

    def on_stage_begin(self, context: RunContext) -> None:
        """Notes that the next batch is the stage's first."""
        self._stage_begins = True

    def on_step_begin(self, context: RunContext) -> None:
        """Writes the first batch of a stage with its boxes."""
        if self._writer is None or not self._stage_begins or context.batch is None:
            return
        self._stage_begins = False
        drawn = draw_batch_images(context.batch, context.class_names)[: self.images]
        self._add_images(f"train/first_batch_of_stage{context.stage + 1}", drawn, context.step)

    def on_step_end(self, context: RunContext) -> None:
        """Writes losses, learning rates, momentum and speed."""
        if self._writer is None or not context.is_log_step:
            return
        for name, value in step_scalars(context).items():
            self._writer.add_scalar(name, value, context.step)

    def on_evaluation(self, context: RunContext) -> None:
        """Writes AP and AP50, AP of each class, of masks too, losses; now and then images and curves."""
        result = context.evaluation
        if self._writer is None or result is None:
            return
        self._evaluated_at = context.step
        for name, value in evaluation_scalars(result).items():
            self._writer.add_scalar(name, value, context.step)
        total = context.epochs * context.steps_per_epoch
        if self._drawn_at < 0 or (context.step - self._drawn_at) * self.rounds >= total:
            self._add_detections(context)
        self._writer.flush()

    def on_train_end(self, context: RunContext) -> None:
        """Writes the last evaluation's images and curves; closes the file."""
        if self._writer is None:
            return
        if self._evaluated_at > self._drawn_at:
            self._add_detections(context)
        self._writer.close()

    def on_exception(self, context: RunContext) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def _add_detections(self, context: RunContext) -> None:
        """Writes images and curves of the newest evaluation."""
        result = context.evaluation
        assert result is not None
        self._drawn_at = self._evaluated_at
        drawn = [
            draw_image_file(image.path, image.detections, context.class_names, self.min_score)
            for image in result.examples[: self.images]
        ]
        self._add_images("val/detections", drawn, self._evaluated_at)
        self._add_curves(result.coco, self._evaluated_at)

    def _add_images(self, tag: str, images_bgr: Sequence[Uint8Array], step: int) -> None:
        if self._writer is None or not images_bgr:
            return
        grid = draw_grid([_shrunk(image) for image in images_bgr], self.columns)
        self._writer.add_image(tag, grid[..., ::-1].copy(), step, dataformats="HWC")

    def _add_curves(self, result: CocoResult, step: int) -> None:
        assert self._writer is not None
        if len(result.per_class) > MAX_CLASSES:
            logger.info("TensorBoard: figures of the first %d classes only", MAX_CLASSES)
        for k, row in enumerate(result.per_class[:MAX_CLASSES]):
            if row.num_objects:
                rows = counts_at_thresholds(result.pr50[k], result.scores50[k], row.num_objects)
                tp, fp, tn, fn, precision, recall = rows
                self._writer.add_pr_curve_raw(
                    f"val_pr50/{row.name}", tp, fp, tn, fn, precision, recall, step, _NUM_THRESHOLDS
                )


def counts_at_thresholds(
    precision: NDArray[np.float64], scores: NDArray[np.float64], num_objects: int
) -> NDArray[np.float64]:
    """Converts COCO's precision by recall to TensorBoard's counts by threshold.

    Precision is COCO's interpolated one, and false positives follow from it. There are no true negatives in
    detection: they are 0.

    Args:
        precision: (101,) at recall 0, 0.01 ... 1.
        scores: (101,) that reach these recalls; 0 where none does.
        num_objects: objects of the class.

    Returns:
        (6, 101) true positives, false positives, true negatives, false negatives, precision and recall of
        the detections whose score is at least 0, 0.01 ... 1. Without such detections precision is 1.
    """
    thresholds = np.linspace(0, 1, _NUM_THRESHOLDS)
    is_reached = (scores >= thresholds[:, None]) & (scores > 0)
    place = np.where(is_reached.any(1), len(scores) - 1 - is_reached[:, ::-1].argmax(1), 0)
    recall = place / (len(scores) - 1)
    at_place = np.where(is_reached.any(1), precision[place], 1.0)
    true_positives = recall * num_objects
    false_positives = true_positives / np.maximum(at_place, 1e-9) - true_positives
    nothing = np.zeros(_NUM_THRESHOLDS)
    false_negatives = num_objects - true_positives
    return np.stack((true_positives, false_positives, nothing, false_negatives, at_place, recall))
