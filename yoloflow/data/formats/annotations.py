"""The content of a source in flat arrays, before any image was opened: the product of all formats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from yoloflow.structures import Float32Array, Int64Array, Problem, RunLengthMask

Value = TypeVar("Value")


@dataclass(slots=True)
class Annotations:
    """I listed images and M valid lines about their boxes; the lines are in any order.

    Attributes:
        image_paths: I absolute paths, existing or not.
        listed_in: I files that list them; listed_lines: (I,) lines there, 0 where that means nothing.
        label_files: I files with their labels.
        image_ids: (I,) int64; has_own_ids: whether the ids are the source's and not mere numbers.
        given_ids: by image, the ids of the source that are not these numbers, as they stand there.
        stated_sizes_hw: (I, 2) int64 size that the annotation states, 0 where it states none.
        label_missing: (I,) bool.
        image_dropped: (I,) bool; a problem says why.
        box_images: (M,) int64 position of the box's image.
        box_numbers: (M,) int64 line in the label file, or COCO's annotation id.
        boxes_xyxy: (M, 4) float64, in pixels or, where `is_normalised`, in parts of the image.
        is_normalised: (M,) bool.
        class_ids: (M,) int64 as the source counts: YOLO's class, COCO's category id, position in VOC's names.
        categories: name of each class id; None for a format that has no names.
        is_crowd: (M,) bool.
        areas: (M,) float64, NaN where the source states none.
        polygon_offsets: (M + 1,) int64; polygon_points: (P, 2) float32, in the boxes' unit.
        polygon_parts: by box, points of each part of an outline that is joined of several.
        masks: by box, run-length masks.
        box_entries: (M,) position of the image whose label file has the box; None where that is its own.
        consulted: files and folders beside these whose change could change the outcome; None if unknown.
        problems: what was found wrong while reading.
        num_images_listed: images in the source; num_boxes_listed: its lines, valid or not.
    """

    image_paths: list[str]
    listed_in: list[str]
    listed_lines: Int64Array
    label_files: list[str]
    image_ids: Int64Array
    has_own_ids: bool
    stated_sizes_hw: Int64Array
    label_missing: NDArray[np.bool_]
    image_dropped: NDArray[np.bool_]
    box_images: Int64Array
    box_numbers: Int64Array
    boxes_xyxy: NDArray[np.float64]
    is_normalised: NDArray[np.bool_]
    class_ids: Int64Array
    categories: dict[int, str] | None
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    polygon_offsets: Int64Array
    polygon_points: Float32Array
    polygon_parts: dict[int, list[int]] = field(default_factory=dict)
    masks: dict[int, RunLengthMask] = field(default_factory=dict)
    given_ids: dict[int, str | int | float] = field(default_factory=dict)
    box_entries: Int64Array | None = None
    consulted: list[str] | None = None
    problems: list[Problem] = field(default_factory=list)
    num_images_listed: int = 0
    num_boxes_listed: int = 0

    def place_of_box(self, box: int) -> tuple[str, int | None, str]:
        """File, line and a prefix for the detail of a problem with a box."""
        entries = self.box_images if self.box_entries is None else self.box_entries
        file, number = self.label_files[entries[box]], int(self.box_numbers[box])
        return (file, None, f"annotation {number}: ") if file.endswith(".json") else (file, number, "")

    def source_of(self, image: int) -> str:
        """The json that has the labels of an image, or the folder of its label file."""
        label = self.label_files[image]
        return label if label.endswith(".json") else os.path.dirname(label)

    def place_of_image(self, image: int) -> tuple[str, int | None]:
        """File and line that list an image."""
        return self.listed_in[image], int(self.listed_lines[image]) or None


_PER_IMAGE = ("listed_lines", "image_ids", "stated_sizes_hw", "label_missing", "image_dropped")
_PER_BOX = ("box_numbers", "boxes_xyxy", "is_normalised", "class_ids", "is_crowd", "areas", "polygon_points")
_LISTS = ("image_paths", "listed_in", "label_files", "problems")
_BY_BOX = ("polygon_parts", "masks")
_COUNTS = ("num_images_listed", "num_boxes_listed")


def join_annotations(parts: Sequence[Annotations]) -> Annotations:
    """Several sources one after the other; their class ids must mean the same already."""
    if len(parts) == 1:
        return parts[0]
    first_images = offsets_of([len(part.image_paths) for part in parts])[:-1].tolist()
    first_boxes = offsets_of([len(part.box_images) for part in parts])[:-1].tolist()

    def values(name: str) -> list[Any]:
        return [getattr(part, name) for part in parts]

    def renumbered(name: str, first_numbers: Sequence[int]) -> dict[int, Any]:
        owned = zip(values(name), first_numbers, strict=True)
        return {first + number: value for own, first in owned for number, value in own.items()}

    box_images = [own + first for own, first in zip(values("box_images"), first_images, strict=True)]
    polygon_sizes = [np.diff(offsets) for offsets in values("polygon_offsets")]
    consulted = values("consulted")
    joined: dict[str, Any] = {name: np.concatenate(values(name)) for name in _PER_IMAGE + _PER_BOX}
    joined |= {name: list(chain.from_iterable(values(name))) for name in _LISTS}
    joined |= {name: renumbered(name, first_boxes) for name in _BY_BOX}
    joined |= {name: sum(values(name)) for name in _COUNTS}
    return Annotations(
        has_own_ids=all(part.has_own_ids for part in parts),
        box_images=np.concatenate(box_images),
        categories=parts[0].categories,
        polygon_offsets=offsets_of(np.concatenate(polygon_sizes)),
        given_ids=renumbered("given_ids", first_images),
        consulted=None if None in consulted else list(chain.from_iterable(consulted)),
        **joined,
    )


def offsets_of(counts: Any) -> Int64Array:
    """Returns (N,) counts to the (N + 1,) offsets of a ragged array."""
    return np.concatenate(([0], np.cumsum(np.asarray(counts, np.int64)))).astype(np.int64)


def rows_of_ragged(offsets: Int64Array, chosen: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Returns the flat rows that the chosen items of a ragged array own, in the order chosen.

    Args:
        offsets: (N + 1,) of the ragged array.
        chosen: (K,) items.

    Returns:
        (R,) flat rows, and the (K + 1,) offsets of the chosen items among them.
    """
    return rows_from(offsets[:-1][chosen], np.diff(offsets)[chosen])


def rows_from(starts: Int64Array, counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Returns (R,) so many rows from each start on, and the (K + 1,) offsets of each among them."""
    offsets = offsets_of(counts)
    return np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts), offsets


def by_new_number(values: Mapping[int, Value], chosen: Int64Array) -> dict[int, Value]:
    """Returns the values of the chosen items, by their position among these."""
    if not values:
        return {}
    return {new: values[old] for new, old in enumerate(chosen.tolist()) if old in values}
