"""Data sets from one format to another, with the account of what was repaired and what is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yoloflow.config.dataset_file import read_dataset_file
from yoloflow.config.document import read_yaml
from yoloflow.data.classes import ClassChoice
from yoloflow.data.index import read_index
from yoloflow.data.problems import PolicySetting, summarise_problems
from yoloflow.data.writers import WRITERS, Target, write_split
from yoloflow.structures import YoloflowError, nearest_names

DATASET_FILE = "data.yaml"


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings for reading the sources, see `read_index`.

    Attributes:
        names: class names to write, in class order; None takes the sources' own.
        nc: number of classes of YOLO labels without names.
        policy: what is done about problems.
        image_folder: where the images are.
    """

    names: Sequence[str] | None = None
    nc: int | None = None
    policy: PolicySetting = "repair"
    image_folder: str | None = None


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
    if to not in WRITERS:
        raise YoloflowError(f"--to {to}: no such format; {nearest_names(to, WRITERS)}")
    reading = reading or Reading()
    folder, lines = Path(out), []
    for part, source, classes in _splits(sources, split, reading):
        index = read_index(source, classes, None, reading.policy, reading.image_folder)
        described = _dataset_file(folder, index.names)
        target = Target(index, folder, part, with_outlines)
        written = write_split(WRITERS[to], target, link)
        content = {part: os.path.relpath(written, folder), **described}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / DATASET_FILE).write_text(text, encoding="utf-8")
        lines.append(f"{part}: {index.source} -> {written}")
        found = summarise_problems(index)
        found += [f"lost: {count} {what}" for what, count in target.lost.items() if count]
        lines += [f"  {line}" for line in found]
    return [*lines, f"written: {folder / DATASET_FILE}"]


def _splits(
    sources: Sequence[str], split: str, reading: Reading
) -> Iterator[tuple[str, list[str], ClassChoice]]:
    """Name, sources and classes of each set to write."""
    described = [source for source in sources if source.endswith((".yaml", ".yml"))]
    if not described:
        yield split, list(sources), ClassChoice(reading.names, None if reading.names else reading.nc)
    elif len(sources) > 1:
        raise YoloflowError(f"{described[0]}: a data set file is converted alone, not with other sources")
    else:
        sets, names, nc = read_dataset_file(Path(described[0]))
        for part, files in sets.items():
            yield part, files, _classes(names, reading.nc or nc, reading.names)


def _classes(names: Sequence[str] | None, nc: int | None, wanted: Sequence[str] | None) -> ClassChoice:
    """The classes of a data set file: mapped to the wanted ones by name, unless these only rename them."""
    if wanted is None or not names:
        return ClassChoice(wanted or names, None if wanted or names else nc)
    shared = set(names) & set(wanted)
    if len(names) == len(wanted) and all(list(names).index(one) == list(wanted).index(one) for one in shared):
        return ClassChoice(wanted)
    return ClassChoice(names, None, wanted, "the classes of --name")


def _dataset_file(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Reads the folder's data set file so far; the class names must be the same."""
    path = folder / DATASET_FILE
    if not path.exists():
        return {"names": list(names)}
    content: dict[str, Any] = read_yaml(path).plain()
    if content.get("names") != list(names):
        raise YoloflowError(
            f"{path}: has other class names than these ({', '.join(names)}); give the same --name for all "
            "splits, or another folder"
        )
    return content
