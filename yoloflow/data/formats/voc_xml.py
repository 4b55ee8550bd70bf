"""PASCAL VOC annotations: one XML file an image, boxes as pixel corners.

Corners are taken as they stand, as the tools write them that use this form today (left and top edge from 0,
right and bottom edge up to the size). PASCAL's own files, which name "The VOC20xx Database" as their source,
count pixels from 1 and include the last: there 1 is subtracted from xmin and ymin. Objects marked difficult
are regions to ignore (`is_crowd`), as in PASCAL's own evaluation. Boxes of an object's parts are not read.

The source is a folder of XML files, a folder that has a folder Annotations, or a list file (an XML file or a
image's stem a line, as in ImageSets/Main). Images lie beside the XML, or in JPEGImages or images beside
its folder, under the name that the XML gives or else under its own stem.
"""

from __future__ import annotations

import math
import os
import xml.parsers.expat
from dataclasses import dataclass, field, replace

import numpy as np

from yoloflow.data.formats.annotations import Annotations
from yoloflow.data.formats.list_file import read_list_file
from yoloflow.data.image_files import IMAGE_SUFFIXES
from yoloflow.data.threads import map_in_threads
from yoloflow.structures import Problem, YoloflowError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_PASCAL_SOURCE = "The VOC"
_LISTS_ANNOTATIONS = ("../Annotations", "../../Annotations", ".", "Annotations")
_IMAGE_FOLDERS = (".", "../JPEGImages", "../images", "../../images", "../../JPEGImages")


def recognises(source: str) -> bool:
    """Returns whether the source is a folder with XML files, or a list of them."""
    if os.path.isdir(source):
        return bool(_xml_files(source) or _xml_files(os.path.join(source, "Annotations")))
    if not (source.lower().endswith(".txt") and os.path.isfile(source)):
        return False
    names = read_list_file(source)
    if not names or os.path.splitext(names[0][0])[1].lower() in IMAGE_SUFFIXES:
        return False
    return any(os.path.isfile(_listed_xml(source, name)) for name, _ in names)


def read(source: str, image_folder: str | None = None) -> Annotations:
    """Read all XML files of a source.

    Args:
        source: folder or list file.
        image_folder: looked at first for images.

    Raises:
        YoloflowError: the source lists no XML file, or a file cannot be read.
    """
    if os.path.isdir(source):
        paths = _xml_files(source) or _xml_files(os.path.join(source, "Annotations"))
        lines = [0] * len(paths)
    else:
        rows = read_list_file(source)
        paths, lines = [_listed_xml(source, name) for name, _ in rows], [number for _, number in rows]
    if not paths:
        raise YoloflowError(f"{source}: lists no XML files")
    files = map_in_threads(_parse, paths)
    finder = _ImageFinder(image_folder)
    annotations = _flatten(source, files, lines, finder)
    annotations.consulted = [source, os.path.join(source, "Annotations"), *finder.folders]
    return annotations


def _xml_files(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    folder = os.path.abspath(folder)
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.lower().endswith(".xml"))


def _listed_xml(source: str, name: str) -> str:
    base = os.path.dirname(os.path.abspath(source))
    name = name if name.lower().endswith(".xml") else name + ".xml"
    candidates = [os.path.normpath(os.path.join(base, folder, name)) for folder in _LISTS_ANNOTATIONS]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])


@dataclass(slots=True)
class _Object:
    """An <object> element: the text of its fields and the line where it begins."""

    line: int
    fields: dict[str, str] = field(default_factory=dict)


