"""Inspection of a source's images, before its boxes: usable ones, sizes, duplicates, leaks."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.caches.files import digest
from yoloflow.data.decoder_messages import map_with_messages
from yoloflow.data.formats.annotations import Annotations
from yoloflow.data.image_files import SUFFIXES_OF_FORMAT, ImageHeader, decode_image, inspect_image
from yoloflow.data.orientation import size_problems, turn_raw_annotations
from yoloflow.data.problems import Policy
from yoloflow.data.threads import Progress, map_in_threads
from yoloflow.structures import DatasetIndex, Int64Array, Problem, YoloflowError

_DARK = 16  # 12-bit samples in a file of 16 bits reach 255 / 16


@dataclass(slots=True)
class InspectedImages:
    """The I listed images and their properties.

    Attributes:
        sizes_hw: (I, 2) int64 height and width, 0 where the image is not used.
        used: (I,) bool.
        digests: (I,) text that names the pixels; None if nothing was decoded.
        problems: all problems so far, of files and of labels; the first that drops an image says why.
        num_lines_dropped: faulty label lines that went with their image instead of alone.
    """

    sizes_hw: Int64Array
    used: NDArray[np.bool_]
    digests: NDArray[np.str_] | None = None
    problems: list[Problem] = field(default_factory=list)
    num_lines_dropped: int = 0

    def settle(self, annotations: Annotations, problems: Iterable[Problem], policy: Policy) -> None:
        """Take up problems, each with the policy's action; the first that drops an image stands for it."""
        number_of_path = {
            path: image for image, path in enumerate(annotations.image_paths) if self.used[image]
        }
        for problem in problems:
            image = number_of_path.get(problem.image or "")
            if policy.repair(problem.kind) == "drop-image" != problem.action and image is not None:
                if not self.used[image]:
                    if problem.action == "drop-box":
                        self.problems.append(problem)
                    continue
                self.num_lines_dropped += problem.action == "drop-box"
                problem = replace(problem, action="drop-image")
            if problem.action == "drop-image" and image is not None:
                self.used[image] = False
            self.problems.append(problem)


def inspect_images(
    annotations: Annotations,
    policy: Policy,
    *,
    decode: bool = False,
    held_out: DatasetIndex | None = None,
    progress: Progress | None = None,
) -> InspectedImages:
    """Look at all images of a source.

    Args:
        annotations: what the source says.
        policy: what is done about problems.
        decode: decode every image in full, instead of reading its header only.
        held_out: the validation set, whose images should not be here.
        progress: told how many are decoded.
    """
    inspected = InspectedImages(
        np.zeros((len(annotations.image_paths), 2), np.int64), ~annotations.image_dropped
    )
    inspected.problems += [p for p in annotations.problems if p.action == "drop-image"]
    first_entries = _first_entries(annotations, inspected)
    inspected.problems += _listed_twice(annotations, inspected, first_entries)
    facts = _read_headers(annotations, inspected)
    headers = {image: facts[first] for image, first in enumerate(first_entries) if first in facts}
    raw_frames = turn_raw_annotations(annotations, headers)
    sizes = size_problems(annotations, headers, raw_frames)
    _join_entries(annotations, first_entries)
    inspected.settle(annotations, [p for p in annotations.problems if p.action != "drop-image"], policy)
    oddities = [odd for image, fact in facts.items() for odd in _file_problems(annotations, image, fact)]
    inspected.settle(annotations, [*oddities, *raw_frames.values(), *sizes], policy)
    if decode:
        inspected.settle(annotations, _read_pixels(annotations, inspected, progress), policy)
        inspected.settle(annotations, _equal_images(annotations, inspected), policy)
    if held_out is not None:
        chosen = np.flatnonzero(inspected.used)
        paths = [annotations.image_paths[image] for image in chosen]
        digests = None if inspected.digests is None else inspected.digests[chosen].tolist()
        inspected.settle(annotations, _leaks(paths, digests, held_out), policy)
    return inspected


def find_leaks(index: DatasetIndex, held_out: DatasetIndex) -> list[Problem]:
    """Images that another set has too: the same file or, where both were decoded, the same pixels."""
    digests = None if index.digests is None else index.digests.tolist()
    return list(_leaks(index.image_paths.tolist(), digests, held_out))


def _first_entries(annotations: Annotations, inspected: InspectedImages) -> list[int]:
    """Returns for each image the first one with its path, of those that are used."""
    first: dict[str, int] = {}
    entries = zip(annotations.image_paths, inspected.used.tolist(), strict=True)
    return [first.setdefault(path, image) if used else image for image, (path, used) in enumerate(entries)]


def _listed_twice(
    annotations: Annotations, inspected: InspectedImages, first_entries: Sequence[int]
) -> Iterator[Problem]:
    for image, first in enumerate(first_entries):
        if image != first:
            inspected.used[image] = False
            file, line = annotations.place_of_image(image)
            path = annotations.image_paths[image]
            yield Problem(file, line, "duplicate-image", "drop-image", f"{path} is listed already", path)


def _join_entries(annotations: Annotations, first_entries: Sequence[int]) -> None:
    """Gives the boxes of further entries of an image to the first; a label file read twice counts once."""
    target = np.arange(len(first_entries))
    for image, first in enumerate(first_entries):
        label = annotations.label_files[image]
        if label != annotations.label_files[first] or label.endswith(".json"):
            target[image] = first
    annotations.box_entries = annotations.box_images
    annotations.box_images = target[annotations.box_images]


