"""Entries of a COCO json: ids in any spelling, and each faulty entry named."""

from __future__ import annotations

import marshal
import math
import mmap
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.outlines import NO_POLYGON, join_parts, outline_of_mask, read_mask
from yoloflow.files import read_json
from yoloflow.structures import Problem, RunLengthMask, YoloflowError, fault_of_class_name

_INT64_BOUND = 2**63
_OF_LABEL_STUDIO = {"rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels"}

TRUE_WORDS = ("1", "1.0", "true", "yes")
"""How files write that something holds, in small letters."""

Key = int | str
"""The id of an image in a spelling that equal ids share."""

Outline = tuple[list[NDArray[np.float32]], RunLengthMask | None]
"""The parts (K, 2) of an object's outline, or its run-length mask."""

NO_OUTLINE: Outline = ([], None)


def load(source: str | Path, *, with_outlines: bool = True, packed: bool = False) -> dict[str, Any]:
    """Returns the content of the file, with its three lists.

    Args:
        source: the file.
        with_outlines: keep the segmentations, which are most of the file.
        packed: keep each annotation as bytes, see `unpacked`: as a dictionary it takes four times the memory.

    Raises:
        YoloflowError: it cannot be read, or is no COCO json.
    """
    hook = _packed if packed else None if with_outlines else _without_segmentation
    content = read_json(Path(source), hook, advice="")
    if content is None and not Path(source).exists():
        raise YoloflowError(f"{source}: cannot be read (there is no such file)")
    return checked(content, str(source))


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def _packed(entry: dict[str, Any]) -> dict[str, Any] | bytes:
    """Returns an annotation as bytes, anything else as it is."""
    if "bbox" not in entry or "image_id" not in entry:
        return entry
    parts = entry.get("segmentation")
    if type(parts) is list:
        entry["segmentation"] = [_packed_numbers(part) for part in parts]
    try:
        return marshal.dumps(entry)
    except ValueError:  # nested too deeply, or with such an entry within
        return entry


def _packed_numbers(part: object) -> object:
    """Returns a list of numbers as an array, which is a third of it in size; anything else as it is."""
    if type(part) is not list:
        return part
    try:
        return array("f", part)
    except (TypeError, OverflowError):
        return part


def unpacked(entries: Sequence[Any]) -> Iterator[Any]:
    """Yields annotations as the file has them, packed ones once; their outlines are the bytes of float32."""
    for position, entry in enumerate(entries):
        # Only what was packed is of bytes; its memory is free as soon as it is read.
        if isinstance(entry, bytes) and isinstance(entries, list):
            entries[position] = None
            yield marshal.loads(entry)
        else:
            yield entry


def checked(content: object, source: str) -> dict[str, Any]:
    """Returns a content that has COCO's three lists; annotations may be absent.

    Raises:
        YoloflowError: it has not.
    """
    if program := foreign_program(content):
        raise YoloflowError(
            f"{source}: is {program}, which is not read; export COCO json, YOLO or PASCAL VOC from there"
        )
    if isinstance(content, list):
        raise YoloflowError(
            f"{source}: is a list (of detections?), not an annotation file with images and categories"
        )
    if not isinstance(content, Mapping):
        raise YoloflowError(f"{source}: is no COCO json (an object with images, annotations and categories)")
    found = {}
    for key in ("images", "annotations", "categories"):
        found[key] = content.get(key, [] if key == "annotations" else None)
        if not isinstance(found[key], Sequence) or isinstance(found[key], str):
            raise YoloflowError(f'{source}: is no COCO json: "{key}" is missing or no list')
    return found


def foreign_program(content: object) -> str:
    """Returns whose own json a content is: words for a message, "" where it is nobody's that we know."""
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, Mapping):
        if "name" in first and {"labels", "attributes"} & first.keys():
            return "BDD100K's json (its bdd100k.label.to_coco makes COCO json of it)"
        values = (value[0] for value in first.values() if isinstance(value, list) and value)
        if {"annotation_id", "lead_time"} <= first.keys() or any(
            isinstance(one, Mapping) and _OF_LABEL_STUDIO & one.keys() for one in values
        ):
            return "Label Studio's JSON_MIN"
        if isinstance(first.get("data"), Mapping) and ("annotations" in first or "predictions" in first):
            return "Label Studio's own json"
        return "CreateML's json" if "image" in first and "annotations" in first else ""
    if not isinstance(content, Mapping) or "images" in content:
        return ""
    if isinstance(content.get("shapes"), list):
        return "LabelMe's json of one image"
    entries = [entry for entry in content.values() if isinstance(entry, Mapping)]
    is_via = "_via_img_metadata" in content or (entries and all("regions" in entry for entry in entries))
    return "VIA's own json" if is_via else ""


def coco_files(folder: str) -> list[str]:
    """Returns the COCO json files in a folder, or in a folder there."""
    found = []
    for path in (path for pattern in ("*.json", "*/*.json") for path in sorted(Path(folder).glob(pattern))):
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                is_coco = content.find(b'"images"') >= 0 and content.find(b'"categories"') >= 0
        except (OSError, ValueError):
            continue
        found += [str(path)] if is_coco else []
    return found


