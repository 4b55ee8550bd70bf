"""COCO json: annotations/SPLIT.json and images/SPLIT."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from yoloflow.data.formats.outlines import as_written, segmentation_of
from yoloflow.data.writers.target import Target
from yoloflow.structures import DatasetIndex, RunLengthMask

# Enough to undo the rounding error of x + w - x, so that boxes from a COCO file are again the file's.
BOX_DECIMALS = 9


def places(folder: Path, split: str) -> tuple[Path, ...]:
    """Folder of the images, and the file."""
    return folder / "images" / split, folder / "annotations" / f"{split}.json"


def write(target: Target, names: list[str]) -> Path:
    """Write the file."""
    index, path = target.index, places(target.folder, target.split)[1]
    content = ground_truth_dict(index, names)
    for annotation, segmentation in zip(content["annotations"], segmentations(index), strict=True):
        if segmentation and target.with_outlines:
            annotation["segmentation"] = segmentation
        target.lost["outlines or masks left out"] += bool(segmentation) and not target.with_outlines
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def ground_truth_dict(index: DatasetIndex, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns a data set as the content of a COCO annotation file, without outlines.

    Images and categories keep their ids, crowd regions and areas are kept, annotations are numbered from 1.

    Args:
        index: the data set.
        names: file name of each image; None takes the paths.
    """
    names = index.image_paths.tolist() if names is None else names
    images = [
        {"id": image_id, "file_name": name, "height": height, "width": width}
        for image_id, name, (height, width) in zip(
            index.ids_for_files(), names, index.sizes_hw.tolist(), strict=True
        )
    ]
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(index.category_ids.tolist(), index.names, strict=True)
    ]
    corners = index.boxes_xyxy
    xywh = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1)
    columns = (
        np.repeat(np.array(index.ids_for_files(), object), np.diff(index.box_offsets)).tolist(),
        index.category_ids[index.classes].tolist(),
        xywh.round(BOX_DECIMALS).tolist(),
        index.areas.tolist(),
        index.is_crowd.tolist(),
    )
    annotations = [
        {
            "id": i,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            "iscrowd": int(crowd),
        }
        for i, (image, category, box, area, crowd) in enumerate(zip(*columns, strict=True), start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def segmentations(index: DatasetIndex) -> list[RunLengthMask | list[list[float]] | None]:
    """Returns the value of "segmentation" of each object; None where it has neither outline nor mask."""
    points, ends = as_written(index.polygon_points), index.polygon_offsets.tolist()
    return [
        segmentation_of(index.masks.get(box), points[start:end], index.polygon_parts.get(box, ()))
        for box, (start, end) in enumerate(pairwise(ends))
    ]
