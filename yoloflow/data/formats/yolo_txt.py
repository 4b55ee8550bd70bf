"""YOLO text labels: one file an image, a line an object, all figures in parts of the image (0..1).

A line is `class centre_x centre_y width height`, or a polygon `class x1 y1 x2 y2 x3 y3 ...` whose box is the
tight box of its points; both may stand in one file. Where `kpt_shape` says so, keypoints follow the box.

The source is a list file (an image path a line, absolute or relative to the list file), a folder of images
with all folders below it, or a glob pattern. The label of `.../images/a/b.jpg` is `.../labels/a/b.txt` (the
last `images` of the path counts), else `b.txt` beside the image; both also in capitals. An empty label file
is an image without objects.
"""

from __future__ import annotations

import codecs
import glob
import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from unicodedata import normalize

import numpy as np

from yoloflow.data.formats.annotations import Annotations, offsets_of
from yoloflow.data.formats.coco_entries import coco_files
from yoloflow.data.formats.image_search import find_images
from yoloflow.data.formats.list_file import read_list_file
from yoloflow.data.formats.other_files import files_below, is_image_name, is_of_other_use, other_files
from yoloflow.data.formats.yolo_lines import Lines, describe_columns, is_known_form
from yoloflow.data.threads import map_in_threads
from yoloflow.files import UTF16_MARKS
from yoloflow.structures import Problem, YoloflowError

# Folders of labels by the folder of their images: written as that is, then in other letters.
_FOLDERS = {
    "images": ("labels", "Labels", "LABELS"),
    "Images": ("Labels", "labels", "LABELS"),
    "IMAGES": ("LABELS", "labels", "Labels"),
}
_SUFFIXES = (".txt", ".TXT")
_NAMED = 4


def recognises(source: str) -> bool:
    """Returns whether the source can be a list file, a folder or a pattern of images."""
    return os.path.isdir(source) or glob.has_magic(source) or source.lower().endswith(".txt")


def read(source: str, image_folder: str | None = None, kpt_shape: Sequence[int] | None = None) -> Annotations:
    """Read the labels of all images of a source.

    Args:
        source: list file, folder or glob pattern.
        image_folder: where relative paths of a list file begin; the list file's folder if None.
        kpt_shape: keypoints, and figures of each, that follow the box in a line.

    Raises:
        YoloflowError: the source lists no image, or a file cannot be read.
    """
    folders: set[str] = set()
    paths, listed_lines, remarks = listed_images(source, image_folder, folders)
    if not paths:
        others = "".join(f"; {remark.detail}" for remark in remarks)
        raise YoloflowError(f"{source}: lists no images{_images_of_labels(source)}{others}")
    labels = map_in_threads(partial(_read_label_file, kpt_shape=kpt_shape), paths, is_python=True)
    annotations = _flatten(source, paths, listed_lines, labels, kpt_shape)
    annotations.problems += remarks
    # Which folders a pattern looks into is glob's own business.
    if os.path.exists(source):
        # A label or an orphan that appears changes its folder, which is one for all images of a folder.
        one_of_each = {os.path.dirname(path): path for path in paths}
        places = {os.path.dirname(label) for path in one_of_each.values() for label in label_paths(path)}
        annotations.consulted = [source, *folders, *one_of_each, *places]
    return annotations


def _images_of_labels(source: str) -> str:
    """Returns the end of a sentence about a source without images: what else is there to be given."""
    for labels in _FOLDERS["images"]:
        head, part, tail = os.path.abspath(source).rpartition(f"{os.sep}{labels}")
        places = (f"{head}{os.sep}{name}{tail}" for name in _FOLDERS)
        if not part or (images := next(filter(os.path.isdir, places), None)) is None:
            continue
        return f": it is a folder of labels, which are found by their images; give {images}"
    if files := coco_files(source):
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        return f": holds {', '.join(files[:_NAMED])}{more}; give {'one' if len(files) > 1 else 'it'}"
    return " (looked for .jpg, .png and the like)"


def listed_images(
    source: str, image_folder: str | None = None, folders: set[str] | None = None
) -> tuple[list[str], list[int], list[Problem]]:
    """Returns the images of a source without their labels: absolute paths, lines, problems; see `read`.

    The folders that were looked into are added to `folders`.
    """
    folders = set() if folders is None else folders
    if os.path.isdir(source):
        files = files_below(source, folders)
    elif os.path.isfile(source):
        base = os.path.abspath(image_folder or os.path.dirname(source) or ".")
        rows = read_list_file(source)
        below = None if image_folder is None else base
        found = find_images(source, [name for name, _ in rows], [base], below)
        folders.update(map(os.path.dirname, found.paths))
        return found.paths, [number for _, number in rows], found.problems
    else:
        files = glob.glob(source, recursive=True)
    paths: list[str] = []
    others: list[str] = []
    for file in files:
        (paths if is_image_name(file) else others).append(os.path.abspath(file))
    remarks = other_files(source, others, lambda path: label_file(path) is not None)
    return sorted(paths), [0] * len(paths), remarks


