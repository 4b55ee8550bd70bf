"""Splits a data set into parts with the same share of each class, equal images in one part."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from yoloflow.data.formats.annotations import by_new_number, rows_of_ragged
from yoloflow.structures import DatasetIndex, Int64Array, YoloflowError

# Roboflow writes the variants of an image as NAME.rf.HASH.jpg.
_VARIANT = re.compile(r"\.rf\.[0-9a-zA-Z]+$")


def split_images(index: DatasetIndex, shares: Sequence[float], seed: int = 0) -> list[Int64Array]:
    """Deals out the images of a data set, so that each part has about its share of the images of each class.

    The rarest class is dealt out first (Sechidis et al. 2011); one of a single image goes to the part with
    the largest share. Images with equal pixels stay together, if they were decoded, and so do variants of an
    image that Roboflow made.

    Args:
        index: the data set.
        shares: of each part; they sum to 1.
        seed: other seeds give other parts.

    Returns:
        the images of each part, in their order.

    Raises:
        YoloflowError: there are too few images for so many parts.
    """
    groups = _equal_images(index, np.random.default_rng(seed))
    labels = [_classes_of(index, images) for images in groups]
    groups_of: dict[int, list[int]] = {}
    for group, counts in enumerate(labels):
        for number in counts:
            groups_of.setdefault(number, []).append(group)
    totals = {number: sum(labels[group][number] for group in found) for number, found in groups_of.items()}
    # How many images each part still lacks: of each class, and in all.
    lacking = [{number: share * total for number, total in totals.items()} for share in shares]
    lacking_images = [share * len(index) for share in shares]
    parts: list[list[int]] = [[] for _ in shares]
    dealt: set[int] = set()

    def need(part: int, number: int) -> tuple[float, ...]:
        is_only = len(groups_of[number]) == 1
        return shares[part] if is_only else round(lacking[part][number]), lacking_images[part] / shares[part]

    names = [*index.names, ""]  # the order of the classes must not matter: a network may have another
    for number in sorted(totals, key=lambda one: (totals[one], names[one])):
        for group in groups_of[number]:
            if group in dealt:
                continue
            dealt.add(group)
            chosen = max(range(len(shares)), key=lambda part: need(part, number))
            parts[chosen] += groups[group]
            lacking_images[chosen] -= len(groups[group])
            for other, count in labels[group].items():
                lacking[chosen][other] -= count
    if not all(parts):
        raise YoloflowError(
            f"{index.source}: {len(index)} images ({len(groups)} different ones) are too few for parts of "
            f"{', '.join(f'{share:.0%}' for share in shares)}; add images or choose larger parts"
        )
    return [np.array(sorted(part), np.int64) for part in parts]


def _equal_images(index: DatasetIndex, rng: np.random.Generator) -> list[list[int]]:
    """Returns groups of images that belong together, the larger ones first, in random order else."""
    first: dict[str, int] = {}
    group_of = list(range(len(index)))

    def top(image: int) -> int:
        while group_of[image] != image:
            image = group_of[image]
        return image

    for image, path in enumerate(index.image_paths.tolist()):
        stem, is_variant = _VARIANT.subn("", os.path.splitext(path)[0])
        keys = [] if index.digests is None else [f"pixels {index.digests[image]}"]
        for key in [*keys, *([f"name {stem}"] if is_variant else [])]:
            group_of[top(image)] = top(first.setdefault(key, image))
    groups: dict[int, list[int]] = {}
    for image in range(len(index)):
        groups.setdefault(top(image), []).append(image)
    members = list(groups.values())
    return sorted((members[number] for number in rng.permutation(len(members))), key=len, reverse=True)


def _classes_of(index: DatasetIndex, images: Sequence[int]) -> dict[int, int]:
    """Returns how many of the images show each class; the number after the last class is background."""
    counts: dict[int, int] = {}
    for image in images:
        rows = slice(index.box_offsets[image], index.box_offsets[image + 1])
        shown = set(index.classes[rows][~index.is_crowd[rows]].tolist())
        for number in shown or {len(index.names)}:
            counts[number] = counts.get(number, 0) + 1
    return counts


def take_images(index: DatasetIndex, chosen: Int64Array, what: str) -> tuple[DatasetIndex, DatasetIndex]:
    """Returns the chosen images as a data set of their own, and the data set without them.

    What was dropped on reading stays in the account of the second; problems of a used image go with it.

    Args:
        index: the data set.
        chosen: (K,) images, in rising order.
        what: words for the chosen part, behind the name of the source.
    """
    others = np.setdiff1d(np.arange(len(index)), chosen)
    paths = set(index.image_paths[chosen].tolist())
    goes_along = [p.image in paths and p.action != "drop-image" for p in index.problems]
    problems = [p for p, goes in zip(index.problems, goes_along, strict=True) if goes]
    part = _subset(index, chosen)
    part.source, part.problems = f"{index.source} ({what})", problems
    part.num_images_listed = len(chosen)
    part.num_boxes_listed = len(part.classes) + sum(p.action == "drop-box" for p in problems)
    part.num_boxes_of_dropped_images = 0
    rest = _subset(index, others)
    rest.problems = [p for p, goes in zip(index.problems, goes_along, strict=True) if not goes]
    rest.num_images_listed -= part.num_images_listed
    rest.num_boxes_listed -= part.num_boxes_listed
    return part, rest


def _subset(index: DatasetIndex, images: Int64Array) -> DatasetIndex:
    boxes, box_offsets = rows_of_ragged(index.box_offsets, images)
    points, polygon_offsets = rows_of_ragged(index.polygon_offsets, boxes)
    return replace(
        index,
        image_paths=index.image_paths[images],
        image_ids=index.image_ids[images],
        given_ids=by_new_number(index.given_ids, images),
        sizes_hw=index.sizes_hw[images],
        box_offsets=box_offsets,
        boxes_xyxy=index.boxes_xyxy[boxes],
        classes=index.classes[boxes],
        is_crowd=index.is_crowd[boxes],
        areas=index.areas[boxes],
        polygon_offsets=polygon_offsets,
        polygon_points=index.polygon_points[points],
        polygon_parts=by_new_number(index.polygon_parts, boxes),
        masks=by_new_number(index.masks, boxes),
        digests=None if index.digests is None else index.digests[images],
    )
