"""PASCAL VOC: SPLIT/Annotations and JPEGImages, with masks SegmentationObject and SegmentationClass too."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from yoloflow.data.formats.outlines import pixels_of_mask
from yoloflow.data.formats.voc_masks import VOID, colour_map
from yoloflow.data.object_masks import masks_of_image
from yoloflow.data.writers.target import Target
from yoloflow.structures import Uint8Array


def places(folder: Path, split: str) -> tuple[Path, ...]:
    """Folders of the images and of the annotations."""
    return folder / split / "JPEGImages", folder / split / "Annotations"


def write(target: Target, names: list[str]) -> Path:
    """Write an annotation file for each image."""
    index, annotations = target.index, places(target.folder, target.split)[1]
    annotations.mkdir(parents=True)
    for image, name in enumerate(names):
        boxes = range(*index.box_offsets[image : image + 2].tolist())
        height, width = index.sizes_hw[image].tolist()
        text = (
            f"<annotation>\n  <filename>{escape(name)}</filename>\n"
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
            f"{''.join(_object(target, box) for box in boxes)}</annotation>\n"
        )
        (annotations / Path(name).with_suffix(".xml").name).write_text(text, encoding="utf-8")
        _write_masks(target, image, Path(name).with_suffix(".png").name)
    if (index.category_ids != np.arange(1, len(index.names) + 1)).any():
        target.lost["category ids (the format has names only)"] += len(index.names)
    return target.folder / target.split


def _object(target: Target, box: int) -> str:
    index = target.index
    corners = zip(("xmin", "ymin", "xmax", "ymax"), index.boxes_xyxy[box].tolist(), strict=True)
    bounds = "".join(f"<{name}>{value:.10g}</{name}>" for name, value in corners)
    return (
        f"  <object>\n    <name>{escape(index.names[index.classes[box]])}</name>\n"
        f"    <difficult>{int(index.is_crowd[box])}</difficult>\n    <bndbox>{bounds}</bndbox>\n  </object>\n"
    )


def _write_masks(target: Target, image: int, name: str) -> None:
    """Write the PNG files of an image whose objects have outlines, the smaller objects on top."""
    index = target.index
    first, last = index.box_offsets[image : image + 2].tolist()
    known = masks_of_image(index, image) or []
    masks = {first + row: pixels_of_mask(mask).astype(np.bool_) for row, mask in enumerate(known)}
    masks = {box: pixels for box, pixels in masks.items() if pixels.any()}
    if not target.with_outlines or first + VOID <= last or len(index.names) >= VOID:
        target.lost["outlines or masks left out"] += len(masks)
        return
    if not masks:
        return
    numbers, classes = np.zeros((2, *index.sizes_hw[image]), np.uint8)
    areas = {box: int(pixels.sum()) for box, pixels in masks.items()}
    for box in sorted(masks, key=lambda box: -areas[box]):
        numbers[masks[box]] = box - first + 1
        classes[masks[box]] = index.classes[box] + 1
    left = np.bincount(numbers.ravel(), minlength=VOID + 1)
    target.lost["masks are cut where others, that are smaller, lie on top"] += sum(
        left[box - first + 1] < area for box, area in areas.items()
    )
    for folder, values in (("SegmentationObject", numbers), ("SegmentationClass", classes)):
        place = target.folder / target.split / folder
        place.mkdir(exist_ok=True)
        _save_png(place / name, values)


def _save_png(path: Path, numbers: Uint8Array) -> None:
    picture = Image.fromarray(numbers)
    picture.putpalette(colour_map().ravel().tolist())
    picture.save(path)