def label_paths(image_path: str) -> list[str]:
    """Returns the paths where the label of an image may lie, in order of preference."""
    stem = os.path.splitext(image_path)[0]
    stems = [stem]
    last = max(_FOLDERS, key=lambda images: stem.rfind(f"{os.sep}{images}{os.sep}"))
    head, part, tail = stem.rpartition(f"{os.sep}{last}{os.sep}")
    if part:
        stems = [*(f"{head}{os.sep}{labels}{os.sep}{tail}" for labels in _FOLDERS[last]), stem]
    paths = [f"{one}{suffix}" for suffix in _SUFFIXES for one in stems]
    if os.path.basename(stem).isascii():
        return paths
    # macOS writes an accent as a character of its own, other systems with its letter: both look the same.
    split = [os.path.split(path) for path in paths]
    spelled = [
        os.path.join(folder, normalize(form, name)) for form in ("NFC", "NFD") for folder, name in split
    ]
    return list(dict.fromkeys((*paths, *spelled)))


def label_file(image_path: str) -> str | None:
    """Returns the label file of an image; None if there is none."""
    return next(filter(os.path.isfile, label_paths(image_path)), None)


@dataclass(slots=True)
class _LabelFile:
    """A label file: all its figures in a row, the columns and the number of each valid line."""

    path: str
    image_path: str
    values: array[float] = field(default_factory=lambda: array("d"))
    columns: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[int] = field(default_factory=lambda: array("q"))
    problems: list[Problem] = field(default_factory=list)
    num_lines: int = 0
    is_missing: bool = False
    is_dropped: bool = False

    def drop_line(self, number: int, kind: str, detail: str) -> None:
        """Note a line that is left out."""
        self.problems.append(Problem(self.path, number, kind, "drop-box", detail, self.image_path))


def _read_label_file(image_path: str, kpt_shape: Sequence[int] | None) -> _LabelFile:
    candidates = label_paths(image_path)
    for path in candidates:
        try:
            with open(path, "rb", buffering=0) as file:
                return _parse(path, image_path, file.read(), kpt_shape)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise YoloflowError(f"{path}: the label file cannot be read ({error.strerror})") from error
    return _LabelFile(candidates[0], image_path, is_missing=True)


def _parse(path: str, image_path: str, data: bytes, kpt_shape: Sequence[int] | None) -> _LabelFile:
    label = _LabelFile(path, image_path)
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.startswith(UTF16_MARKS):
        data = data.decode("utf-16", errors="replace").encode()
    if b"\0" in data:
        detail = "the label file is no text (UTF-16 without a mark, or binary); save it as UTF-8"
        label.problems.append(Problem(path, None, "label-not-text", "drop-image", detail, image_path))
        label.is_dropped = True
        return label
    rows = [(tokens, number) for number, line in enumerate(data.splitlines(), 1) if (tokens := line.split())]
    label.num_lines = len(rows)
    try:
        # Python reads 1_0 as 10, see `_figure`.
        figures = array("d", [] if b"_" in data else map(float, data.split()))
        columns = [len(tokens) for tokens, _ in rows]
        if len(figures) == sum(columns) and all(is_known_form(count, kpt_shape) for count in set(columns)):
            label.values, label.columns = figures, array("q", columns)
            label.numbers = array("q", [number for _, number in rows])
            return label
    except ValueError:
        pass  # some line is no row of figures: the careful reading below says which
    for tokens, number in rows:
        _parse_line(label, tokens, number, kpt_shape)
    return label


def _figure(token: bytes) -> float:
    # Python reads 1_0 as 10, which nobody means in a label file.
    if b"_" in token:
        raise ValueError(token)
    return float(token)


def _why_no_number(tokens: Sequence[bytes], token: bytes) -> str:
    """Returns the end of a sentence: what to write instead of a text that is no number."""
    if len(tokens) == 1 and any(mark in token for mark in b",;"):
        return "; columns are parted by spaces"
    if b"," in token:
        return "; a fraction is written with a point, and columns are parted by spaces"
    if token is tokens[0]:
        return "; a class is a number, counted from 0 in the order of the names"
    return ""


def _parse_line(label: _LabelFile, tokens: list[bytes], number: int, kpt_shape: Sequence[int] | None) -> None:
    """Parses a line with all checks; slow, for files in which something is wrong."""
    values: list[float] = []
    for column, token in enumerate(tokens, 1):
        try:
            values.append(_figure(token))
        except ValueError:
            kind = "class-not-a-number" if column == 1 else "box-not-a-number"
            shown = token[:40].decode("utf-8", errors="replace")
            hint = _why_no_number(tokens, token)
            label.drop_line(number, kind, f'column {column} is "{shown}", not a number{hint}')
            return
    if not is_known_form(len(values), kpt_shape):
        label.drop_line(number, "wrong-column-count", describe_columns(len(values), kpt_shape))
        return
    label.values.extend(values)
    label.columns.append(len(values))
    label.numbers.append(number)


