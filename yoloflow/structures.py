"""Data classes that pass between rooms: batches, detections, problems, indexes; and the error for users."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
Uint8Array = NDArray[np.uint8]


class RunLengthMask(TypedDict):
    """COCO's run-length mask: height and width, and the lengths of the runs as a list or compressed text."""

    size: list[int]
    counts: list[int] | str


class YoloflowError(ValueError):
    """An error in what the user gave; its message says where, what is wrong and what to do."""


def nearest_names(name: str, known: Iterable[str]) -> str:
    """Return the known names nearest to a misspelt one, or all of them, as a clause for error messages."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"


def plural(count: float, noun: str) -> str:
    """Returns a number with its noun: "1 epoch", "3 boxes"."""
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x", "tch")) else "s"
    return f"{count:g} {noun}{ending}" if isinstance(count, float) else f"{count} {noun}{ending}"


def fault_of_class_name(name: str) -> str:
    """Returns what is wrong with a class name, the end of a sentence; "" for nothing."""
    if not name.strip():
        return "is empty; give it a name"
    if name.splitlines() != [name]:
        return f"{name!r} has a line break, and files of names have one a line; write it in one line"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"{ascii(name)} is no text: it has half a character, or a byte that is no UTF-8; correct it"
    return ""


@dataclass(slots=True)
class Batch:
    """B samples as the device takes them.

    Attributes:
        images: (B, 3, H, W) uint8, RGB.
        labels: (B, G, 6) float32 rows of image index, class, cx, cy, w, h with the box in 0..1 of the
            network input; padding rows have class -1.
        indices: (B,) int64 positions in the data set.
        original_sizes_hw: (B, 2) float32 height and width on disk.
        scales_xy: (B, 2) float32 factor from original pixels to network input, x and y.
        pads_xy: (B, 2) float32 left and top border in network input pixels.
        masks: where the last transform drew them, at H / ratio and W / ratio: (B, h, w) whose pixels hold 1 +
            the label row of the object that covers them and 0 for none, or (B, G, h, w) of 0 and 1. uint8, or
            int32 where an image has more than 255 objects.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    original_sizes_hw: torch.Tensor
    scales_xy: torch.Tensor
    pads_xy: torch.Tensor
    masks: torch.Tensor | None = None

    @property
    def targets(self) -> tuple[torch.Tensor, ...]:
        """Labels, and masks where there are any: what the train step takes beside the images."""
        return (self.labels,) if self.masks is None else (self.labels, self.masks)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by torch's loader on CUDA machines)."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(self, **{name: part.pin_memory() for name, part in parts.items() if part is not None})


@dataclass(slots=True, repr=False)
class Detections:
    """The detections of one image, best first.

    Attributes:
        boxes_xyxy: (N, 4) float32 corner boxes in pixels of the original image.
        scores: (N,) float32 in 0..1.
        classes: (N,) int64 class numbers, 0-based.
        masks: of each box, at the original image's size, counts compressed; None where the network predicts
            none.
    """

    boxes_xyxy: Float32Array
    scores: Float32Array
    classes: Int64Array
    masks: list[RunLengthMask] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Detections({plural(len(self), 'box')})"


@dataclass(slots=True, frozen=True)
class Problem:
    """A problem of the user's data and what was done about it.

    Attributes:
        file: the image or label file; line: 1-based line or None.
        kind: short stable key, such as "truncated-image" or "box-nan".
        action: "drop-image", "drop-box", "clip-box" or "keep".
        detail: one sentence with the values.
        image: absolute path of the image concerned; None where there is no one image.
    """

    file: str
    line: int | None
    kind: str
    action: str
    detail: str
    image: str | None = None

    @property
    def place(self) -> str:
        """The file and, where there is one, the line."""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place}: {self.detail} [{self.kind}, {self.action}]"


@dataclass(slots=True)
class DatasetIndex:
    """All annotations of a data set in flat arrays (cheap to share with worker processes).

    Image i owns the boxes `box_offsets[i]:box_offsets[i + 1]`; box k owns the polygon points
    `polygon_offsets[k]:polygon_offsets[k + 1]` (none where it has no polygon).

    Attributes:
        image_paths: (I,) unicode array of absolute paths.
        image_ids: (I,) int64; COCO json's ids, else 1-based numbers.
        given_ids: by image, the ids of a COCO json that are not these numbers, as they stand there.
        sizes_hw: (I, 2) int64 height and width, after EXIF rotation.
        box_offsets: (I + 1,) int64.
        boxes_xyxy: (M, 4) float64 in pixels of the original image.
        classes: (M,) int64, 0-based.
        is_crowd: (M,) bool; crowd regions are not trained on, and are ignored regions in evaluation.
        areas: (M,) float64 (COCO's "area"; width times height for other formats).
        polygon_offsets: (M + 1,) int64; polygon_points: (P, 2) float32 pixels.
        polygon_parts: points of each part of the outlines that are joined of several parts, by box.
        masks: run-length masks as the source has them, by box; the outline of an object goes along its mask.
        names: class names in class order.
        category_ids: (C,) int64 ids in files written for the user (COCO json's own, gaps kept; else 1-based).
        unlisted_classes: classes that are no categories of the COCO json that it was read from.
        problems: everything found wrong, with the repair made.
        num_images_listed: images in the source before any was dropped.
        num_boxes_listed: boxes in the source before any was dropped; equals the boxes here, plus the problems
            with action "drop-box", plus `num_boxes_of_dropped_images`.
        num_boxes_of_dropped_images: lines that went with their dropped image.
        source: what it was read from, for messages.
        digests: (I,) text that names the pixels of each image; None if the images were not decoded.
    """

    image_paths: NDArray[np.str_]
    image_ids: Int64Array
    sizes_hw: Int64Array
    box_offsets: Int64Array
    boxes_xyxy: NDArray[np.float64]
    classes: Int64Array
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    polygon_offsets: Int64Array
    polygon_points: Float32Array
    names: list[str]
    category_ids: Int64Array
    unlisted_classes: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    num_images_listed: int = 0
    num_boxes_listed: int = 0
    num_boxes_of_dropped_images: int = 0
    polygon_parts: dict[int, list[int]] = field(default_factory=dict)
    masks: dict[int, RunLengthMask] = field(default_factory=dict)
    given_ids: dict[int, str | int | float] = field(default_factory=dict)
    source: str = ""
    digests: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.image_paths)

    @property
    def box_images(self) -> Int64Array:
        """(M,) the image of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.box_offsets))

    def ids_for_files(self) -> list[int | str | float]:
        """Return the id of each image as files for the user have it."""
        return [self.given_ids.get(i, number) for i, number in enumerate(self.image_ids.tolist())]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that depend on the images' names, order, sizes, boxes and classes."""
        found = hashlib.sha256(
            "\n".join(os.path.basename(path) for path in self.image_paths.tolist()).encode("utf-8", "replace")
        )
        for array in (self.sizes_hw, self.box_offsets, self.boxes_xyxy, self.classes, self.is_crowd):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]