def read_categories(source: str, entries: Sequence[Any]) -> dict[int, str]:
    """Returns the name of each category id, in the order of the ids.

    Raises:
        YoloflowError: a category has no id or no name, or two have one id.
    """
    found: dict[int, str] = {}
    for position, entry in enumerate(entries):
        number = whole(entry.get("id")) if isinstance(entry, Mapping) else None
        if number is None or not isinstance(entry.get("name"), str):
            raise YoloflowError(f"{source}: categories[{position}] needs a whole number id and a name")
        if fault := fault_of_class_name(entry["name"]):
            raise YoloflowError(f"{source}: categories[{position}] (id {number}): its name {fault}")
        if number in found:
            raise YoloflowError(
                f"{source}: category id {number} is given to {found[number]} and to {entry['name']}"
            )
        found[number] = entry["name"]
    if not found:
        raise YoloflowError(f"{source}: lists no categories, so its boxes can have no class")
    return dict(sorted(found.items()))


def whole(value: object) -> int | None:
    """Returns a whole number, also written as 3.0 or "3"; None for anything else."""
    if type(value) is int and abs(value) < _INT64_BOUND:
        return value
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT64_BOUND:
        return value
    return None


def key_of(value: object) -> Key:
    """Returns a key that equal ids share: 7, 7.0 and "7" are the same image."""
    if type(value) is int:
        return value
    number = whole(value)
    return str(value) if number is None else number


