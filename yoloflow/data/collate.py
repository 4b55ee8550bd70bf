"""Collates samples into a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from yoloflow.data.transforms import Sample
from yoloflow.structures import Batch, YoloflowError

LABEL_STEP = 16


def collate(
    samples: Sequence[Sample], max_labels: int | None = None, images: torch.Tensor | None = None
) -> Batch:
    """Collate samples of one size: RGB planes, boxes in centre form from 0 to 1, label rows padded.

    Args:
        samples: B of them.
        max_labels: rows of labels per image; None takes the next multiple of 16 that holds them all.
        images: (B, 3, H, W) uint8 to write into; None for new memory.

    Raises:
        YoloflowError: an image has more objects than `max_labels`.
    """
    height, width = samples[0].image.shape[:2]
    if images is None:
        images = _empty_images((len(samples), 3, height, width))
    labels = np.zeros((len(samples), _label_rows(samples, max_labels), 6), np.float32)
    labels[..., 0] = np.arange(len(samples))[:, None]
    labels[..., 1] = -1
    size = np.array((width, height), np.float32)
    planes = images.numpy()
    for row, sample in enumerate(samples):
        cv2.split(sample.image, [planes[row, 2], planes[row, 1], planes[row, 0]])
        count = len(sample.classes)
        low, high = sample.boxes_xyxy[:, :2], sample.boxes_xyxy[:, 2:]
        labels[row, :count, 1] = sample.classes
        labels[row, :count, 2:4] = (low + high) / 2 / size
        labels[row, :count, 4:6] = (high - low) / size
    return Batch(
        images=images,
        labels=torch.from_numpy(labels),
        indices=torch.tensor([sample.index for sample in samples]),
        original_sizes_hw=torch.tensor([sample.original_size_hw for sample in samples], dtype=torch.float32),
        scales_xy=torch.tensor([sample.scale_xy for sample in samples], dtype=torch.float32),
        pads_xy=torch.tensor([sample.pad_xy for sample in samples], dtype=torch.float32),
        masks=_stack_masks([sample.masks for sample in samples], labels.shape[1]),
    )


def _stack_masks(masks: Sequence[NDArray[np.uint8 | np.uint16] | None], rows: int) -> torch.Tensor | None:
    """Stack the masks of all samples as `Batch.masks` holds them; None where the samples have none."""
    drawn = [mask for mask in masks if mask is not None]
    if not drawn:
        return None
    if len(drawn) < len(masks):
        raise YoloflowError("some samples of a batch have masks and some have none: draw them in all stages")
    if drawn[0].ndim == 2:  # torch has few operations on uint16
        kind = np.uint8 if all(mask.dtype == np.uint8 for mask in drawn) else np.int32
        return torch.from_numpy(np.stack(drawn).astype(kind, copy=False))
    stacked = np.zeros((len(drawn), rows, *drawn[0].shape[1:]), np.uint8)
    for row, mask in enumerate(drawn):
        stacked[row, : len(mask)] = mask
    return torch.from_numpy(stacked)


def rows_for(count: int) -> int:
    """Return the rows of labels for `count` objects: a multiple of 16, so that there are few shapes."""
    return max(LABEL_STEP, -(-count // LABEL_STEP) * LABEL_STEP)


def _empty_images(shape: tuple[int, ...]) -> torch.Tensor:
    """Allocate a batch; in a worker in shared memory, if there is any, so that nothing is copied later."""
    if get_worker_info() is not None:
        with suppress(RuntimeError):
            storage = torch.UntypedStorage._new_shared(math.prod(shape))
            return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
    return torch.empty(shape, dtype=torch.uint8)


def _label_rows(samples: Sequence[Sample], max_labels: int | None) -> int:
    """Return the rows of labels that every image of the batch gets."""
    most = max(samples, key=lambda sample: len(sample.classes))
    count = len(most.classes)
    if max_labels is None:
        return rows_for(count)
    if count > max_labels:
        raise YoloflowError(
            f"the sample of image number {most.index} has {count} objects, max_labels is {max_labels}: "
            f"raise it to {count} or more (objects are never cut off)"
        )
    return max_labels
