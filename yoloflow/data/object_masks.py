"""Masks of labelled objects as run lengths: from a data set, a sample, or the masks of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.outlines import facing_alike, mask_of_pixels
from yoloflow.data.transforms import Sample
from yoloflow.data.transforms.fill import fill_outlines
from yoloflow.data.transforms.geometry import move_polygons
from yoloflow.structures import DatasetIndex, Float32Array, RunLengthMask, Uint8Array


def masks_of_image(index: DatasetIndex, image: int) -> list[RunLengthMask] | None:
    """Returns the masks of an image's objects, without pixels for one that has neither mask nor outline.

    None where no object has any.
    """
    first, last = index.box_offsets[image : image + 2].tolist()
    outlines = [
        facing_alike(
            index.polygon_points[index.polygon_offsets[box] : index.polygon_offsets[box + 1]],
            index.polygon_parts.get(box, []),
        )
        for box in range(first, last)
    ]
    height, width = index.sizes_hw[image].tolist()
    drawn = _masks_of_outlines(outlines, (height, width))
    masks = [index.masks.get(box, mask) for box, mask in zip(range(first, last), drawn, strict=True)]
    is_known = any(box in index.masks for box in range(first, last)) or any(map(len, outlines))
    return masks if is_known else None


def masks_of_sample(sample: Sample) -> list[RunLengthMask] | None:
    """Returns the drawn masks of a sample, else those of its outlines; None where there are none."""
    if sample.masks is not None:
        return separate_masks(sample.masks, len(sample.classes))
    if not any(map(len, sample.polygons)):
        return None
    return _masks_of_outlines(sample.polygons, sample.canvas.size_hw)


def separate_masks(masks: NDArray[np.integer], count: int) -> list[RunLengthMask]:
    """Returns the masks of the first `count` objects of masks as `Batch.masks` has them for an image.

    Args:
        masks: (h, w), pixels of 1 + the object's row; or (G, h, w) of 0 and 1.
        count: objects.
    """
    parts = masks[:count] if masks.ndim == 3 else (masks == row for row in range(1, count + 1))
    return [mask_of_pixels(part.astype(np.uint8)) for part in parts]


def _masks_of_outlines(outlines: Sequence[Float32Array], size_hw: tuple[int, int]) -> list[RunLengthMask]:
    masks = []
    for one in fill_outlines(move_polygons(list(outlines), np.eye(3), size_hw)):
        pixels: Uint8Array = np.zeros(size_hw, np.uint8)
        pixels[one.window] = one.pixels
        masks.append(mask_of_pixels(pixels))
    return masks
