"""Files among a set's images whose names are not those of images: named where they can be meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from yoloflow.data.image_files import IMAGE_SUFFIXES, format_by_content
from yoloflow.structures import Problem

# What lies beside images as a rule: labels, lists, notes, archives, caches, videos.
_OF_OTHER_USE = frozenset(
    [
        *(".txt", ".xml", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".names", ".data"),
        *(".md", ".rst", ".html", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".log", ".ini", ".cfg", ".lnk"),
        *(".db", ".cache", ".npy", ".npz", ".pkl", ".pt", ".pth", ".onnx", ".h5", ".parquet"),
        *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".py", ".ipynb", ".sh", ".bat"),
        *(".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"),
    ]
)
_NAMED = 3


def is_image_name(name: str) -> bool:
    """Returns whether a file is an image by its name."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_of_other_use(name: str) -> bool:
    """Returns whether a name is that of a label, a list, or whatever else is no image beside images."""
    return name.startswith(".") or os.path.splitext(name)[1].lower() in _OF_OTHER_USE


def files_below(folder: str, folders: set[str]) -> Iterable[str]:
    """Yields the files in a folder and below; linked folders too, each real folder once.

    The real paths of all folders that are looked into are added to `folders`.
    """
    real = os.path.realpath(folder)
    if real in folders:
        return
    folders.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            # A link that leads to itself is no folder, and no reason to stop.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                yield from files_below(entry.path, folders)
            else:
                yield entry.path


def other_files(source: str, paths: Iterable[str], has_label: Callable[[str], bool]) -> list[Problem]:
    """Counts the files that can be images that were meant: by their content, a label, or an unknown suffix.

    Args:
        source: the set.
        paths: of its files that are no images by their names.
        has_label: whether there is a label for a file.
    """
    found = []
    for path in sorted(paths):
        name = os.path.basename(path)
        if is_of_other_use(name) or not os.path.isfile(path):
            continue
        if form := format_by_content(path):
            found.append(f"{path} ({form} by its content)")
        elif has_label(path):
            found.append(f"{path} (it has a label)")
        elif os.path.splitext(name)[1]:
            found.append(path)
    if not found:
        return []
    more = f", ... and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    files = "1 file is" if len(found) == 1 else f"{len(found)} files are"
    detail = (
        f"{files} not read, as no image has such a name: {', '.join(found[:_NAMED])}{more}; "
        "rename those that are meant"
    )
    return [Problem(source, None, "other-files", "keep", detail)]
