"""A training up to its first step."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

from yoloflow.structures import plural
from yoloflow.trainer.trainer import Trainer

logger = logging.getLogger("yoloflow")


def try_first_step(trainer: Trainer) -> dict[str, Any]:
    """Lets the guards look at a training and loads its first batch; nothing is trained or written.

    Returns:
        epochs, steps_per_epoch, and the images and their side of the first batch.

    Raises:
        YoloflowError: memory is too small, or a batch cannot be loaded.
    """
    context = trainer.context
    trainer.guards.before_training()
    with closing(trainer.loader.batches(context.step)) as batches:
        batch = next(batches)
    found = {
        "epochs": context.epochs,
        "steps_per_epoch": context.steps_per_epoch,
        "images": len(batch.images),
        "img_size": batch.images.shape[-1],
    }
    if context.ranks.is_main:
        logger.info(
            "dry run: %s x %s, %s of %d px in the first batch; would train in %s. "
            "Nothing was trained or written",
            *(plural(context.epochs, "epoch"), plural(context.steps_per_epoch, "step")),
            *(plural(len(batch.images), "image"), batch.images.shape[-1], context.run.path),
        )
    return found