def _orphans(labels: list[_LabelFile], kpt_shape: Sequence[int] | None) -> list[Problem]:
    """Label files in the folders of the set's labels beside whose images' folder has no such image."""
    image_folders: dict[str, set[str]] = {}
    for label in labels:
        folder = os.path.dirname(label.path)
        image_folders.setdefault(folder, set()).add(os.path.dirname(label.image_path))
    listed = {label.path for label in labels}
    problems = []
    for folder, folders_of_images in image_folders.items():
        if not os.path.isdir(folder):
            continue
        texts = (name for name in os.listdir(folder) if name.lower().endswith(".txt"))
        others = sorted(name for name in texts if os.path.join(folder, name) not in listed)
        places = folders_of_images if others else ()
        names = {name for place in places if os.path.isdir(place) for name in os.listdir(place)}
        stems = {os.path.splitext(name)[0] for name in names if is_image_name(name)}
        unread = {os.path.splitext(name)[0]: name for name in names if not is_of_other_use(name)}
        for name in others:
            stem, path = os.path.splitext(name)[0], os.path.join(folder, name)
            if stem not in stems and _is_label(path, kpt_shape):
                detail = f"there is no image {stem} in {' or '.join(sorted(folders_of_images))}"
                if stem in unread:
                    detail += f"; {unread[stem]} there does not end as an image's name does"
                problems.append(Problem(path, None, "orphan-label", "keep", detail))
    return problems


def _is_label(path: str, kpt_shape: Sequence[int] | None) -> bool:
    """Returns whether a text file has label lines: lists of names and images lie in such folders too."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        label = _parse(path, path, file.read(), kpt_shape)
    return bool(label.numbers) and not label.problems


def _flatten(
    source: str,
    paths: list[str],
    listed_lines: list[int],
    labels: list[_LabelFile],
    kpt_shape: Sequence[int] | None,
) -> Annotations:
    num_images = len(paths)
    values = np.frombuffer(b"".join(label.values.tobytes() for label in labels), np.float64)
    columns = np.frombuffer(b"".join(label.columns.tobytes() for label in labels), np.int64)
    numbers = np.frombuffer(b"".join(label.numbers.tobytes() for label in labels), np.int64)
    box_images = np.repeat(np.arange(num_images), [len(label.columns) for label in labels])
    starts = offsets_of(columns)[:-1]
    raw_classes = values[starts]
    problems = [problem for label in labels for problem in label.problems]
    problems += _orphans(labels, kpt_shape)

    def problem_of(row: int, kind: str, action: str, detail: str) -> Problem:
        label = labels[box_images[row]]
        return Problem(label.path, int(numbers[row]), kind, action, detail, label.image_path)

    # The bound keeps the cast exact; whether a class exists is checked where the classes are known.
    sound = (np.abs(raw_classes) < 2**53) & (np.floor(raw_classes) == raw_classes)
    for row in np.flatnonzero(~sound).tolist():
        detail = f"class {raw_classes[row]:g} is no whole number"
        problems.append(problem_of(row, "class-not-a-number", "drop-box", detail))
    rows = np.flatnonzero(sound)
    lines = Lines(values, starts[rows], columns[rows], kpt_shape)
    for fault in lines.settle():
        if fault.row is None:
            problems.append(Problem(source, None, fault.kind, fault.action, fault.detail))
        else:
            problems.append(problem_of(int(rows[fault.row]), fault.kind, fault.action, fault.detail))
    rows = rows[lines.used_columns > 0]
    boxes, polygon_offsets, points = lines.shapes()
    num_boxes = len(rows)
    return Annotations(
        image_paths=paths,
        listed_in=[source] * num_images,
        listed_lines=np.array(listed_lines, np.int64),
        label_files=[label.path for label in labels],
        image_ids=np.arange(1, num_images + 1),
        has_own_ids=False,
        stated_sizes_hw=np.zeros((num_images, 2), np.int64),
        label_missing=np.array([label.is_missing for label in labels], bool),
        image_dropped=np.array([label.is_dropped for label in labels], bool),
        box_images=box_images[rows],
        box_numbers=numbers[rows],
        boxes_xyxy=boxes,
        is_normalised=np.ones(num_boxes, bool),
        class_ids=raw_classes[rows].astype(np.int64),
        categories=None,
        is_crowd=np.zeros(num_boxes, bool),
        areas=np.full(num_boxes, math.nan),
        polygon_offsets=polygon_offsets,
        polygon_points=points,
        problems=problems,
        num_images_listed=num_images,
        num_boxes_listed=sum(label.num_lines for label in labels),
    )