class _XmlFile:
    """An annotation file; expat and not ElementTree, because expat knows the line."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        self.objects: list[_Object] = []
        self.problem: Problem | None = None
        self._open: list[str] = []
        self._parser = xml.parsers.expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._entity

    def feed(self, data: bytes) -> None:
        """Read the whole file; `problem` says if that was not possible."""
        try:
            self._parser.Parse(data, True)
            if not self.fields and not self.objects:
                self._refuse(1, "it has nothing of <annotation><object>...")
        except xml.parsers.expat.ExpatError as error:
            self._refuse(error.lineno, f"no well-formed XML ({xml.parsers.expat.ErrorString(error.code)})")
        except (ValueError, LookupError) as error:
            self._refuse(self._parser.CurrentLineNumber, f"cannot be read as XML ({error})")

    def _refuse(self, line: int, detail: str) -> None:
        self.objects = []
        self.problem = Problem(self.path, line, "xml-malformed", "drop-image", detail)

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._open.append(name)
        if self._open == ["annotation", "object"]:
            self.objects.append(_Object(self._parser.CurrentLineNumber))

    def _end(self, _name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        key = "/".join(self._open[1:])
        if key.startswith("object/"):
            fields = self.objects[-1].fields
            fields[key[7:]] = fields.get(key[7:], "") + text
        elif key and text.strip():
            self.fields[key] = self.fields.get(key, "") + text

    def _entity(self, name: str, *_declaration: object) -> None:
        raise ValueError(f"it declares the entity {name}; label files have no need of entities")


def _parse(path: str) -> _XmlFile:
    file = _XmlFile(path)
    try:
        with open(path, "rb") as handle:
            data = handle.read()
    except (FileNotFoundError, NotADirectoryError):
        file.problem = Problem(path, None, "xml-malformed", "drop-image", "there is no such annotation file")
        return file
    except OSError as error:
        raise YoloflowError(f"{path}: the annotation file cannot be read ({error.strerror})") from error
    file.feed(data)
    return file


class _ImageFinder:
    """Finds the image of an XML file; every folder is listed once."""

    def __init__(self, image_folder: str | None) -> None:
        self._first = [os.path.abspath(image_folder)] if image_folder else []
        self._listings: dict[str, dict[str, str]] = {}

    def find(self, file: _XmlFile) -> str:
        """Absolute path of the image; if there is none, the path where it would be first looked for."""
        base, own_name = os.path.split(file.path)
        stem = os.path.splitext(own_name)[0]
        stated = os.path.basename(file.fields.get("filename", "").strip().replace("\\", "/"))
        folders = self._first + [os.path.normpath(os.path.join(base, folder)) for folder in _IMAGE_FOLDERS]
        wanted = [name for name in (stated, os.path.splitext(stated)[0], stem) if name]
        for name in wanted:
            for folder in folders:
                found = self._listing(folder).get(name)
                if found:
                    return os.path.join(folder, found)
        return os.path.join(folders[0], stated or stem + ".jpg")

    @property
    def folders(self) -> list[str]:
        """All folders that were looked into."""
        return list(self._listings)

    def _listing(self, folder: str) -> dict[str, str]:
        if folder not in self._listings:
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            names = [name for name in names if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
            by_stem = {os.path.splitext(name)[0]: name for name in names}
            self._listings[folder] = by_stem | {name: name for name in names}
        return self._listings[folder]


def _flatten(source: str, files: list[_XmlFile], lines: list[int], finder: _ImageFinder) -> Annotations:
    problems: list[Problem] = []
    class_of: dict[str, int] = {}
    boxes: list[list[float]] = []
    classes, images, numbers, difficult = [], [], [], []
    paths = [finder.find(file) for file in files]
    for image, file in enumerate(files):
        if file.problem:
            problems.append(replace(file.problem, image=paths[image]))
        shift = float(file.fields.get("source/database", "").strip().startswith(_PASCAL_SOURCE))
        for item in file.objects:
            corners = _corners(file.path, paths[image], item, problems)
            if corners is not None:
                boxes.append([corners[0] - shift, corners[1] - shift, corners[2], corners[3]])
                classes.append(class_of.setdefault(item.fields["name"].strip(), len(class_of)))
                images.append(image)
                numbers.append(item.line)
                difficult.append(item.fields.get("difficult", "0").strip() == "1")
    num_images, num_boxes = len(files), len(boxes)
    return Annotations(
        image_paths=paths,
        listed_in=[source if line else file.path for file, line in zip(files, lines, strict=True)],
        listed_lines=np.array(lines, np.int64),
        label_files=[file.path for file in files],
        image_ids=np.arange(1, num_images + 1),
        has_own_ids=False,
        stated_sizes_hw=np.array([_stated_size(file) for file in files], np.int64).reshape(-1, 2),
        label_missing=np.zeros(num_images, bool),
        image_dropped=np.array([file.problem is not None for file in files], bool),
        box_images=np.array(images, np.int64),
        box_numbers=np.array(numbers, np.int64),
        boxes_xyxy=np.array(boxes, np.float64).reshape(-1, 4),
        is_normalised=np.zeros(num_boxes, bool),
        class_ids=np.array(classes, np.int64),
        categories={number: name for name, number in class_of.items()},
        is_crowd=np.array(difficult, bool),
        areas=np.full(num_boxes, math.nan),
        polygon_offsets=np.zeros(num_boxes + 1, np.int64),
        polygon_points=np.empty((0, 2), np.float32),
        problems=problems,
        num_images_listed=num_images,
        num_boxes_listed=sum(len(file.objects) for file in files),
    )


def _corners(path: str, image: str, item: _Object, problems: list[Problem]) -> list[float] | None:
    """Returns the four corners of an object, or None and a problem."""
    missing = [
        name
        for name in ("name", *(f"bndbox/{corner}" for corner in _CORNERS))
        if not item.fields.get(name, "").strip()
    ]
    if missing:
        detail = f"the object has no <{missing[0].replace('/', '><')}>"
        problems.append(Problem(path, item.line, "malformed-entry", "drop-box", detail, image))
        return None
    corners = []
    for corner in _CORNERS:
        text = item.fields[f"bndbox/{corner}"].strip()
        try:
            corners.append(float(text))
        except ValueError:
            detail = f'<{corner}> is "{text[:40]}", not a number'
            problems.append(Problem(path, item.line, "box-not-a-number", "drop-box", detail, image))
            return None
    return corners


def _stated_size(file: _XmlFile) -> tuple[int, int]:
    height, width = (file.fields.get(f"size/{name}", "").strip() for name in ("height", "width"))
    bounded = all(text.isdecimal() and len(text) < 10 for text in (height, width))
    return (int(height), int(width)) if bounded else (0, 0)
