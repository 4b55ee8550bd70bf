"""PASCAL VOC's masks without annotation files: SegmentationObject and SegmentationClass beside JPEGImages.

Each number of a PNG in SegmentationObject is an object, whose box is the extent of its pixels. Its class is
the commonest number of its pixels in SegmentationClass; without that folder all objects are of one class. A
file labelmap.txt (`name:r,g,b::` a line, as CVAT writes) names the classes; else their names are data.names,
the first for class 1.

The source is the folder above, or a list of stems as in ImageSets/Segmentation. Images without PNG are not
used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from yoloflow.data.formats.annotations import Annotations, offsets_of
from yoloflow.data.formats.list_file import read_list_file
from yoloflow.data.formats.outlines import NO_POLYGON
from yoloflow.data.formats.voc_files import IMAGE_FOLDERS, Content, ImageFinder, folders_named, root_above
from yoloflow.data.formats.voc_masks import (
    CLASSES,
    OBJECTS,
    VOID,
    ObjectMask,
    numbers_of_colours,
    objects_of,
    read_numbers,
)
from yoloflow.data.formats.yolo_txt import label_file
from yoloflow.data.threads import map_in_threads
from yoloflow.structures import Problem, YoloflowError

_LABEL_MAP = "labelmap.txt"


def recognises(source: str) -> bool:
    """Returns whether the source is a folder with masks and no other labels, or a list of masks."""
    if os.path.isdir(source):
        folder = _set_folder(source)
        content = Content.of(folder or source)
        has_others = content.xmls or any(map(label_file, content.images))
        return folder is not None and not has_others
    is_list = source.lower().endswith(".txt") and os.path.isfile(source)
    return is_list and any(os.path.isfile(path) for path, _ in _listed(source)[1])


def read(source: str, image_folder: str | None = None) -> Annotations:
    """Read all PNG files of a source.

    Args:
        source: folder or list file.
        image_folder: looked at first for images.

    Raises:
        YoloflowError: there are no numbers of objects.
    """
    if os.path.isdir(source):
        root = _set_folder(source) or source
        rows = [(path, 0) for path in _pngs(root)]
    else:
        root, rows = _listed(source)
    if not rows:
        raise YoloflowError(
            f"{source}: has SegmentationClass but no PNG in SegmentationObject; the classes of pixels do not "
            "tell one object from the next, so give a PNG for each image whose pixels number its objects"
        )
    files = map_in_threads(_read, [path for path, _ in rows])
    finder = ImageFinder(image_folder)
    paths = [finder.find(_xml_path(file.path), "") for file in files]
    annotations = _flatten(source, files, [line for _, line in rows], paths)
    annotations.categories = _categories(root, files)
    if annotations.categories is None:
        annotations.class_ids -= 1
    if os.path.isdir(source):
        annotations.problems += _unused_images(root, paths)
    below = {os.path.dirname(path) for file in files for path in (file.path, file.class_path) if path}
    classes = [file.class_path for file in files if file.class_path]
    annotations.consulted = [source, root, *finder.folders, *sorted(below), *classes]
    annotations.consulted.append(os.path.join(root, _LABEL_MAP))
    return annotations


@dataclass(slots=True)
class _Png:
    """The objects of an image: its PNG, and the one with their classes.

    Attributes:
        class_path: "" where there is none; size_hw: height and width.
        objects: with a class number each, 0 where the pixels have no class.
        fault: what is wrong with a file; "" where nothing is.
    """

    path: str
    class_path: str
    objects: list[tuple[ObjectMask, int]] = field(default_factory=list)
    fault: str = ""
    size_hw: tuple[int, int] = (0, 0)


def _set_folder(source: str) -> str | None:
    """Returns the folder that has the folders of masks: the source, or the one above that of its images."""
    whole = os.path.abspath(source)
    above, name = os.path.split(whole)
    places = [whole, above] if name.lower() in (*IMAGE_FOLDERS, OBJECTS) else [whole]
    return next((place for place in places if folders_named(place, [OBJECTS, CLASSES])), None)


def _pngs(folder: str) -> list[str]:
    found = [path for place in folders_named(folder, [OBJECTS]) for path in Content.of(place).images]
    return [path for path in found if path.lower().endswith(".png")]


def _listed(source: str) -> tuple[str, list[tuple[str, int]]]:
    """Returns the folder of a set, and the PNG of each line of a list below it, with the line."""
    base = os.path.dirname(os.path.abspath(source))
    for root in (os.path.normpath(os.path.join(base, up)) for up in ("..", "../..", ".")):
        for place in folders_named(root, [OBJECTS]):
            rows = read_list_file(source)
            return root, [(os.path.join(place, f"{_stem(name)}.png"), number) for name, number in rows]
    return base, []


def _stem(line: str) -> str:
    return os.path.splitext(line)[0] if line.lower().endswith((".png", ".jpg", ".jpeg")) else line


def _beside(path: str) -> tuple[str, str]:
    """Returns the folder in which SegmentationObject lies, and the path of a PNG below that."""
    root, below = root_above(os.path.dirname(path), [OBJECTS])
    return os.path.dirname(root), os.path.normpath(os.path.join(below, os.path.basename(path)))


def _xml_path(path: str) -> str:
    """Returns where the annotation file of a PNG would be: images lie beside masks as beside such files."""
    folder, below = _beside(path)
    return os.path.join(folder, "Annotations", os.path.splitext(below)[0] + ".xml")


def _read(path: str) -> _Png:
    folder, below = _beside(path)
    png = _Png(path, next((os.path.join(place, below) for place in folders_named(folder, [CLASSES])), ""))
    numbers = read_numbers(path)
    if isinstance(numbers, str):
        png.fault = numbers
        return png
    png.size_hw = (numbers.shape[0], numbers.shape[1])
    objects = objects_of(numbers)
    if not png.class_path:
        png.objects = [(one, 1) for one in objects]
        return png
    classes = read_numbers(png.class_path)
    if isinstance(classes, str) or classes.shape != numbers.shape:
        what = classes if isinstance(classes, str) else "has another size than that of its objects"
        png.fault = f"{png.class_path} {what}"
        return png
    for one in objects:
        counts = np.bincount(classes[numbers == one.number], minlength=VOID + 1)[1:VOID]
        png.objects.append((one, int(counts.argmax()) + 1 if counts.any() else 0))
    return png


def _flatten(source: str, files: list[_Png], lines: list[int], paths: list[str]) -> Annotations:
    problems = []
    for file, path in zip(files, paths, strict=True):
        if file.fault:
            problems.append(Problem(file.path, None, "mask-unusable", "drop-image", file.fault, path))
        for one, number in file.objects:
            if not number:
                detail = f"its pixels have no class in {file.class_path}"
                problems.append(Problem(file.path, one.number, "malformed-entry", "drop-box", detail, path))
    rows = [
        (image, one, number) for image, file in enumerate(files) for one, number in file.objects if number
    ]
    objects = [one for _, one, _ in rows]
    return Annotations(
        image_paths=paths,
        listed_in=[source if line else file.path for file, line in zip(files, lines, strict=True)],
        listed_lines=np.array(lines, np.int64),
        label_files=[file.path for file in files],
        image_ids=np.arange(1, len(files) + 1),
        has_own_ids=False,
        stated_sizes_hw=np.array([file.size_hw for file in files], np.int64).reshape(-1, 2),
        label_missing=np.zeros(len(files), bool),
        image_dropped=np.array([bool(file.fault) for file in files], bool),
        box_images=np.array([image for image, _, _ in rows], np.int64),
        box_numbers=np.array([one.number for one in objects], np.int64),
        boxes_xyxy=np.array([one.box_xyxy for one in objects], np.float64).reshape(-1, 4),
        is_normalised=np.zeros(len(rows), bool),
        class_ids=np.array([number for _, _, number in rows], np.int64),
        categories=None,
        is_crowd=np.zeros(len(rows), bool),
        areas=np.array([one.area for one in objects], np.float64),
        polygon_offsets=offsets_of([len(one.outline) for one in objects]),
        polygon_points=np.concatenate([NO_POLYGON, *(one.outline for one in objects)]),
        masks={box: one.mask for box, one in enumerate(objects)},
        problems=problems,
        num_images_listed=len(files),
        num_boxes_listed=sum(len(file.objects) for file in files),
    )


def _categories(root: str, files: Sequence[_Png]) -> dict[int, str] | None:
    """Returns the name of each class number; None where nothing names them."""
    if not any(file.class_path for file in files):
        return {1: "object"}
    path = os.path.join(root, _LABEL_MAP)
    if not os.path.isfile(path):
        return None
    found = {}
    for line, number in read_list_file(path):
        name, _, colour = line.partition(":")
        figures = colour.partition(":")[0].split(",")
        if line.startswith("#"):
            continue
        if len(figures) != 3 or not all(one.strip().isdecimal() and int(one) <= VOID for one in figures):
            raise YoloflowError(f"{path}:{number}: is not `name:red,green,blue` and what may follow")
        place = numbers_of_colours(np.array([[[int(one) for one in figures]]], np.uint8)).item()
        if place not in (0, VOID):
            found[int(place)] = name.strip()
    return found or None


def _unused_images(source: str, used: Sequence[str]) -> list[Problem]:
    known = set(used)
    spare = [path for place in folders_named(source, IMAGE_FOLDERS) for path in Content.of(place).images]
    spare = [path for path in spare if path not in known]
    if not spare:
        return []
    detail = f"{len(spare)} images have no PNG in SegmentationObject and are not used, such as {spare[0]}"
    return [Problem(source, None, "images-without-png", "keep", detail)]
