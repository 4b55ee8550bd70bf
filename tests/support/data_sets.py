"""Tiny data sets on disk for the tests of the data room."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 100, 80


class Bomb:
    """What unpickling must never reach."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("the file was executed",)


def write_picture(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Path:
    """A smooth colour image; the suffix of the path gives the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack((x * 255 // max(width, 1), y * 255 // max(height, 1), (x + y) % 256), -1)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)
    return path


def write_yolo(root: Path, labels: Mapping[str, str | bytes | None]) -> Path:
    """Images in images/, labels in labels/ (None: no label file), and list.txt, which is returned."""
    for name, label in labels.items():
        write_picture(root / "images" / f"{name}.png")
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if label is not None:
            path.write_bytes(label if isinstance(label, bytes) else label.encode())
    (root / "list.txt").write_text("".join(f"images/{name}.png\n" for name in labels))
    return root / "list.txt"


def write_coco(
    root: Path,
    annotations: Sequence[Any],
    num_images: int = 2,
    categories: Sequence[Any] | None = None,
    **changes: Any,
) -> Path:
    """Images 1.png, 2.png ... in images/ with ids 10, 20 ...; returns annotations/set.json."""
    for number in range(1, num_images + 1):
        write_picture(root / "images" / f"{number}.png")
    content: dict[str, Any] = {
        "images": [
            {"id": 10 * number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
            for number in range(1, num_images + 1)
        ],
        "annotations": list(annotations),
        "categories": categories or [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    path = root / "annotations" / "set.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes))
    return path


def annotation(
    image_id: Any = 10, category_id: Any = 3, bbox: Any = (10, 10, 20, 30), **more: Any
) -> dict[str, Any]:
    """One COCO annotation."""
    return {"id": 1, "image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": 0} | more


def voc_object(name: str, xmin: Any, ymin: Any, xmax: Any, ymax: Any, more: str = "") -> str:
    """One <object> on one line."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (xmin, ymin, xmax, ymax), strict=True)
    box = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>\n"


def write_voc(root: Path, objects: Mapping[str, str], database: str = "Unknown") -> Path:
    """Images in JPEGImages/, annotations in Annotations/; returns the root."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for stem, text in objects.items():
        write_picture(root / "JPEGImages" / f"{stem}.png")
        head = f"<annotation>\n<filename>{stem}.png</filename>\n"
        head += f"<source><database>{database}</database></source>\n"
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>\n"
        (root / "Annotations" / f"{stem}.xml").write_text(head + size + text + "</annotation>\n")
    return root