def _read_headers(annotations: Annotations, inspected: InspectedImages) -> dict[int, ImageHeader]:
    """Returns sizes of all images, in place; facts of those that can be used."""
    chosen = np.flatnonzero(inspected.used).tolist()
    paths = annotations.image_paths
    sound: dict[int, ImageHeader] = {}
    for image, fact in zip(chosen, _inspect_all([paths[i] for i in chosen]), strict=True):
        if fact.problem_kind is None:
            inspected.sizes_hw[image] = fact.height, fact.width
            sound[image] = fact
            continue
        inspected.used[image] = False
        is_there = fact.problem_kind != "missing-image"
        file, line = (paths[image], None) if is_there else annotations.place_of_image(image)
        inspected.problems.append(
            Problem(file, line, fact.problem_kind, "drop-image", fact.detail, paths[image])
        )
    return sound


def _inspect_all(paths: Sequence[str]) -> list[ImageHeader]:
    """Returns the header of each image with Pillow's warnings, which do not name the file themselves."""
    heard = threading.local()
    show_others = warnings.showwarning

    def hear(message: Warning | str, *place: Any, **more: Any) -> None:
        if hasattr(heard, "texts"):
            heard.texts.append(str(message))
        else:
            show_others(message, *place, **more)

    def inspect(path: str) -> ImageHeader:
        heard.texts = []
        header = inspect_image(path)
        return replace(header, warnings=tuple(dict.fromkeys(heard.texts))) if heard.texts else header

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = hear
        return map_in_threads(inspect, paths, is_python=True)


def _file_problems(annotations: Annotations, image: int, fact: ImageHeader) -> Iterator[Problem]:
    path = annotations.image_paths[image]
    for text in fact.warnings:
        yield _kept(path, "odd-image-file", text)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES_OF_FORMAT.get(fact.file_format, (suffix,)):
        yield _kept(path, "wrong-suffix", f"is a {fact.file_format} file by its content")
    if fact.orientation != 1:
        size = f"{fact.width} x {fact.height} (width x height)"
        yield _kept(path, "exif-rotated", f"is turned or mirrored by its EXIF, to {size}")
    if annotations.label_missing[image]:
        label = annotations.label_files[image]
        detail = f"no {label}; taken as background (an empty label file would say so)"
        yield _kept(path, "missing-label", detail)


def _kept(path: str, kind: str, detail: str) -> Problem:
    """Returns a problem of an image file that is used all the same."""
    return Problem(path, None, kind, "keep", detail, path)


def _read_pixels(
    annotations: Annotations, inspected: InspectedImages, progress: Progress | None
) -> list[Problem]:
    """Digests of all images that can be decoded, in place; problems of those that cannot."""
    chosen = np.flatnonzero(inspected.used).tolist()
    paths = [annotations.image_paths[image] for image in chosen]
    sizes = [tuple(inspected.sizes_hw[image].tolist()) for image in chosen]
    outcomes = map_with_messages(_digest_or_fault, list(zip(paths, sizes, strict=True)), progress)
    digests = [""] * len(inspected.used)
    problems = []
    for image, path, ((name, kind, fault), messages) in zip(chosen, paths, outcomes, strict=True):
        digests[image] = name
        if kind:
            problems.append(_kept(path, kind, fault))
        elif messages:
            problems.append(_kept(path, "odd-image-file", f"the decoder says: {'; '.join(messages)}"))
    inspected.digests = np.array(digests, np.str_)
    return problems


def _digest_or_fault(entry: tuple[str, tuple[int, ...]]) -> tuple[str, str, str]:
    """Returns a name for the pixels, empty where there are none, and kind and detail of what is wrong."""
    path, size_hw = entry
    try:
        image = decode_image(path)
    except YoloflowError as error:
        return "", "damaged-image", str(error).removeprefix(f"{path}: ")
    if image.shape[:2] != size_hw:
        decoded = f"decodes to {image.shape[1]} x {image.shape[0]} (width x height)"
        return "", "damaged-image", f"{decoded}, its header says {size_hw[1]} x {size_hw[0]}"
    brightest = int(image.max())
    is_dark, detail = brightest <= _DARK, f"its brightest sample is {brightest} of 255"
    return digest(str(image.shape), image.tobytes()), "dark-image" if is_dark else "", detail


def _equal_images(annotations: Annotations, inspected: InspectedImages) -> Iterator[Problem]:
    assert inspected.digests is not None
    first: dict[str, str] = {}
    for image in np.flatnonzero(inspected.used).tolist():
        path = annotations.image_paths[image]
        other = first.setdefault(str(inspected.digests[image]), path)
        if other != path:
            yield _kept(path, "same-picture", f"has the pixels of {other}")


def _leaks(paths: Sequence[str], digests: Sequence[str] | None, held_out: DatasetIndex) -> Iterator[Problem]:
    others = held_out.image_paths.tolist()
    by_path = set(others)
    by_digest = {} if held_out.digests is None else dict(zip(held_out.digests.tolist(), others, strict=True))
    for path, name in zip(paths, digests or [""] * len(paths), strict=True):
        if path in by_path:
            yield _kept(path, "leaked-image", "is in the validation set too")
        elif name in by_digest:
            yield _kept(path, "leaked-image", f"has the pixels of {by_digest[name]} in the validation set")