@dataclass(slots=True)
class ImageEntries:
    """The images of the file, an entry for each id.

    Attributes:
        names: `file_name` of each; keys: its id; sizes_hw: its stated size, 0 where there is none.
        given_ids: by position, the ids that the file does not have as whole numbers, as they stand there.
        paths: its file, or what else names it in problems.
        number_of_key: position of each key.
        repeated: entries with a key that another one has: position in the file, name, position of the other.
        problems: entries that cannot be used.
        num_listed: entries in the file.
    """

    names: list[str] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    given_ids: dict[int, str | int | float] = field(default_factory=dict)
    sizes_hw: list[tuple[int, int]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    number_of_key: dict[Key, int] = field(default_factory=dict)
    repeated: list[tuple[int, str, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    num_listed: int = 0

    def numbers(self, source: str) -> list[int]:
        """Returns the ids as whole numbers; where that is not what they are, all are numbered from 1."""
        if all(isinstance(key, int) and abs(key) < _INT64_BOUND for key in self.keys):
            return [int(key) for key in self.keys]
        detail = "some image ids are no whole numbers; files of predictions have them as they stand here"
        self.problems.append(Problem(source, None, "image-ids-renumbered", "keep", detail))
        self.given_ids = {n: self.given_ids.get(n, key) for n, key in enumerate(self.keys)}
        return list(range(1, len(self.keys) + 1))


def read_image_entries(source: str, entries: Sequence[Any], *, need_names: bool = True) -> ImageEntries:
    """Returns the images, without their paths.

    Args:
        source: the file.
        entries: its images.
        need_names: an entry without `file_name` cannot be used; else its id is its name.
    """
    images = ImageEntries(num_listed=len(entries))
    for position, entry in enumerate(entries):
        name, identity = (
            (entry.get("file_name"), entry.get("id")) if isinstance(entry, Mapping) else (None, None)
        )
        if name in (None, "") and not need_names and identity is not None:
            name = f"id {identity}"
        if not isinstance(name, str) or not name.strip() or identity is None:
            detail = f"images[{position}] needs an id and a file_name"
            images.problems.append(Problem(source, None, "malformed-image-entry", "drop-image", detail))
            continue
        key = key_of(identity)
        if key in images.number_of_key:
            images.repeated.append((position, name, images.number_of_key[key]))
            continue
        images.number_of_key[key] = number = len(images.names)
        if type(identity) is not int:
            images.given_ids[number] = identity if isinstance(identity, int | float) else str(identity)
        images.names.append(name)
        images.keys.append(key)
        height, width = whole(entry.get("height")), whole(entry.get("width"))
        images.sizes_hw.append((height or 0, width or 0))
    return images


@dataclass(slots=True)
class ObjectEntries:
    """The valid annotations of the file, one entry each in every list.

    Attributes:
        images: position of the image; numbers: its own id, else its position in the file.
        boxes_xywh: four numbers for each; areas: NaN where none is stated.
        points: x and y of all outlines, in a row; polygon_lengths: points of each outline.
        problems: annotations that cannot be used, or not as they stand.
        num_listed: annotations in the file.
    """

    images: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    boxes_xywh: array[float] = field(default_factory=lambda: array("d"))
    categories: list[int] = field(default_factory=list)
    is_crowd: list[bool] = field(default_factory=list)
    areas: array[float] = field(default_factory=lambda: array("d"))
    points: array[float] = field(default_factory=lambda: array("f"))
    polygon_lengths: list[int] = field(default_factory=list)
    polygon_parts: dict[int, list[int]] = field(default_factory=dict)
    masks: dict[int, RunLengthMask] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    num_listed: int = 0

    def add_outline(self, outline: Outline) -> None:
        """The outline of the next box; crowd regions, which nobody trains on, keep their mask only."""
        box = len(self.polygon_lengths)
        parts, mask = outline
        polygon = join_parts(parts) if parts else NO_POLYGON
        if mask is not None:
            self.masks[box] = mask
            polygon = NO_POLYGON if self.is_crowd[box] else outline_of_mask(mask)
        elif len(parts) > 1:
            self.polygon_parts[box] = [len(part) for part in parts]
        self.points.frombytes(polygon.tobytes())
        self.polygon_lengths.append(len(polygon))


def read_objects(
    source: str, entries: Sequence[Any], images: ImageEntries, *, with_outlines: bool = True
) -> ObjectEntries:
    """Returns the annotations of the images, whose paths are known; segmentations only where asked for."""
    boxes = ObjectEntries(num_listed=len(entries))

    def note(kind: str, action: str, detail: str, image_number: int | None) -> None:
        path = None if image_number is None else images.paths[image_number]
        boxes.problems.append(Problem(source, None, kind, action, f"annotations[{position}]: {detail}", path))

    for position, entry in enumerate(unpacked(entries)):
        try:
            number = whole(entry.get("id"))
            image, category = entry["image_id"], entry["category_id"]
            x, y, w, h = entry["bbox"]
            box = (float(x), float(y), float(w), float(h))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            kind, why = _what_is_wrong(entry, error)
            known = entry.get("image_id") if isinstance(entry, Mapping) else None
            note(kind, "drop-box", why, images.number_of_key.get(key_of(known)))
            continue
        image_number = images.number_of_key.get(key_of(image))
        category_id = whole(category)
        if image_number is None:
            note("unknown-image-id", "drop-box", f"no image has the id {image!r}", None)
            continue
        if category_id is None:
            note("class-not-a-number", "drop-box", f"category_id is {category!r}", image_number)
            continue
        drawn = entry.get("segmentation") if with_outlines else None
        outline, fault = read_segmentation(drawn, images.sizes_hw[image_number])
        if fault:
            note("polygon-malformed", "keep", f"its segmentation {fault}", image_number)
        boxes.images.append(image_number)
        boxes.numbers.append(position if number is None else number)
        boxes.boxes_xywh.extend(box)
        boxes.categories.append(category_id)
        boxes.is_crowd.append((crowd := entry.get("iscrowd")) == 1 or _is_true_word(crowd))
        area = entry.get("area")
        boxes.areas.append(float(area) if isinstance(area, (int, float)) and 0 <= area < 1e18 else math.nan)
        boxes.add_outline(outline)
    return boxes


def _is_true_word(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in TRUE_WORDS


def _what_is_wrong(entry: object, error: Exception) -> tuple[str, str]:
    """Kind and sentence for an annotation that could not be read."""
    if not isinstance(entry, Mapping):
        return "malformed-entry", "is no object"
    missing = [name for name in ("image_id", "category_id", "bbox") if name not in entry]
    if missing:
        return "malformed-entry", f"has no {missing[0]}"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        return "wrong-column-count", f"bbox is {str(box)[:60]}, not [x, y, width, height]"
    return "box-not-a-number", f"bbox is {str(box)[:60]} ({error})"


def read_segmentation(value: object, size_hw: tuple[int, int]) -> tuple[Outline, str]:
    """Returns an object's outline, and what is wrong with it: the end of a sentence, "" where nothing is.

    Args:
        value: what the file says.
        size_hw: of the image, 0 where it is not stated.
    """
    if not value:
        return NO_OUTLINE, ""
    if isinstance(value, dict):
        mask = read_mask(value, size_hw)
        if mask is None:
            return NO_OUTLINE, "is no run-length mask of the image's size"
        return ([], mask), ""
    if not isinstance(value, list):
        return NO_OUTLINE, "is neither a list of polygons nor a run-length mask"
    parts = [_polygon(part) for part in value]
    sound = [part for part in parts if part is not None]
    if len(sound) == len(parts):
        return (sound, None), ""
    number = next(number for number, part in enumerate(parts, 1) if part is None)
    detail = f"has a part (number {number} of {len(parts)}) that is not at least three x y pairs"
    return (sound, None), detail + ("; the others are used" if sound else "")


def _polygon(value: object) -> NDArray[np.float32] | None:
    """Returns (K, 2) points of a list x1, y1, x2, y2, ..., packed or not; None if it is no polygon."""
    try:
        points = np.frombuffer(value, np.float32) if isinstance(value, bytes) else np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not (np.abs(points) < 1e9).all():
        return None
    return points.reshape(-1, 2).astype(np.float32, copy=False)
