"""COCO json: `images`, `annotations` and `categories` in one file.

Classes are the categories in the order of their ids, gaps closed; the ids themselves are kept for output.
The parts of an object's outline are joined by seams of no width; along a run-length mask an outline is drawn.
Both are kept for output as they stand. Crowd regions are kept as such. Images are looked for in
`image_folder`, else beside the json, in its `images` folder, and one level up: there, in `images`, and in a
folder named like the json or its last word (annotations/instances_val2017.json -> ../val2017).
"""

from __future__ import annotations

import gc
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.annotations import Annotations, offsets_of
from yoloflow.data.formats.outlines import NO_POLYGON, join_parts, outline_of_mask, read_mask
from yoloflow.structures import Problem, RunLengthMask, YoloflowError

_INT64_BOUND = 2**63


def recognises(source: str) -> bool:
    """Returns whether the source is a json file."""
    return source.lower().endswith(".json")


def read(
    source: str, image_folder: str | None = None, image_paths: Sequence[str] | None = None
) -> Annotations:
    """Read a COCO json.

    Args:
        source: the file.
        image_folder: where the images' `file_name` begins.
        image_paths: take these images alone, in this order; they are found in the file by their names.

    Raises:
        YoloflowError: the file is no COCO json, none of its images is found, or it lacks one of
            `image_paths`.
    """
    with _garbage_collector_paused():
        content = _load(source)
        categories = _categories(source, content)
        if image_paths is not None:
            _keep_listed(source, content, image_paths)
        images = _read_images(source, content["images"], image_folder)
        boxes = _read_annotations(source, content.get("annotations", []), images)
        return _flatten(source, images, boxes, categories)


@contextmanager
def _garbage_collector_paused() -> Iterator[None]:
    """Half the time of a large json would go into looking for reference cycles, of which it makes none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _load(source: str) -> dict[str, Any]:
    with open(source, "rb") as file:
        data = file.read()
    try:
        content = json.loads(data)
    except json.JSONDecodeError as error:
        raise YoloflowError(f"{source}:{error.lineno}:{error.colno}: no valid JSON ({error.msg})") from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise YoloflowError(f"{source}: no valid JSON ({error})") from error
    if isinstance(content, list):
        raise YoloflowError(
            f"{source}: is a list (of detections?), not an annotation file with images and categories"
        )
    if not isinstance(content, dict):
        raise YoloflowError(f"{source}: is no COCO json (an object with images, annotations and categories)")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key, [] if key == "annotations" else None), list):
            raise YoloflowError(f'{source}: is no COCO json: "{key}" is missing or no list')
    return content


def _keep_listed(source: str, content: dict[str, Any], image_paths: Sequence[str]) -> None:
    """Keeps the images of a list, under their paths there, and their annotations."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in content["images"]:
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            by_name.setdefault(PurePosixPath(entry["file_name"]).name, []).append(entry)
    entries, missing = [], []
    for path in image_paths:
        parts = PurePath(path).parts
        fitting = [
            entry
            for entry in by_name.get(parts[-1], [])
            if (own := PurePosixPath(entry["file_name"]).parts) == parts[-len(own) :]
        ] or by_name.get(parts[-1], [])
        if len(fitting) == 1:
            entries.append({**fitting[0], "file_name": path})
        else:
            missing.append(path)
    if missing:
        raise YoloflowError(
            f"{source}: {len(missing)} of {len(image_paths)} images are not in it, or not once, such as "
            f"{missing[0]}"
        )
    known = {_key(entry.get("id")) for entry in entries}
    content["images"] = entries
    content["annotations"] = [
        entry
        for entry in content.get("annotations", [])
        if not isinstance(entry, dict) or _key(entry.get("image_id")) in known
    ]


