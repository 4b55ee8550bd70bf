"""Data sets written anew, in another format or in parts, with the account of what was repaired."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from yoloflow.config.dataset_file import DATASET_FILE_KEYS, DATASET_FILE_SUFFIXES, read_dataset_file
from yoloflow.config.document import read_yaml
from yoloflow.data.classes import ClassChoice
from yoloflow.data.formats.image_search import check_not_shared
from yoloflow.data.index import format_of, read_index
from yoloflow.data.problems import PolicySetting, summarise_problems
from yoloflow.data.split import split_images, take_images
from yoloflow.data.statistics import describe_objects
from yoloflow.data.writers import WRITERS, Target, Writer, check_target, write_split
from yoloflow.structures import DatasetIndex, YoloflowError, nearest_names

DATASET_FILE = "data.yaml"
_PLAIN_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings for reading the sources, see `read_index`.

    Attributes:
        names: class names to write, in class order; None takes the sources' own.
        nc: number of classes of YOLO labels without names.
        policy: what is done about problems.
        image_folder: where the images are; or by split.
        kpt_shape: keypoints, and figures of each, that follow the box in a line of YOLO labels.
    """

    names: Sequence[str] | None = None
    nc: int | None = None
    policy: PolicySetting = "repair"
    image_folder: str | Mapping[str, str] | None = None
    kpt_shape: Sequence[int] | None = None


def convert(
    sources: Sequence[str],
    to: str,
    out: str | Path,
    split: str = "train",
    *,
    reading: Reading | None = None,
    link: bool = False,
    with_outlines: bool = True,
) -> list[str]:
    """Write data sets in another format, and a data.yaml that names them for `data=`.

    Args:
        sources: whatever `read_index` reads, joined; or one data set file (.yaml), each of whose sets becomes
            a split.
        to: "coco", "voc" or "yolo".
        out: folder; further splits can be added to it later.
        split: name of the set that the sources become.
        reading: how they are read.
        link: make symbolic links to the images instead of copying them.
        with_outlines: write outlines and masks where the format has them, else boxes only.

    Returns:
        lines for people: the account of each set, then what the format could not hold.

    Raises:
        YoloflowError: the sources cannot be read, or the splits cannot be written.
    """
    reading, writer = reading or Reading(), _writer(to)
    folder, lines = Path(out), []
    targets: list[Target] = []
    # All that can be refused is refused before anything is written.
    for part, source, classes, how in _splits(sources, split, reading):
        _check_place(source, writer.places(folder, part))
        # The classes of the first set are those of all, as in a training.
        known = classes.wanted or (targets[0].index.names if targets else None)
        targets.append(
            Target(_read(source, replace(classes, wanted=known), how, part), folder, part, with_outlines)
        )
        check_target(writer, targets[-1])
        _check_images(targets, how)
        _dataset_file(folder, targets[-1])
    for target in targets:
        written, lost = _write(target, writer, link)
        lines += [f"{target.split}: {target.index.source} -> {written}"]
        lines += [f"  {line}" for line in (*summarise_problems(target.index), *lost)]
    return [*lines, f"written: {folder / DATASET_FILE}"]


def split_data(
    sources: Sequence[str],
    out: str | Path,
    shares: Mapping[str, float],
    to: str | None = None,
    *,
    seed: int = 0,
    reading: Reading | None = None,
    link: bool = False,
) -> list[str]:
    """Write data sets as parts of given shares, see `split_images`, and a data.yaml that names them.

    Args:
        sources: as for `convert`; the sets of a data set file are joined.
        out: folder for all of it, without a data set.
        shares: of each part, by its name; they sum to 1.
        to: "coco", "voc" or "yolo"; None for the format of the sources (COCO, which holds all, if they have
            several).
        seed: other seeds give other parts.
        reading: how they are read.
        link: make symbolic links to the images instead of copying them.

    Returns:
        lines for people: the account of the sources, then the parts with their objects by class.

    Raises:
        YoloflowError: the sources cannot be read, are too few images, or the parts cannot be written.
    """
    reading = reading or Reading()
    folder = Path(out)
    sets = list(_splits(sources, "train", reading))
    files = [file for _, found, *_ in sets for file in found]
    writer = _writer(to or _format_of(files))
    places = [folder / DATASET_FILE, *(place for part in shares for place in writer.places(folder, part))]
    _check_place(files, places)
    if there := next((place for place in places if place.exists()), None):
        raise YoloflowError(f"{there}: exists already; choose another --out, or remove it")
    if not isinstance(reading.image_folder, str | None):
        raise YoloflowError("image_folder: the sources of a split have one folder, not one for each part")
    index = _read(files, sets[0][2], sets[0][3], decode=True)
    lines = [f"{sources[0]}: its set {part} is split anew too" for part, *_ in sets[1:]]
    lines += [index.source, *(f"  {line}" for line in summarise_problems(index))]
    for part, images in zip(shares, split_images(index, list(shares.values()), seed), strict=True):
        target = Target(take_images(index, images, part)[0], folder, part)
        written, lost = _write(target, writer, link)
        objects = np.bincount(target.index.classes[~target.index.is_crowd], minlength=len(index.names))
        counts = describe_objects(zip(index.names, objects.tolist(), strict=True))
        lines.append(f"{part}: {len(images)} images, {counts} -> {written}")
        lines += [f"  {line}" for line in lost]
    return [*lines, f"written: {folder / DATASET_FILE}"]


