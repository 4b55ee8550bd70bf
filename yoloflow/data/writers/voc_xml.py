"""PASCAL VOC: SPLIT/Annotations and SPLIT/JPEGImages."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from yoloflow.data.writers.target import Target


def places(folder: Path, split: str) -> tuple[Path, Path]:
    """Folders of the images and of the annotations."""
    return folder / split / "JPEGImages", folder / split / "Annotations"


def write(target: Target, names: list[str]) -> Path:
    """Write an annotation file for each image."""
    index, annotations = target.index, places(target.folder, target.split)[1]
    annotations.mkdir(parents=True)
    for image, name in enumerate(names):
        boxes = range(int(index.box_offsets[image]), int(index.box_offsets[image + 1]))
        height, width = index.sizes_hw[image].tolist()
        text = (
            f"<annotation>\n  <filename>{escape(name)}</filename>\n"
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
            f"{''.join(_object(target, box) for box in boxes)}</annotation>\n"
        )
        (annotations / Path(name).with_suffix(".xml").name).write_text(text, encoding="utf-8")
    if (index.category_ids != np.arange(1, len(index.names) + 1)).any():
        target.lost["category ids (the format has names only)"] += len(index.names)
    return target.folder / target.split


def _object(target: Target, box: int) -> str:
    index = target.index
    has_outline = index.polygon_offsets[box] < index.polygon_offsets[box + 1]
    target.lost["outlines or masks left out"] += bool(has_outline) or box in index.masks
    corners = zip(("xmin", "ymin", "xmax", "ymax"), index.boxes_xyxy[box].tolist(), strict=True)
    bounds = "".join(f"<{name}>{value:.10g}</{name}>" for name, value in corners)
    return (
        f"  <object>\n    <name>{escape(index.names[index.classes[box]])}</name>\n"
        f"    <difficult>{int(index.is_crowd[box])}</difficult>\n    <bndbox>{bounds}</bndbox>\n  </object>\n"
    )
