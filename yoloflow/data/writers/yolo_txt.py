"""YOLO txt: images/SPLIT, labels/SPLIT, and a list file SPLIT.txt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yoloflow.data.formats.outlines import facing_alike
from yoloflow.data.writers.target import Target

# Relative to the image: a thousandth of a pixel of the largest ones.
_DIGITS = 10
_BOX_TOLERANCE_PX = 1.0


def places(folder: Path, split: str) -> tuple[Path, ...]:
    """Folders of the images and of the labels, and the list of images."""
    return folder / "images" / split, folder / "labels" / split, folder / f"{split}.txt"


def write(target: Target, names: list[str]) -> Path:
    """Write a label file for each image, and the list of images."""
    index, (_, labels, listing) = target.index, places(target.folder, target.split)
    labels.mkdir(parents=True)
    for image, name in enumerate(names):
        boxes = range(*index.box_offsets[image : image + 2].tolist())
        lines = [_line(target, image, box) for box in boxes]
        (labels / Path(name).with_suffix(".txt").name).write_text("".join(line for line in lines if line))
    listing.write_text("".join(f"./images/{target.split}/{name}\n" for name in names), encoding="utf-8")
    if (index.category_ids != np.arange(1, len(index.names) + 1)).any():
        target.lost["category ids became positions in the list of names"] += len(index.names)
    return listing


def _line(target: Target, image: int, box: int) -> str:
    """Returns a label line; empty for what the format does not have."""
    index = target.index
    if index.is_crowd[box]:
        target.lost["crowd regions or difficult objects left out"] += 1
        return ""
    height, width = index.sizes_hw[image].tolist()
    corners = index.boxes_xyxy[box]
    outline = index.polygon_points[index.polygon_offsets[box] : index.polygon_offsets[box + 1]]
    if target.with_outlines and len(outline) >= 3:
        around = np.concatenate((outline.min(0), outline.max(0)))
        moves = np.abs(around - corners).max() > _BOX_TOLERANCE_PX
        target.lost["boxes became the tight boxes of their outlines, over 1 px away"] += moves
        outline = facing_alike(outline, index.polygon_parts.get(box, []))
        figures = (outline.astype(np.float64) / (width, height)).ravel()
    else:
        target.lost["outlines or masks left out"] += len(outline) > 0 or box in index.masks
        x1, y1, x2, y2 = (corners / (width, height, width, height)).tolist()
        figures = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
    return f"{index.classes[box]} {' '.join(f'{figure:.{_DIGITS}g}' for figure in figures.tolist())}\n"