def _writer(to: str) -> Writer:
    if to not in WRITERS:
        raise YoloflowError(f"--to {to}: no such format; {nearest_names(to, WRITERS)}")
    return WRITERS[to]


def _format_of(sources: Sequence[str]) -> str:
    """The format to write sources in: their own; COCO if they have several."""
    found = {"voc" if name == "png" else name for name in map(format_of, sources)}
    return found.pop() if len(found) == 1 else "coco"


def _check_place(sources: Sequence[str], places: Sequence[Path]) -> None:
    """Refuses what would be written into a source and read with it the next time.

    Args:
        sources: folders and patterns of all that is below them; other sources name each file.
        places: files and folders to write.
    """
    for source in sources:
        root, stars, _ = os.path.expanduser(source).partition("**")
        within = next((one for one in places if Path(root).resolve() in one.resolve().parents), None)
        if within is not None and (stars or os.path.isdir(root)):
            raise YoloflowError(f"{within}: would lie within the source {source}; choose another --out")


def _check_images(targets: Sequence[Target], how: Reading) -> None:
    """Refuses a set whose images are taken from the folder of those before, though it has its own."""
    *before, last = [target.index for target in targets]
    for index in before if isinstance(how.image_folder, str) else ():
        paths = index.image_paths.tolist(), last.image_paths.tolist()
        check_not_shared(last.source, str(how.image_folder), *paths)


def _write(target: Target, writer: Writer, link: bool) -> tuple[Path, list[str]]:
    """Writes a part and its line in the data set file; returns its place, and lines on what is lost."""
    described = _dataset_file(target.folder, target)
    written = write_split(writer, target, link)
    content = {target.split: os.path.relpath(written, target.folder), **described}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (target.folder / DATASET_FILE).write_text(text, encoding="utf-8")
    return written, [f"lost: {count} {what}" for what, count in target.lost.items() if count]


def _read(
    files: Sequence[str], classes: ClassChoice, how: Reading, part: str = "", *, decode: bool = False
) -> DatasetIndex:
    places = how.image_folder
    place = places.get(part) if isinstance(places, Mapping) else places
    return read_index(
        *(files, classes, None, how.policy, place),
        is_own_folder=isinstance(places, Mapping),
        kpt_shape=how.kpt_shape,
        decode=decode,
    )


def _splits(
    sources: Sequence[str], split: str, reading: Reading
) -> Iterator[tuple[str, list[str], ClassChoice, Reading]]:
    """Name, sources and classes of each set to write, and how it is read."""
    described = [source for source in sources if source.lower().endswith(DATASET_FILE_SUFFIXES)]
    if not _PLAIN_NAME.fullmatch(split) or split in DATASET_FILE_KEYS:
        keys = ", ".join(DATASET_FILE_KEYS)
        raise YoloflowError(
            f"--split {split}: must be a plain name such as val (letters, digits, - _ .), and none of {keys}"
        )
    if not described:
        yield split, list(sources), ClassChoice(reading.names, reading.nc), reading
    elif len(sources) > 1:
        raise YoloflowError(f"{described[0]}: a data set file is converted alone, not with other sources")
    else:
        file = read_dataset_file(Path(described[0]))
        classes = _classes(file.names, reading.nc or file.nc, reading.names)
        for part, files in file.sets.items():
            yield part, files, classes, replace(reading, kpt_shape=reading.kpt_shape or file.kpt_shape)


def _classes(names: Sequence[str] | None, nc: int | None, wanted: Sequence[str] | None) -> ClassChoice:
    """The classes of a data set file: mapped to the wanted ones by name, unless these only rename them."""
    if wanted is None or not names:
        return ClassChoice(wanted or names, None if wanted or names else nc)
    shared = set(names) & set(wanted)
    if len(names) == len(wanted) and all(list(names).index(one) == list(wanted).index(one) for one in shared):
        return ClassChoice(wanted)
    return ClassChoice(names, None, wanted, "the classes of --name")


def _dataset_file(folder: Path, target: Target) -> dict[str, Any]:
    """Reads the folder's data set file so far; it has the same class names, and the set is new to it."""
    path, names = folder / DATASET_FILE, target.index.names
    if not path.exists():
        return {"names": list(names)}
    content: dict[str, Any] = read_yaml(path).plain()
    if content.get("names") != list(names):
        raise YoloflowError(
            f"{path}: has other class names than these ({', '.join(names)}); give the same --name for all "
            "splits, or another folder"
        )
    if taken := next((key for key in (target.split, "path") if key in content), None):
        raise YoloflowError(f"{path}: has `{taken}` already; choose another folder or split, or remove it")
    return content
