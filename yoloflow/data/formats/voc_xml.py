"""PASCAL VOC annotations: one XML file an image, boxes as pixel corners.

Corners are taken as they stand, as the tools write them that use this form today (left and top edge from 0,
right and bottom edge up to the size). PASCAL's own files, which name "The VOC20xx Database" as their source,
count pixels from 1 and include the last: there 1 is subtracted from xmin and ymin. Objects marked difficult
are regions to ignore (`is_crowd`), as in PASCAL's own evaluation. Boxes of an object's parts are not read.

The source is a folder with XML files in it or below, or a list file (an XML file or an image's stem a line,
as in ImageSets/Main). Images lie beside the XML, or in JPEGImages or images beside its folder Annotations (in
the same subfolder, or on top), under the stem of the XML or else the name that it gives. An image there
without XML is one without objects.
"""

from __future__ import annotations

import math
import os
import xml.parsers.expat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from yoloflow.data.formats.annotations import Annotations
from yoloflow.data.formats.coco_entries import TRUE_WORDS
from yoloflow.data.formats.other_files import other_files
from yoloflow.data.formats.voc_files import (
    Content,
    ImageFinder,
    annotation_files,
    images_without_annotation,
    is_annotated,
    listed_annotations,
    stem_of,
)
from yoloflow.data.formats.voc_masks import add_masks
from yoloflow.data.threads import map_in_threads
from yoloflow.structures import Problem, YoloflowError, fault_of_class_name

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OBJECT_FIELDS = ("name", *(f"bndbox/{corner}" for corner in _CORNERS))
_FILE_FIELDS = ("filename", "size/width", "size/height", "source/database")
_PASCAL_SOURCE = "The VOC"


def recognises(source: str) -> bool:
    """Returns whether the source is a folder that is labelled by XML files, or a list of them."""
    if os.path.isdir(source):
        return is_annotated(source)
    if not (source.lower().endswith(".txt") and os.path.isfile(source)):
        return False
    return listed_annotations(source) is not None


def read(source: str, image_folder: str | None = None) -> Annotations:
    """Read all XML files of a source.

    Args:
        source: folder or list file.
        image_folder: looked at first for images.

    Raises:
        YoloflowError: the source lists no XML file, or a file cannot be read.
    """
    content = Content()
    if is_folder := os.path.isdir(source):
        content = annotation_files(source)
        rows = [(path, 0) for path in content.xmls]
    else:
        rows = listed_annotations(source) or []
    if not rows:
        raise YoloflowError(f"{source}: lists no XML files")
    files = map_in_threads(_parse, [path for path, _ in rows], is_python=True)
    finder = ImageFinder(image_folder)
    paths = [finder.find(file.path, file.fields.get("filename", "")) for file in files]
    stale = list(_prefer_own_names(files, paths, finder))
    if is_folder:
        for image, path in images_without_annotation(source, content, paths):
            files.append(_XmlFile(path, is_missing=True))
            rows.append((path, 0))
            paths.append(image)
    annotations, numbers_in_file = _flatten(source, files, [line for _, line in rows], paths)
    places = {os.path.dirname(path) for path, _ in rows} | {os.path.dirname(path) for path in paths}
    annotations.consulted = [source, *finder.folders, *sorted(places | content.folders)]
    stems = {stem_of(path) for path in content.xmls}
    unnamed = set(content.others) - set(paths)
    annotations.problems += stale + other_files(source, unnamed, lambda path: stem_of(path) in stems)
    add_masks(annotations, numbers_in_file)
    return annotations


def _prefer_own_names(files: list[_XmlFile], paths: list[str], finder: ImageFinder) -> Iterator[Problem]:
    """Sets the paths of files that name another image though there is one of their own name.

    Whoever renames or copies images and annotations leaves `<filename>` as it was.
    """
    for number, (file, path) in enumerate(zip(files, paths, strict=True)):
        if stem_of(path) == stem_of(file.path) or not os.path.isfile(path):
            continue
        own = finder.find(file.path, "")
        if os.path.isfile(own):
            paths[number] = own
            detail = f"<filename> is {file.fields['filename']}, but {own} has the name of this file"
            yield Problem(file.path, None, "stale-filename", "keep", detail, own)


@dataclass(slots=True)
class _Object:
    """An <object> element: its line, the text of its fields, half a sentence on each field given twice."""

    line: int
    fields: dict[str, str] = field(default_factory=dict)
    unclear: dict[str, str] = field(default_factory=dict)


