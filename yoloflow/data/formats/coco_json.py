"""COCO json: `images`, `annotations` and `categories` in one file.

Classes are the categories in the order of their ids, gaps closed; the ids themselves are kept for output.
The parts of an object's outline are joined by seams of no width; along a run-length mask an outline is drawn.
Both are kept for output as they stand. Crowd regions are kept as such. Images are looked for in
`image_folder`, else beside the json, in folders there and one level up that are named like the json or a word
of its name (annotations/instances_val2017.json -> ../val2017), in `images`, and one level up.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath, PurePosixPath
from typing import Any

import numpy as np

from yoloflow.data.formats.annotations import Annotations, offsets_of
from yoloflow.data.formats.coco_entries import (
    ImageEntries,
    ObjectEntries,
    key_of,
    load,
    read_categories,
    read_image_entries,
    read_objects,
    unpacked,
)
from yoloflow.data.formats.image_search import check_same_images, find_images, folder_advice
from yoloflow.structures import Problem, YoloflowError

_OWN_ID = "give each image its own id"


def recognises(source: str) -> bool:
    """Returns whether the source is a json file."""
    return source.lower().endswith(".json")


def read(
    source: str, image_folder: str | None = None, image_paths: Sequence[str] | None = None
) -> Annotations:
    """Read a COCO json.

    Args:
        source: the file.
        image_folder: where the images' `file_name` begins, or a folder above them.
        image_paths: take these images alone, in this order; they are found in the file by their names.

    Raises:
        YoloflowError: the file is no COCO json, none of its images is found, or it lacks one of
            `image_paths`.
    """
    with _garbage_collector_paused():
        content = load(source, packed=True)
        categories = read_categories(source, content["categories"])
        if image_paths is not None:
            _keep_listed(source, content, image_paths)
        images = read_image_entries(source, content["images"])
        folders = [] if image_paths is not None else _candidate_folders(source, image_folder)
        dropped: list[int] = []
        if image_paths is None:
            dropped = _find(source, images, folders, image_folder)
        else:
            images.paths = list(images.names)
        boxes = read_objects(source, content["annotations"], images)
        annotations = flatten(source, images, boxes, categories)
        annotations.image_dropped[dropped] = True
        below = {os.path.dirname(name) for name in images.names}
        looked = [os.path.join(folder, part) for folder in folders for part in below]
        annotations.consulted = [source, *looked, *map(os.path.dirname, images.paths)]
        return annotations


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


def _keep_listed(source: str, content: dict[str, Any], image_paths: Sequence[str]) -> None:
    """Keeps the images of a list, under their paths there, and their annotations."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in content["images"]:
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            by_name.setdefault(PurePosixPath(entry["file_name"]).name, []).append(entry)
    entries, missing = [], []
    for path in image_paths:
        parts = PurePath(path).parts
        alike = by_name.get(parts[-1], [])
        fitting = [
            entry for entry in alike if (own := PurePosixPath(entry["file_name"]).parts) == parts[-len(own) :]
        ] or alike
        if len(fitting) == 1:
            entries.append({**fitting[0], "file_name": path})
        else:
            missing.append(path)
    known = {key_of(entry.get("id")) for entry in entries}
    if missing or len(known) < len(entries):
        count = len(missing) or len(entries) - len(known)
        raise YoloflowError(
            f"{source}: {count} of {len(image_paths)} images are not in it, or not once, such as "
            f"{(missing or image_paths)[0]}"
        )
    content["images"] = entries
    content["annotations"] = [
        entry
        for entry in unpacked(content["annotations"])
        if not isinstance(entry, dict) or key_of(entry.get("image_id")) in known
    ]


