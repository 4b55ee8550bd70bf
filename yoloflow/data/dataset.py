"""Step 2: an indexed data set as samples: decoded, resized, transformed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.caches.decoded_images import ImageCache, Storage, open_image_cache
from yoloflow.data.decoder_messages import DecoderRemarks
from yoloflow.data.formats.annotations import by_new_number, offsets_of, rows_of_ragged
from yoloflow.data.formats.outlines import facing_alike
from yoloflow.data.image_files import SUFFIXES_OF_FORMAT, decode_image
from yoloflow.data.index import read_index
from yoloflow.data.jpeg_header import JPEG_END, TAIL_BYTES, tail_is
from yoloflow.data.loading_time import SpanTimer
from yoloflow.data.partner_window import Nearby
from yoloflow.data.transforms import Sample, TransformContext, create_transforms
from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.rows import Row
from yoloflow.structures import DatasetIndex, Float32Array, Int64Array, Uint8Array, YoloflowError

# OpenCV's flag for each factor by which libjpeg can shrink while it decodes.
_REDUCED_FLAGS = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

_NO_POLYGON: Float32Array = np.zeros((0, 2), np.float32)

Shrink = Literal["area", "linear"]
"""The way an image is shrunk: each pixel the mean of its area, or bilinear between the nearest four."""


class COCODataset:
    """Samples of a data set in COCO json, YOLO txt or VOC xml form (one index inside).

    `get(epoch, index)` is a pure function of (seed, epoch, index) and, where partners come from a window, of
    that: which process asks, and what it was asked before, do not matter.
    """

    def __init__(
        self,
        dataset_path: str | Sequence[str] | DatasetIndex,
        img_size: int = 640,
        transforms_dict: Sequence[Row] = (),
        is_training: bool = False,
        augment: bool = False,
        single_cls: bool = False,
        seed: int = 0,
        cache: Storage | ImageCache = "none",
        shrink: Shrink = "area",
        names: Sequence[str] | None = None,
    ) -> None:
        """Index the data set and build its transforms.

        Args:
            dataset_path: whatever `read_index` reads, or an index that is read already.
            img_size: side of the square network input in pixels.
            transforms_dict: YAML rows, see `create_transforms`.
            is_training: name of the rows in error messages, and whether samples of different epochs differ.
            augment: images may be shrunk the fast way (bilinear, at reduced scale by the JPEG decoder);
                without it they are shrunk as `shrink` says.
            single_cls: treat every object as class 0.
            seed: of all random draws of the transforms.
            cache: where decoded and resized images are kept, see `open_image_cache`; or a cache to share with
                another data set of the same index, size and way of shrinking.
            shrink: "area" as most published evaluations, or "linear".
            names: class names in class order; None takes those of the data set. YOLO labels, which name none,
                have as many classes as their highest number says.

        Raises:
            YoloflowError: bad data or transforms.
        """
        if not isinstance(dataset_path, DatasetIndex):
            dataset_path = read_index(dataset_path, names, "counted")
        self.index = dataset_path
        self.img_size = img_size
        self.is_training = is_training
        self.augment = augment
        self.single_cls = single_cls
        self.seed = seed
        self.timer = SpanTimer()
        self.decoder_remarks = DecoderRemarks()
        self.shrink: Shrink = "linear" if augment else shrink
        self.transforms = create_transforms(
            transforms_dict, "train_transforms" if is_training else "test_transforms"
        )
        self._sizes_hw = resized_sizes(self.index.sizes_hw, img_size)
        self._objects = _TrainedObjects.of(self.index, single_cls)
        if isinstance(cache, ImageCache):
            self.cache: ImageCache | None = cache
        else:
            self.cache = open_image_cache(cache, self.index, self._sizes_hw, self.shrink)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def most_objects(self) -> int:
        """Objects that a sample may have, if its transforms mix the fullest images and keep all."""
        per_image = int(np.diff(self._objects.offsets).max(initial=0))
        return self.transforms.most_objects(per_image, per_image)

    @property
    def largest_image(self) -> int:
        """Bytes of the largest decoded image at img_size."""
        return int(self._sizes_hw.prod(1).max()) * 3

    def names_of(self, indices: Sequence[int]) -> list[str]:
        """Return the files of the images at these `indices`."""
        return [str(self.index.image_paths[index]) for index in indices]

    def get(
        self, epoch: int, index: int, shape_hw: tuple[int, int] | None = None, nearby: Nearby | None = None
    ) -> Sample:
        """Return image `index` as the network sees it in `epoch`.

        Args:
            epoch: of the run, from 0.
            index: position in the data set.
            shape_hw: height and width of the outcome; None for a square of img_size.
            nearby: the images that partners come from; None for the whole data set.

        Raises:
            YoloflowError: an unreadable image, or transforms that end with another size.
        """
        loaded, context = self._begin(epoch, index, shape_hw, nearby)
        sample = self.transforms(loaded, context)
        height, width = sample.canvas.size_hw
        if (height, width) != context.output_hw:
            raise YoloflowError(
                f"the transforms end with an image of {width} x {height}, the network takes "
                f"{context.output_hw[1]} x {context.output_hw[0]}: add letterbox, or random_perspective "
                "after mosaic"
            )
        return sample

    def trace(
        self, epoch: int, index: int, shape_hw: tuple[int, int] | None = None, nearby: Nearby | None = None
    ) -> list[tuple[str, Sample]]:
        """Return the steps of `get`: the loaded sample, then the outcome of each transform applied.

        Args:
            epoch: of the run, from 0.
            index: position in the data set.
            shape_hw: height and width of the outcome; None for a square of img_size.
            nearby: see `get`.

        Raises:
            YoloflowError: an unreadable image.
        """
        loaded, context = self._begin(epoch, index, shape_hw, nearby)
        return [("loaded", loaded), *self.transforms.trace(loaded, context)]

    def _begin(
        self, epoch: int, index: int, shape_hw: tuple[int, int] | None, nearby: Nearby | None
    ) -> tuple[Sample, TransformContext]:
        """Load the sample of an index; make what its transforms see beside it."""
        rng = np.random.default_rng((self.seed, epoch if self.is_training else 0, index))
        side = self.img_size if shape_hw is None else max(shape_hw)
        loaded = self._load(index, side, nearby, None if nearby is None else nearby.own_place)
        return loaded, TransformContext(rng, _Partners(self, side, nearby), side, shape_hw, self.timer)

    def load(self, index: int) -> Sample:
        """Return image `index`, its longer side resized to img_size, with its objects without crowd."""
        return self._load(index, self.img_size)

    def _load(self, index: int, side: int, nearby: Nearby | None = None, place: int | None = None) -> Sample:
        """Return image `index` with a longer side of `side` pixels, made of the image at img_size."""
        image = self._decoded(index, nearby, place)
        if side != self.img_size:
            height, width = resized_sizes(self.index.sizes_hw[index : index + 1], side)[0].tolist()
            image = resize_image(image, (height, width), self.shrink)
        height, width = self.index.sizes_hw[index].tolist()
        scale_xy = (image.shape[1] / width, image.shape[0] / height)
        boxes, classes, polygons = self._objects.get(index, scale_xy)
        return Sample(Canvas.of_image(image), boxes, classes, polygons, index, (height, width), scale_xy)

    def _decoded(self, index: int, nearby: Nearby | None, place: int | None) -> Uint8Array:
        """Return the pixels of image `index` at img_size, of where they are kept if they are."""
        recent = None if nearby is None or self.cache else nearby.recent
        if self.cache:
            image = self.cache.get(index)
        elif recent is not None and place is not None:
            height, width = self._sizes_hw[index].tolist()
            image = recent.get(place, (height, width))
        else:
            image = None
        if image is None:
            with self.timer.span("decode"), self.decoder_remarks.listening(self.names_of([index])[0]):
                image = self._read(index)
            if self.cache:
                self.cache.put(index, image)
            elif recent is not None and place is not None:
                recent.put(place, image)
        return image

    def _read(self, index: int) -> Uint8Array:
        """Read image `index` from disk, at its resized size."""
        path = str(self.index.image_paths[index])
        listed_hw = tuple(self.index.sizes_hw[index].tolist())
        height, width = self._sizes_hw[index].tolist()
        image = _read_reduced(path, listed_hw, max(height, width)) if self.augment else None
        if image is None:
            image = decode_image(path)
            if image.shape[:2] != listed_hw:
                raise YoloflowError(
                    f"{path}: the image is {image.shape[1]} x {image.shape[0]}, but was {listed_hw[1]} x "
                    f"{listed_hw[0]} when the data set was indexed; index it again"
                )
        return resize_image(image, (height, width), self.shrink)


@dataclass(frozen=True, slots=True)
class _Partners:
    """The images that a sample may take partners from, at one size, as transforms see them."""

    dataset: COCODataset
    side: int
    nearby: Nearby | None

    def __len__(self) -> int:
        return len(self.dataset if self.nearby is None else self.nearby)

    def load(self, index: int) -> Sample:
        if self.nearby is None:
            return self.dataset._load(index, self.side)
        image, place = int(self.nearby.images[index]), int(self.nearby.places[index])
        return self.dataset._load(image, self.side, self.nearby, place)


@dataclass(frozen=True, slots=True)
class _TrainedObjects:
    """The objects of a data set without crowd regions, as arrays to be sliced."""

    offsets: Int64Array
    boxes_xyxy: NDArray[np.float64]
    classes: Int64Array
    polygon_offsets: Int64Array | None
    polygon_points: Float32Array
    polygon_parts: dict[int, list[int]]

    @classmethod
    def of(cls, index: DatasetIndex, single_cls: bool) -> _TrainedObjects:
        rows = np.flatnonzero(~index.is_crowd)
        points, polygon_offsets = rows_of_ragged(index.polygon_offsets, rows)
        classes = index.classes[rows]
        return cls(
            offsets_of(np.bincount(index.box_images[rows], minlength=len(index))),
            index.boxes_xyxy[rows],
            np.zeros_like(classes) if single_cls else classes,
            polygon_offsets if len(points) else None,
            index.polygon_points[points],
            by_new_number(index.polygon_parts, rows),
        )

    def get(
        self, image: int, scale_xy: tuple[float, float]
    ) -> tuple[Float32Array, Int64Array, list[Float32Array]]:
        """Return boxes, classes and polygons of an image in resized pixels."""
        first, last = int(self.offsets[image]), int(self.offsets[image + 1])
        boxes = (self.boxes_xyxy[first:last] * (scale_xy * 2)).astype(np.float32)
        classes = self.classes[first:last]
        if self.polygon_offsets is None:
            return boxes, classes, [_NO_POLYGON] * (last - first)
        scale = np.array(scale_xy, np.float32)
        borders = self.polygon_offsets[first : last + 1].tolist()
        polygons = [self.polygon_points[start:stop] * scale for start, stop in pairwise(borders)]
        for row in self.polygon_parts.keys() & range(first, last):
            polygons[row - first] = facing_alike(polygons[row - first], self.polygon_parts[row])
        return boxes, classes, polygons


def resized_sizes(sizes_hw: Int64Array, img_size: int) -> Int64Array:
    """Return (I, 2) sizes after the longer side is brought to img_size, the other in proportion.

    Rounded down in float64 as the reference does, so a longer side may come out one pixel short (616 px at
    img_size 640); the letterbox makes up for it and box coordinates use the true factors.
    """
    ratio = img_size / sizes_hw.max(1, keepdims=True)
    floored: Int64Array = np.maximum((sizes_hw * ratio).astype(np.int64), 1)
    return floored


def resize_image(image: Uint8Array, size_hw: tuple[int, int], shrink: Shrink) -> Uint8Array:
    """Resize an image: bilinear, or by area where it shrinks and `shrink` says so."""
    height, width = size_hw
    if image.shape[:2] == (height, width):
        return image
    shrinks = height < image.shape[0] or width < image.shape[1]
    method = cv2.INTER_AREA if shrinks and shrink == "area" else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _read_reduced(path: str, size_hw: tuple[int, ...], target: int) -> Uint8Array | None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, if that is still at least `target` on the longer side.

    None where no such factor exists or the outcome is not as expected: the caller decodes in full then, and
    reports what is wrong with the file.
    """
    if not path.lower().endswith(SUFFIXES_OF_FORMAT["JPEG"]):
        return None
    for factor, flag in _REDUCED_FLAGS.items():
        if max(size_hw) >= factor * target:
            data = Path(path).read_bytes() if os.path.isfile(path) else b""
            # OpenCV fills what is missing of a cut file with grey, without a word.
            if not tail_is(JPEG_END, data[-TAIL_BYTES:]):
                return None
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
            expected = tuple(-(-side // factor) for side in size_hw)
            if image is None or image.shape[:2] != expected:
                return None
            return np.asarray(image, np.uint8)
    return None
