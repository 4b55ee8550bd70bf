"""The target of a conversion: image files with unique names, and the account of what is lost."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from yoloflow.data.threads import map_in_threads
from yoloflow.structures import DatasetIndex, YoloflowError

# Control characters, and what Python makes of bytes that are no UTF-8.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\udc80-\udcff]")


def _escaped(match: re.Match[str]) -> str:
    """Returns a character of a file name as %-escapes of its bytes."""
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


@dataclass(slots=True)
class Target:
    """A split of a data set to write.

    Attributes:
        index: what is written.
        folder: of the whole data set.
        split: name of this part of it, such as "train".
        with_outlines: write outlines and masks where the format has them.
        lost: what the format cannot hold, and how often.
    """

    index: DatasetIndex
    folder: Path
    split: str
    with_outlines: bool = True
    lost: Counter[str] = field(default_factory=Counter)

    def names(self) -> list[str]:
        """Returns a name for each image, UTF-8 in a line; equal ones (but for the suffix) are numbered."""
        taken: set[str] = set()
        names = []
        for path in self.index.image_paths.tolist():
            own = os.path.basename(path)
            safe = _UNSAFE.sub(_escaped, own)
            stem, suffix = os.path.splitext(safe)
            self.lost["images got another name, because theirs is no UTF-8 or no line"] += safe != own
            name, number = stem, 1
            while name.lower() in taken:
                number += 1
                name = f"{stem}_{number}"
            taken.add(name.lower())
            names.append(name + suffix)
            self.lost["images got another name, because two had the same"] += number > 1
        return names


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer of a format.

    Attributes:
        write: (target, file name of each image) -> the file or folder to read the split from again.
        places: (folder, split) -> the folder of the images, then the files and folders of the labels.
    """

    write: Callable[[Target, list[str]], Path]
    places: Callable[[Path, str], tuple[Path, ...]]


def check_target(writer: Writer, target: Target) -> None:
    """Refuse a split that would be written over another.

    Raises:
        YoloflowError: the split is there already.
    """
    for place in writer.places(target.folder, target.split):
        if place.exists():
            raise YoloflowError(f"{place}: exists already; choose another folder or split, or remove it")


def write_split(writer: Writer, target: Target, link: bool) -> Path:
    """Write one split that `check_target` let pass, its images first.

    Args:
        writer: of the format.
        target: what and where.
        link: make symbolic links to the images instead of copying them.

    Returns:
        what a recipe names as the set.

    Raises:
        YoloflowError: a file cannot be written.
    """
    image_folder, *_ = writer.places(target.folder, target.split)
    names = target.names()
    sources = target.index.image_paths.tolist()
    try:
        image_folder.mkdir(parents=True)
        map_in_threads(
            lambda pair: _place(pair[0], image_folder / pair[1], link),
            list(zip(sources, names, strict=True)),
        )
        return writer.write(target, names)
    except OSError as error:
        raise YoloflowError(f"{error.filename}: cannot be written ({error.strerror})") from error


def _place(source: str, destination: Path, link: bool) -> None:
    if link:
        destination.symlink_to(source)
    else:
        shutil.copyfile(source, destination)
