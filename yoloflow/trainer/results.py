"""The result of a training, and of one that is only tried."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

from yoloflow.callbacks import RunContext
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.run.summary import write_summary
from yoloflow.trainer.training_time import TrainingTime

logger = logging.getLogger("yoloflow")


def write_results(context: RunContext, taken: TrainingTime, patience: int | None) -> dict[str, Any]:
    """Writes `summary.json` of a training that has ended, and returns its content.

    Args:
        context: of the training.
        taken: its time.
        patience: that has ended it, if it ended before its last epoch.
    """
    counts: dict[str, Any] = {"epochs": context.step // context.steps_per_epoch, "steps": context.step}
    counts["skipped_updates"] = int(context.train_step.skipped_updates)
    if counts["epochs"] < context.epochs:
        counts["stopped_early"] = {"patience": patience, "planned": context.epochs}
    results = (counts, context.figures, context.best, taken.to_json())
    return write_summary(context.run, context.ranks, context.train_step.device, *results)


def try_first_batch(context: RunContext, loader: ConcatLoader) -> dict[str, Any]:
    """Loads the first batch of a training that is not begun; nothing is trained or written.

    Returns:
        epochs, steps_per_epoch, and the images and their side of the first batch.

    Raises:
        YoloflowError: it cannot be loaded.
    """
    with closing(loader.batches(context.step)) as batches:
        batch = next(batches)
    counts = {"epochs": context.epochs, "steps_per_epoch": context.steps_per_epoch}
    found = {**counts, "images": len(batch.images), "img_size": batch.images.shape[-1]}
    if context.ranks.is_main:
        logger.info(
            "dry run: %d epochs x %d steps, %d images of %d px in the first batch; would train in %s. "
            "Nothing was trained or written",
            *(*found.values(), context.run.path),
        )
    return found