def _find(source: str, images: ImageEntries, folders: list[str], image_folder: str | None) -> list[int]:
    """Settles the paths of the images, in place; returns those whose id another file has too."""
    names = images.names + [name for _, name, _ in images.repeated]
    found = find_images(source, names, folders, None if image_folder is None else folders[-1])
    if names and not found.num_found:
        looked = ", ".join(filter(os.path.isdir, folders))
        raise YoloflowError(
            f"{source}: none of its {len(names)} images ({names[0]}, ...) is found in {looked}; "
            f"{folder_advice(source, names[0])}"
        )
    images.paths = found.paths[: len(images.names)]
    images.problems += found.problems
    dropped = []
    for (position, name, number), path in zip(images.repeated, found.paths[len(images.names) :], strict=True):
        kind, where = "duplicate-image", f"images[{position}]"
        detail = f"{where}: {path} is listed already, with the same id"
        if path != images.paths[number]:
            kind = "ambiguous-image-id"
            detail = f"{where} ({name}) has the id {images.keys[number]} of {images.names[number]}; {_OWN_ID}"
            if number not in dropped:
                dropped.append(number)
                id_of_both = f"the id {images.keys[number]} of {name} ({where}) too"
                first = f"{images.names[number]} has {id_of_both}; {_OWN_ID}"
                images.problems.append(Problem(source, None, kind, "drop-image", first, images.paths[number]))
        images.problems.append(Problem(source, None, kind, "drop-image", detail, path))
    return dropped


def _candidate_folders(source: str, image_folder: str | None) -> list[str]:
    """Folders where the names may begin, the likeliest first; the given one is the last of its own."""
    here = os.path.dirname(os.path.abspath(source))
    words = _words(source)
    if image_folder is not None:
        given = next((f for f in (image_folder, os.path.join(here, image_folder)) if os.path.isdir(f)), None)
        if given is None:
            raise YoloflowError(f"data.image_folder={image_folder}: there is no such folder")
        given = os.path.abspath(given)
        return [*(place for word in words if os.path.isdir(place := os.path.join(given, word))), given]
    up = os.path.dirname(here)
    images = [os.path.join(here, "images"), os.path.join(up, "images")]
    of_words = [os.path.join(folder, word) for word in words for folder in (up, *images, here)]
    return list(dict.fromkeys([here, *of_words, *images, up]))


def _words(source: str) -> list[str]:
    """Returns the words of the name that folders may have: instances_val2017 also means val2017 and val."""
    stem = os.path.splitext(os.path.basename(source))[0]
    words = [stem, *reversed(re.split(r"[_\-. ]+", stem))]
    words += [word.rstrip("0123456789") for word in words]
    return [word for word in dict.fromkeys(words) if word and word.strip("0123456789")]


def check_not_the_other_sets(source: str, image_paths: Sequence[str], image_folder: str) -> None:
    """Raises where the one folder of all sets has other images than a folder beside it, named like the json.

    Args:
        source: the json.
        image_paths: of its images.
        image_folder: as the user gave it.
    """
    *of_words, folder = _candidate_folders(source, image_folder)
    if of_words or os.path.basename(folder) in _words(source):
        return
    named_like = [os.path.join(os.path.dirname(folder), word) for word in _words(source)]
    check_same_images(source, image_folder, folder, filter(os.path.isdir, named_like), image_paths)


def flatten(
    source: str, images: ImageEntries, boxes: ObjectEntries, categories: dict[int, str]
) -> Annotations:
    """Returns the entries of a file, whose paths are settled, as flat arrays."""
    num_images, num_boxes = len(images.paths), len(boxes.images)
    xywh = np.array(boxes.boxes_xywh, np.float64).reshape(-1, 4)
    with np.errstate(over="ignore"):  # what is infinite then is named as such
        corners = np.hstack((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]))
    return Annotations(
        image_paths=images.paths,
        listed_in=[source] * num_images,
        listed_lines=np.zeros(num_images, np.int64),
        label_files=[source] * num_images,
        image_ids=np.array(images.numbers(source), np.int64),
        has_own_ids=True,
        given_ids=dict(images.given_ids),
        stated_sizes_hw=np.array(images.sizes_hw, np.int64).reshape(-1, 2),
        label_missing=np.zeros(num_images, bool),
        image_dropped=np.zeros(num_images, bool),
        box_images=np.array(boxes.images, np.int64),
        box_numbers=np.array(boxes.numbers, np.int64),
        boxes_xyxy=corners,
        is_normalised=np.zeros(num_boxes, bool),
        class_ids=np.array(boxes.categories, np.int64),
        categories=categories,
        is_crowd=np.array(boxes.is_crowd, bool),
        areas=np.array(boxes.areas, np.float64),
        polygon_offsets=offsets_of(boxes.polygon_lengths),
        polygon_points=np.array(boxes.points, np.float32).reshape(-1, 2),
        polygon_parts=boxes.polygon_parts,
        masks=boxes.masks,
        problems=images.problems + boxes.problems,
        num_images_listed=images.num_listed,
        num_boxes_listed=boxes.num_listed,
    )
