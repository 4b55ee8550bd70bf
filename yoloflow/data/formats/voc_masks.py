"""PNG files of PASCAL VOC that give each pixel the number of its object (SegmentationObject) or class.

Palette and grey images hold the numbers themselves; images of three channels have VOC's colours for them. 0
is background and 255 no object (the band along borders in PASCAL's own files).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import cv2
import numpy as np
from PIL import Image

from yoloflow.data.formats.annotations import Annotations, offsets_of
from yoloflow.data.formats.outlines import NO_POLYGON, mask_of_pixels, outline_of_pixels
from yoloflow.data.formats.voc_files import find_png
from yoloflow.data.threads import map_in_threads
from yoloflow.structures import Float32Array, Problem, RunLengthMask, Uint8Array

OBJECTS, CLASSES = "segmentationobject", "segmentationclass"
VOID = 255
_LEAST_IOU = 0.3
_LEAST_INSIDE = 0.8


@dataclass(frozen=True, slots=True)
class ObjectMask:
    """The pixels of an object.

    Attributes:
        number: of the object in the image; area: its pixels.
        mask: run lengths; outline: (K, 2) along the pixels' edges; box_xyxy: its extent.
    """

    number: int
    area: int
    mask: RunLengthMask
    outline: Float32Array
    box_xyxy: tuple[float, float, float, float]


def read_numbers(path: str) -> Uint8Array | str:
    """Returns (H, W) the numbers of a PNG's pixels, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L", "1"):
                return np.array(image, np.uint8)
            if image.mode in ("RGB", "RGBA"):
                return numbers_of_colours(np.array(image.convert("RGB"), np.uint8))
            return f"has pixels of the kind {image.mode}, which are neither numbers nor colours"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"cannot be read ({error})"


def numbers_of_colours(image: Uint8Array) -> Uint8Array:
    """Returns (H, W) the numbers of which VOC's colour map makes these colours (H, W, 3), RGB."""
    numbers = np.zeros(image.shape[:2], np.uint8)
    for bit in range(8):
        numbers |= ((image[..., bit % 3] >> (7 - bit // 3)) & 1) << np.uint8(bit)
    return numbers


def colour_map() -> Uint8Array:
    """Returns (256, 3) VOC's colour of each number, RGB."""
    numbers, colours = np.arange(256), np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= ((numbers >> bit) & 1) << (7 - bit // 3)
    return colours.astype(np.uint8)


def objects_of(numbers: Uint8Array) -> list[ObjectMask]:
    """Returns the objects of an image's numbers, in their order."""
    found = []
    for number in np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)[1:VOID]).tolist():
        pixels = (numbers == number + 1).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(pixels)
        box = (float(left), float(top), float(left + width), float(top + height))
        found.append(
            ObjectMask(number + 1, int(pixels.sum()), mask_of_pixels(pixels), outline_of_pixels(pixels), box)
        )
    return found


def match_boxes(
    objects: Sequence[ObjectMask], boxes_xyxy: np.ndarray, places: np.ndarray
) -> dict[int, ObjectMask]:
    """Returns the mask of each box that has one.

    PASCAL numbers the objects in the order of the annotation file; other programs in any order. So a mask
    goes to the box at its place if it lies inside, else to the box that it fits best.

    Args:
        objects: of the image.
        boxes_xyxy: (N, 4) boxes of the annotation file.
        places: (N,) their places in the file, from 1.
    """
    extents = np.array([one.box_xyxy for one in objects]).reshape(-1, 4)
    iou, inside = _overlaps(extents, boxes_xyxy)
    in_order = np.array([one.number for one in objects], int).reshape(-1, 1) == places
    worth = np.where(in_order & (inside > _LEAST_INSIDE), iou + 1, np.where(iou > _LEAST_IOU, iou, 0))
    matched: dict[int, ObjectMask] = {}
    while worth.size and worth.max() > 0:
        one, box = np.unravel_index(worth.argmax(), worth.shape)
        matched[int(box)] = objects[int(one)]
        worth[one, :] = worth[:, box] = 0
    return matched


def _overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (N, M) overlap of boxes, and the share of each first box that lies inside each second."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / np.maximum(union, 1e-9), shared / np.maximum(areas[0][:, None], 1e-9)


def add_masks(annotations: Annotations, places: Sequence[int]) -> None:
    """Gives boxes of annotation files the masks that lie in SegmentationObject beside, in place.

    Args:
        annotations: of the files, without outlines.
        places: of each box in its file, from 1.
    """
    png_places: dict[str, list[str]] = {}
    files = zip(annotations.label_files, annotations.image_paths, strict=True)
    found = {image: path for image, pair in enumerate(files) if (path := find_png(pair, OBJECTS, png_places))}
    if not found:
        return
    numbers_in_file = np.array(places, np.int64)
    by_image = np.argsort(annotations.box_images, kind="stable")
    offsets = offsets_of(np.bincount(annotations.box_images, minlength=len(annotations.image_paths)))
    polygons = [NO_POLYGON] * len(annotations.box_images)
    contents = map_in_threads(read_objects, list(found.values()))
    for (image, path), objects in zip(found.items(), contents, strict=True):
        image_path, stated = annotations.image_paths[image], annotations.stated_sizes_hw[image]
        if not isinstance(objects, str) and objects:
            size = np.array(objects[0].mask["size"])
            if stated.all() and (stated != size).any():
                objects = f"is {size[1]} x {size[0]}, its image {stated[1]} x {stated[0]} (width x height)"
            else:
                stated[:] = size
        if isinstance(objects, str):
            problem = Problem(path, None, "mask-unusable", "keep", objects, image_path)
            annotations.problems.append(problem)
            continue
        boxes = by_image[offsets[image] : offsets[image + 1]]
        matched = match_boxes(objects, annotations.boxes_xyxy[boxes], numbers_in_file[boxes])
        for row, one in matched.items():
            box = int(boxes[row])
            annotations.masks[box], polygons[box] = one.mask, one.outline
        used = {one.number for one in matched.values()}
        if spare := [one.number for one in objects if one.number not in used]:
            numbers = ", ".join(map(str, spare))
            detail = f"the objects {numbers} fit no box of {annotations.label_files[image]}"
            annotations.problems.append(Problem(path, None, "mask-without-box", "keep", detail, image_path))
    annotations.polygon_offsets = offsets_of([len(polygon) for polygon in polygons])
    annotations.polygon_points = np.concatenate([NO_POLYGON, *polygons])
    if annotations.consulted is not None:
        annotations.consulted += [*chain.from_iterable(png_places.values()), *found.values()]


def read_objects(path: str) -> list[ObjectMask] | str:
    """Returns the objects of a PNG, or what is wrong with it."""
    numbers = read_numbers(path)
    return numbers if isinstance(numbers, str) else objects_of(numbers)