def _categories(source: str, content: dict[str, Any]) -> dict[int, str]:
    """Name of each category id, in the order of the ids."""
    found: dict[int, str] = {}
    for position, entry in enumerate(content["categories"]):
        number = _whole(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            raise YoloflowError(f"{source}: categories[{position}] needs a whole number id and a name")
        if number in found:
            raise YoloflowError(
                f"{source}: category id {number} is given to {found[number]} and to {entry['name']}"
            )
        found[number] = entry["name"]
    if not found:
        raise YoloflowError(f"{source}: lists no categories, so its boxes can have no class")
    return dict(sorted(found.items()))


def _whole(value: object) -> int | None:
    """Returns a whole number, also written as 3.0 or "3"; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT64_BOUND:
        return value
    return None


def _key(value: object) -> int | str:
    """Returns a key that equal ids share: 7, 7.0 and "7" are the same image."""
    if type(value) is int:
        return value
    number = _whole(value)
    return str(value) if number is None else number


@dataclass(slots=True)
class _Images:
    """The images of the file: paths, stated sizes, and the number of each id."""

    paths: list[str] = field(default_factory=list)
    consulted: list[str] = field(default_factory=list)
    ids: list[int | str] = field(default_factory=list)
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    number_of_key: dict[int | str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_listed: int = 0


def _read_images(source: str, entries: list[Any], image_folder: str | None) -> _Images:
    images = _Images(num_listed=len(entries))
    names: list[str] = []
    for position, entry in enumerate(entries):
        name, identity = (
            (entry.get("file_name"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(name, str) or not name.strip() or identity is None:
            detail = f"images[{position}] needs an id and a file_name"
            images.problems.append(Problem(source, None, "malformed-image-entry", "drop-image", detail))
            continue
        key = _key(identity)
        if key in images.number_of_key:
            detail = f"images[{position}] ({name}) has the id {key} of another image"
            images.problems.append(Problem(source, None, "malformed-image-entry", "drop-image", detail))
            continue
        images.number_of_key[key] = len(names)
        names.append(name)
        images.ids.append(key)
        height, width = _whole(entry.get("height")), _whole(entry.get("width"))
        images.sizes_hw.append((height or 0, width or 0))
    folders = _candidate_folders(source, image_folder)
    images.paths = _find_images(source, names, folders)
    below = {os.path.dirname(name) for name in names}
    images.consulted = [source, *(os.path.join(folder, part) for folder in folders for part in below)]
    if any(isinstance(key, str) or abs(key) >= _INT64_BOUND for key in images.ids):
        detail = "some image ids are no whole numbers; all images are numbered from 1 in file order"
        images.problems.append(Problem(source, None, "image-ids-renumbered", "keep", detail))
        images.ids = list(range(1, len(names) + 1))
    return images


def _find_images(source: str, names: list[str], folders: list[str]) -> list[str]:
    """Absolute paths; of an image that is nowhere, where it should be."""
    paths, num_found = [], 0
    best = folders[0]
    for name in names:
        path = os.path.normpath(os.path.join(best, name))
        if not os.path.exists(path):
            better = next((folder for folder in folders if os.path.exists(os.path.join(folder, name))), None)
            if better is not None:
                best, path, num_found = better, os.path.normpath(os.path.join(better, name)), num_found + 1
        else:
            num_found += 1
        paths.append(path)
    if names and not num_found:
        looked = ", ".join(folders)
        raise YoloflowError(
            f"{source}: none of its {len(names)} images ({names[0]}, ...) is found in {looked}; "
            "set data.image_folder"
        )
    return paths


def _candidate_folders(source: str, image_folder: str | None) -> list[str]:
    here = os.path.dirname(os.path.abspath(source))
    if image_folder is not None:
        given = next((f for f in (image_folder, os.path.join(here, image_folder)) if os.path.isdir(f)), None)
        if given is None:
            raise YoloflowError(f"data.image_folder={image_folder}: there is no such folder")
        return [os.path.abspath(given)]
    up = os.path.dirname(here)
    stem = os.path.splitext(os.path.basename(source))[0]
    last_word = stem.rpartition("_")[2]
    below = [os.path.join(up, "images"), up, os.path.join(up, stem), os.path.join(up, last_word)]
    below += [os.path.join(up, "images", last_word), os.path.join(here, last_word)]
    return [here, os.path.join(here, "images"), *dict.fromkeys(below)]


@dataclass(slots=True)
class _Boxes:
    """The valid annotations of the file, one entry each in every list."""

    images: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    boxes_xywh: list[tuple[float, float, float, float]] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    is_crowd: list[bool] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    polygons: list[NDArray[np.float32]] = field(default_factory=list)
    polygon_parts: dict[int, list[int]] = field(default_factory=dict)
    masks: dict[int, RunLengthMask] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_listed: int = 0

    def add_outline(self, outline: tuple[list[NDArray[np.float32]], RunLengthMask | None]) -> None:
        """The outline of the next box; crowd regions, which nobody trains on, keep their mask only."""
        box = len(self.polygons)
        parts, mask = outline
        if mask is not None:
            self.masks[box] = mask
            self.polygons.append(NO_POLYGON if self.is_crowd[box] else outline_of_mask(mask))
            return
        self.polygons.append(join_parts(parts) if parts else NO_POLYGON)
        if len(parts) > 1:
            self.polygon_parts[box] = [len(part) for part in parts]


def _read_annotations(source: str, entries: list[Any], images: _Images) -> _Boxes:
    boxes = _Boxes(num_listed=len(entries))

    def note(kind: str, action: str, detail: str, image_number: int | None) -> None:
        path = None if image_number is None else images.paths[image_number]
        boxes.problems.append(Problem(source, None, kind, action, f"annotations[{position}]: {detail}", path))

    for position, entry in enumerate(entries):
        try:
            number = _whole(entry.get("id"))
            image, category = entry["image_id"], entry["category_id"]
            x, y, w, h = entry["bbox"]
            box = (float(x), float(y), float(w), float(h))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            kind, why = _what_is_wrong(entry, error)
            known = entry.get("image_id") if isinstance(entry, dict) else None
            note(kind, "drop-box", why, images.number_of_key.get(_key(known)))
            continue
        image_number = images.number_of_key.get(_key(image))
        category_id = category if type(category) is int else _whole(category)
        if image_number is None:
            note("unknown-image-id", "drop-box", f"no image has the id {image!r}", None)
            continue
        if category_id is None:
            note("class-not-a-number", "drop-box", f"category_id is {category!r}", image_number)
            continue
        outline = _segmentation(entry.get("segmentation"), images.sizes_hw[image_number])
        if outline is None:
            detail = (
                "its segmentation is neither a list of polygons nor a run-length mask of the image's size"
            )
            note("polygon-malformed", "keep", detail, image_number)
        boxes.images.append(image_number)
        boxes.numbers.append(position if number is None else number)
        boxes.boxes_xywh.append(box)
        boxes.categories.append(category_id)
        boxes.is_crowd.append(entry.get("iscrowd") in (1, "1"))
        area = entry.get("area")
        boxes.areas.append(float(area) if isinstance(area, (int, float)) and 0 <= area < 1e18 else math.nan)
        boxes.add_outline(outline or ([], None))
    return boxes


def _what_is_wrong(entry: object, error: Exception) -> tuple[str, str]:
    """Kind and sentence for an annotation that could not be read."""
    if not isinstance(entry, dict):
        return "malformed-entry", "is no object"
    missing = [name for name in ("image_id", "category_id", "bbox") if name not in entry]
    if missing:
        return "malformed-entry", f"has no {missing[0]}"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        return "wrong-column-count", f"bbox is {str(box)[:60]}, not [x, y, width, height]"
    return "box-not-a-number", f"bbox is {str(box)[:60]} ({error})"


def _segmentation(
    value: object, size_hw: tuple[int, int]
) -> tuple[list[NDArray[np.float32]], RunLengthMask | None] | None:
    """Parts (K, 2) of an object's outline, and its run-length mask if it has one; None if it is malformed."""
    if not value:
        return [], None
    if isinstance(value, dict):
        mask = read_mask(value, size_hw)
        return None if mask is None else ([], mask)
    if not isinstance(value, list):
        return None
    try:
        parts = [np.array(part, np.float64) for part in value]
    except (TypeError, ValueError, OverflowError):
        return None
    for part in parts:
        if part.ndim != 1 or len(part) < 6 or len(part) % 2 or not (np.abs(part) < 1e9).all():
            return None
    return [part.reshape(-1, 2).astype(np.float32) for part in parts], None


def _flatten(source: str, images: _Images, boxes: _Boxes, categories: dict[int, str]) -> Annotations:
    num_images, num_boxes = len(images.paths), len(boxes.images)
    xywh = np.array(boxes.boxes_xywh, np.float64).reshape(-1, 4)
    return Annotations(
        image_paths=images.paths,
        listed_in=[source] * num_images,
        listed_lines=np.zeros(num_images, np.int64),
        label_files=[source] * num_images,
        image_ids=np.array(images.ids, np.int64),
        has_own_ids=True,
        stated_sizes_hw=np.array(images.sizes_hw, np.int64).reshape(-1, 2),
        label_missing=np.zeros(num_images, bool),
        image_dropped=np.zeros(num_images, bool),
        box_images=np.array(boxes.images, np.int64),
        box_numbers=np.array(boxes.numbers, np.int64),
        boxes_xyxy=np.hstack((xywh[:, :2], xywh[:, :2] + xywh[:, 2:])),
        is_normalised=np.zeros(num_boxes, bool),
        class_ids=np.array(boxes.categories, np.int64),
        categories=categories,
        is_crowd=np.array(boxes.is_crowd, bool),
        areas=np.array(boxes.areas, np.float64),
        polygon_offsets=offsets_of([len(polygon) for polygon in boxes.polygons]),
        polygon_points=np.concatenate([NO_POLYGON, *boxes.polygons]),
        polygon_parts=boxes.polygon_parts,
        masks=boxes.masks,
        consulted=images.consulted,
        problems=images.problems + boxes.problems,
        num_images_listed=images.num_listed,
        num_boxes_listed=boxes.num_listed,
    )
