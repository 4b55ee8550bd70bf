"""A data set as a whole: figures of classes and boxes at the network's image size, and remarks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.structures import DatasetIndex, Problem

TINY_PX = 2.0
"""An object less wide or high than this at the network's image size can hardly be learnt."""

FEW_OBJECTS = 10
"""A class with fewer objects than this to train on can hardly be learnt."""

_IMBALANCE = 100
_QUANTILES = (1, 10, 50, 90, 99)
_NAMED = 20


def statistics(index: DatasetIndex, img_size: int, stride: int) -> dict[str, Any]:
    """Figures of a data set as JSON-able data; crowd regions are left out.

    Args:
        index: the data set.
        img_size: side of the network input in pixels, to which an image's longer side is brought.
        stride: of the network's finest level in pixels.
    """
    trained = ~index.is_crowd
    images, classes = index.box_images[trained], index.classes[trained]
    sides = _sides_px(index, img_size)[trained]
    counts = np.bincount(images, minlength=len(index))
    objects = np.bincount(classes, minlength=len(index.names))
    shown = np.unique(np.stack((classes, images)), axis=1)[0]
    showing = np.bincount(shown, minlength=len(index.names))
    smaller_side = sides.min(1) if len(sides) else np.empty(0)
    return {
        "images": {
            "count": len(index),
            "smallest_hw": index.sizes_hw.min(0).tolist(),
            "median_hw": np.median(index.sizes_hw, axis=0).tolist(),
            "largest_hw": index.sizes_hw.max(0).tolist(),
            "objects_mean": float(counts.mean()),
            "objects_most": int(counts.max()),
        },
        "classes": [
            {"name": name, "objects": int(objects[number]), "images": int(showing[number])}
            for number, name in enumerate(index.names)
        ],
        "boxes": {
            "count": len(sides),
            "img_size": img_size,
            "stride": stride,
            "quantiles": list(_QUANTILES),
            "width_px": _rounded_quantiles(sides[:, 0]),
            "height_px": _rounded_quantiles(sides[:, 1]),
            "under_2_px": int((smaller_side < TINY_PX).sum()),
            "under_stride": int((smaller_side < stride).sum()),
        },
    }


def describe_statistics(figures: dict[str, Any]) -> list[str]:
    """Returns the figures of `statistics` as lines for people."""
    images, boxes = figures["images"], figures["boxes"]
    counts = [(row["name"], row["objects"]) for row in figures["classes"]]
    height, width = images["median_hw"]
    lines = [
        f"sizes: median {width:g} x {height:g} px; {images['objects_mean']:.1f} objects an image, "
        f"{images['objects_most']} at most",
        describe_objects(counts),
    ]
    if boxes["count"]:
        middle = _QUANTILES.index(50)
        lines.append(
            f"boxes at {boxes['img_size']} px: median {boxes['width_px'][middle]:g} x "
            f"{boxes['height_px'][middle]:g}; {_share(boxes['under_2_px'], boxes['count'])} under 2 px, "
            f"{_share(boxes['under_stride'], boxes['count'])} under the finest stride of {boxes['stride']} px"
        )
    return lines


def describe_objects(counts: Iterable[tuple[str, int]]) -> str:
    """Returns the objects of each class, as name and number, for people: the most frequent classes first."""
    ordered = sorted(counts, key=lambda pair: -pair[1])
    return f"objects by class: {_first([f'{name} {count}' for name, count in ordered])}"


def set_remarks(index: DatasetIndex, img_size: int, is_trained_on: bool) -> list[Problem]:
    """Finds what deserves a look in a set as a whole.

    Args:
        index: the data set.
        img_size: side of the network input in pixels.
        is_trained_on: whether it is a training set.
    """
    trained = ~index.is_crowd
    objects = np.bincount(index.classes[trained], minlength=len(index.names))
    if not objects.any():
        kind = "nothing-to-learn" if is_trained_on else "nothing-to-find"
        return [Problem(index.source, None, kind, "keep", why_no_object(len(index), len(index.classes)))]
    found = {}
    regions = np.bincount(index.classes[index.is_crowd], minlength=len(index.names))
    counts = list(zip(index.names, objects.tolist(), regions.tolist(), strict=True))
    if unused := [f"{name}{_besides(crowd)}" for name, number, crowd in counts if not number]:
        found["unused-class"] = f"no object of {len(unused)} of {len(counts)} classes: {_first(unused)}"
    few = [f"{name} {number}{_besides(crowd)}" for name, number, crowd in counts if 0 < number < FEW_OBJECTS]
    if few and is_trained_on:
        found["few-objects"] = (
            f"fewer than {FEW_OBJECTS} objects of {len(few)} of {len(counts)} classes: {_first(few)}"
        )
    used = np.flatnonzero(objects)
    most, least = used[objects[used].argmax()], used[objects[used].argmin()]
    if objects[most] > _IMBALANCE * objects[least]:
        found["class-imbalance"] = (
            f"{index.names[most]} has {objects[most]} objects, {index.names[least]} {objects[least]}"
        )
    sides = _sides_px(index, img_size)[trained].min(1)
    if tiny := int((sides < TINY_PX).sum()):
        share = _share(tiny, len(sides))
        found["tiny-boxes"] = (
            f"{tiny} of {len(sides)} objects ({share}) are under {TINY_PX:g} px wide or high at {img_size} px"
        )
    return [Problem(index.source, None, kind, "keep", detail) for kind, detail in found.items()]


def why_no_object(num_images: int, num_boxes: int) -> str:
    """Returns why a set of so many images and boxes has no object: its boxes are regions to ignore."""
    if num_boxes == 0:
        return f"has no boxes at all: all {num_images} images are background"
    return (
        f"has no object: all {num_boxes} boxes are regions to ignore (iscrowd=1 in COCO, "
        "difficult=1 in VOC), as some tools mark every object; correct the marks where they are not meant"
    )


def _besides(regions: int) -> str:
    return f" (and {regions} crowd or difficult)" if regions else ""


def _first(names: list[str]) -> str:
    more = f", ... and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _sides_px(index: DatasetIndex, img_size: int) -> NDArray[np.float64]:
    """Returns (M, 2) width and height of the boxes with their image's longer side brought to `img_size`."""
    factors = img_size / index.sizes_hw.max(1)
    sides: NDArray[np.float64] = index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2]
    sides *= factors[index.box_images, None]
    return sides


def _rounded_quantiles(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 1) for value in np.percentile(values, _QUANTILES)] if len(values) else []


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"
