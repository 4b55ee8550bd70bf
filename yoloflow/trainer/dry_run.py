"""Takes a training up to its first step and leaves nothing of it behind."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing
from typing import Any, cast

from yoloflow.structures import Batch
from yoloflow.trainer.guards.memory import forecast_memory
from yoloflow.trainer.trainer import Trainer

logger = logging.getLogger("yoloflow")


def try_first_step(trainer: Trainer) -> dict[str, Any]:
    """Tries the largest batch (`memory_forecast`) and loads the first one; nothing is trained or written.

    Returns:
        epochs, steps_per_epoch, and the images and their side of the first batch.

    Raises:
        YoloflowError: memory is too small, or a batch cannot be loaded.
    """
    context = trainer.context
    if trainer.settings.memory_forecast:
        forecast_memory(context.train_step, trainer.loader, context.ranks)
    with closing(cast(Generator[Batch, None, None], trainer.loader.batches(context.step))) as batches:
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
