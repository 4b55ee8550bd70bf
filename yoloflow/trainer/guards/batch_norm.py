"""The guard against batches of which a BatchNorm sees one value for each channel."""

from __future__ import annotations

import torch

from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.runtime.ranks import without_collectives
from yoloflow.structures import YoloflowError
from yoloflow.train_step.examination import no_trace
from yoloflow.train_step.step import TrainStep
from yoloflow.trainer.guards.guard import Guard


class BatchNormGuard(Guard):
    """Refuses a batch of one image whose coarsest map has one cell: one value has no variance."""

    def __init__(self, train_step: TrainStep, loader: ConcatLoader) -> None:
        self._train_step, self._loader = train_step, loader

    def before_training(self) -> None:
        """Runs the network on the smallest batch of all stages, without a trace.

        Raises:
            YoloflowError: a BatchNorm that is trained has one value for each channel.
        """
        if self._loader.largest_batch.batch_size > 1:
            return
        height, width = self._loader.smallest_shape
        network, device = self._train_step.network, self._train_step.device
        images = torch.zeros((1, 3, height, width), dtype=torch.uint8, device=device)
        try:
            with no_trace(network), torch.no_grad(), without_collectives():
                network(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise YoloflowError(
                f"a batch of one image of {width} x {height} px, the smallest of this training, has one cell "
                "in the coarsest maps: BatchNorm has no variance of one value. Set per_batch_size=2 or more "
                f"(accumulate does not help), or no side below {2 * min(height, width)} px (img_size, "
                "data.train_img_size, data.multi_scale)"
            ) from error