class _XmlFile:
    """An annotation file; expat and not ElementTree, because expat knows the line."""

    def __init__(self, path: str, *, is_missing: bool = False) -> None:
        self.path = path
        self.is_missing = is_missing
        self.fields: dict[str, str] = {}
        self.unclear: dict[str, str] = {}
        self.objects: list[_Object] = []
        self.stray_boxes: list[int] = []  # lines of <bndbox> outside of objects
        self.problem: Problem | None = None
        self._num_annotations = 0
        self._root = ""
        self._open: list[str] = []
        self._texts: list[str] = []
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
            if not self._num_annotations:
                self._refuse(1, f"it is <{self._root}>...: there is no <annotation> as PASCAL VOC has it")
            elif self._num_annotations > 1:
                self._refuse(
                    1, f"it has {self._num_annotations} <annotation>; an image has a file of its own"
                )
            elif not self.fields and not self.objects:
                self._refuse(1, "it has nothing of <annotation><object>...")
            elif unclear := [self.unclear[key] for key in _FILE_FIELDS if key in self.unclear]:
                self._refuse(1, unclear[0])
        except xml.parsers.expat.ExpatError as error:
            self._refuse(error.lineno, f"no well-formed XML ({xml.parsers.expat.ErrorString(error.code)})")
        except (ValueError, LookupError) as error:
            self._refuse(self._parser.CurrentLineNumber, f"cannot be read as XML ({error})")

    def _refuse(self, line: int, detail: str) -> None:
        self.objects, self.stray_boxes = [], []
        self.problem = Problem(self.path, line, "xml-malformed", "drop-image", detail)

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        # Some programs write names in capitals, or with the prefix of a namespace.
        name = name.rpartition(":")[2].lower()
        self._open.append(name)
        self._texts.append("")
        self._root = self._root or name
        self._num_annotations += name == "annotation"
        inner = self._inner()
        if inner == ["object"]:
            self.objects.append(_Object(self._parser.CurrentLineNumber))
        elif name == "bndbox" and inner[:1] != ["object"]:
            self.stray_boxes.append(self._parser.CurrentLineNumber)

    def _inner(self) -> list[str]:
        """The open elements below <annotation>, without a wrapper of the objects."""
        if "annotation" not in self._open:
            return []
        inner = self._open[self._open.index("annotation") + 1 :]
        return inner[1:] if inner[:1] == ["objects"] else inner

    def _end(self, _name: str) -> None:
        key, text = "/".join(self._inner()), self._texts.pop().strip()
        self._open.pop()
        owner: _XmlFile | _Object = self
        if key.startswith("object/"):
            owner, key = self.objects[-1], key[7:]
        if key and text and owner.fields.setdefault(key, text) != text:
            element = f"<{key.replace('/', '><')}>"
            both = f"{owner.fields[key][:40]} and {text[:40]}"
            owner.unclear.setdefault(key, f"{element} stands there more than once: {both}")

    def _text(self, text: str) -> None:
        if self._texts:
            self._texts[-1] += text

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


def _flatten(
    source: str, files: list[_XmlFile], lines: list[int], paths: list[str]
) -> tuple[Annotations, list[int]]:
    """Returns all files in flat arrays, and the number of each box's object in its file, from 1."""
    problems: list[Problem] = []
    class_of: dict[str, int] = {}
    boxes: list[list[float]] = []
    classes, images, numbers, difficult, numbers_in_file = [], [], [], [], []
    for image, file in enumerate(files):
        if file.problem:
            problems.append(replace(file.problem, image=paths[image]))
        for line in file.stray_boxes:
            detail = "a <bndbox> that is in no <object> of the <annotation>"
            problems.append(Problem(file.path, line, "malformed-entry", "drop-box", detail, paths[image]))
        shift = float(file.fields.get("source/database", "").startswith(_PASCAL_SOURCE))
        for number, item in enumerate(file.objects, 1):
            corners = _corners(file.path, paths[image], item, problems)
            if corners is not None:
                boxes.append([corners[0] - shift, corners[1] - shift, corners[2], corners[3]])
                classes.append(class_of.setdefault(item.fields["name"], len(class_of)))
                images.append(image)
                numbers.append(item.line)
                numbers_in_file.append(number)
                difficult.append(item.fields.get("difficult", "").lower() in TRUE_WORDS)
    num_images, num_boxes = len(files), len(boxes)
    annotations = Annotations(
        image_paths=paths,
        listed_in=[source if line else file.path for file, line in zip(files, lines, strict=True)],
        listed_lines=np.array(lines, np.int64),
        label_files=[file.path for file in files],
        image_ids=np.arange(1, num_images + 1),
        has_own_ids=False,
        stated_sizes_hw=np.array([_stated_size(file) for file in files], np.int64).reshape(-1, 2),
        label_missing=np.array([file.is_missing for file in files], bool),
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
        num_boxes_listed=sum(len(file.objects) + len(file.stray_boxes) for file in files),
    )
    return annotations, numbers_in_file


def _corners(path: str, image: str, item: _Object, problems: list[Problem]) -> list[float] | None:
    """Returns the four corners of an object, or None and a problem."""
    detail = ""
    if unclear := [item.unclear[name] for name in (*_OBJECT_FIELDS, "difficult") if name in item.unclear]:
        detail = f"{unclear[0]}; give each box an <object> of its own, with one <name>"
    elif missing := [name for name in _OBJECT_FIELDS if name not in item.fields]:
        detail = f"the object has no <{missing[0].replace('/', '><')}>"
    elif fault := fault_of_class_name(item.fields["name"]):
        detail = f"its <name> {fault}"
    if detail:
        problems.append(Problem(path, item.line, "malformed-entry", "drop-box", detail, image))
        return None
    corners = []
    for corner in _CORNERS:
        text = item.fields[f"bndbox/{corner}"]
        try:
            corners.append(float(text))
        except ValueError:
            detail = f'<{corner}> is "{text[:40]}", not a number'
            problems.append(Problem(path, item.line, "box-not-a-number", "drop-box", detail, image))
            return None
    return corners


def _stated_size(file: _XmlFile) -> tuple[int, int]:
    height, width = (file.fields.get(f"size/{name}", "") for name in ("height", "width"))
    bounded = all(text.isdecimal() and len(text) < 10 for text in (height, width))
    return (int(height), int(width)) if bounded else (0, 0)
