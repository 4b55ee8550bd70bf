"""Draws the samples of any point of a training: they are functions of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yoloflow.config.schema import Config
from yoloflow.data.loader import StageLoader
from yoloflow.data.object_masks import masks_of_sample
from yoloflow.data.sets import read_train_set
from yoloflow.data.stage_loaders import choose_partners, create_stage_loaders
from yoloflow.data.transforms import Sample
from yoloflow.data.worker import BatchKey
from yoloflow.report.box_drawing import cell_of_grid, draw_detections, draw_grid, enlarged, fit_image
from yoloflow.structures import Uint8Array, YoloflowError, plural

_COLUMNS = 4


class Replay:
    """The training batches of a recipe, without a network."""

    def __init__(self, config: Config) -> None:
        """Read the training set and make the loaders, as the training does.

        Raises:
            YoloflowError: settings or data cannot be used.
        """
        self.index = read_train_set(config.data, config.img_size, config.run_eval)
        stages = config.stages(config.steps_per_epoch(len(self.index)))
        stride = max(config.network.stride)
        partners = choose_partners(self.index, stages, config.data, stride)
        data = {"cache": "none", "num_parallel_workers": 0, "mosaic_partners": partners}
        self._loader = create_stage_loaders(
            self.index, stages, config.data.model_copy(update=data), config, stride=stride, seed=config.seed
        )

    def draw_sample(self, epoch: int, index: int) -> Uint8Array:
        """Draw one sample: the image as loaded, then after each transform that it goes through.

        Args:
            epoch: from 1, as in the log.
            index: position of the image in the training set, from 0.

        Returns:
            (H, W, 3) BGR, captions above the images.

        Raises:
            YoloflowError: no such epoch or image, or the epoch does not use the image.
        """
        if not 0 <= index < len(self.index):
            raise YoloflowError(f"--index {index}: the training set has images 0 to {len(self.index) - 1}")
        for stage, key in self._batches(epoch):
            if index in key.indices:
                nearby = key.nearby(key.indices.index(index))
                return self._draw(stage.dataset.trace(key.epoch, index, key.shape_hw, nearby))
        raise YoloflowError(
            f"epoch {epoch} does not use image {index}: its order leaves it out (see data.sampler, and the "
            "images that fill no batch); try another epoch"
        )

    def draw_batch(self, epoch: int, batch: int) -> Uint8Array:
        """Draw all samples of a batch, as the network sees them.

        Args:
            epoch: from 1.
            batch: number within the epoch, from 1.

        Raises:
            YoloflowError: no such epoch or batch.
        """
        batches = self._batches(epoch)
        if not 1 <= batch <= len(batches):
            raise YoloflowError(f"--batch {batch}: an epoch has batches 1 to {len(batches)}")
        stage, key = batches[batch - 1]
        samples = [
            (f"image {index}", stage.dataset.get(key.epoch, index, key.shape_hw, key.nearby(number)))
            for number, index in enumerate(key.indices)
        ]
        return self._draw(samples)

    def _batches(self, epoch: int) -> list[tuple[StageLoader, BatchKey]]:
        """List each batch of an epoch with its stage; a stage may begin within the epoch."""
        if not 1 <= epoch <= self._loader.epochs:
            raise YoloflowError(f"--epoch {epoch}: the training has epochs 1 to {self._loader.epochs}")
        steps = self._loader.steps_per_epoch
        first = (epoch - 1) * steps
        stages = [self._loader.loaders[self._loader.stage_of(first + step)] for step in range(steps)]
        planned = {id(stage): stage.epoch_batches(epoch - 1) for stage in stages}
        return [(stage, planned[id(stage)][step]) for step, stage in enumerate(stages)]

    def _draw(self, samples: Sequence[tuple[str, Sample]]) -> Uint8Array:
        """Draws samples at the size at which they are shown, so that texts on all are of one size."""
        tiles, captions = [], []
        images = [enlarged(sample.image) for _, sample in samples]
        cell = cell_of_grid(images)
        for (name, sample), image in zip(samples, images, strict=True):
            shown = fit_image(image, *cell)
            boxes = sample.boxes_xyxy * (shown.shape[1] / sample.image.shape[1])
            about = (sample.classes, None, self.index.names, masks_of_sample(sample), min(cell))
            tiles.append(draw_detections(shown, boxes.astype(np.float32), *about))
            size = f"{sample.image.shape[1]} x {sample.image.shape[0]}"
            captions.append(f"{name}  {size}, {plural(len(boxes), 'box')}")
        return draw_grid(tiles, min(_COLUMNS, len(tiles)), captions)
