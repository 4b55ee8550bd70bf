"""Data sets from one format to another, with the account of what was repaired and what is lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from yoloflow.config.dataset_file import DATASET_FILE_SUFFIXES, read_dataset_file
from yoloflow.config.document import read_yaml
from yoloflow.data.classes import ClassChoice
from yoloflow.data.index import read_index
from yoloflow.data.problems import PolicySetting, summarise_problems
from yoloflow.data.writers import WRITERS, Target, check_target, write_split
from yoloflow.structures import DatasetIndex, YoloflowError, nearest_names

DATASET_FILE = "data.yaml"


@dataclass(frozen=True, slots=True)
class Reading:
    """Settings for reading the sources, see `read_index`.

    Attributes:
        names: class names in class order; None takes the sources' own.
        nc: number of classes of YOLO labels without names.
        policy: what is done about problems.
        image_folder: where the images are.
        kpt_shape: keypoints, and figures of each, that follow the box in a line of YOLO labels.
    """

    names: Sequence[str] | None = None
    nc: int | None = None
    policy: PolicySetting = "repair"
    image_folder: str | None = None
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
    if to not in WRITERS:
        raise YoloflowError(f"--to {to}: no such format; {nearest_names(to, WRITERS)}")
    reading = reading or Reading()
    folder, lines = Path(out), []
    # All that can be refused is refused before anything is written.
    targets = [
        Target(index, folder, part, with_outlines) for part, index in _read_splits(sources, split, reading)
    ]
    for target in targets:
        check_target(WRITERS[to], target)
        _dataset_file(folder, target.index.names)
    for target in targets:
        described = _dataset_file(folder, target.index.names)
        written = write_split(WRITERS[to], target, link)
        content = {target.split: os.path.relpath(written, folder), **described}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / DATASET_FILE).write_text(text, encoding="utf-8")
        lines.append(f"{target.split}: {target.index.source} -> {written}")
        found = summarise_problems(target.index)
        found += [f"lost: {count} {what}" for what, count in target.lost.items() if count]
        lines += [f"  {line}" for line in found]
    return [*lines, f"written: {folder / DATASET_FILE}"]


def _read_splits(sources: Sequence[str], split: str, reading: Reading) -> list[tuple[str, DatasetIndex]]:
    """Returns name and index of each set to write."""
    described = [source for source in sources if source.endswith(DATASET_FILE_SUFFIXES)]
    if not described:
        return [(split, _read(sources, reading))]
    if len(sources) > 1:
        raise YoloflowError(f"{described[0]}: a data set file is converted alone, not with other sources")
    file = read_dataset_file(Path(described[0]))
    reading = replace(
        reading,
        names=reading.names or file.names,
        nc=reading.nc or file.nc,
        kpt_shape=reading.kpt_shape or file.kpt_shape,
    )
    splits: list[tuple[str, DatasetIndex]] = []
    for part, files in file.sets.items():
        # The classes of the first set are those of all, as in a training.
        splits.append((part, _read(files, reading, splits[0][1].names if splits else None)))
    return splits


def _read(sources: Sequence[str], reading: Reading, classes: Sequence[str] | None = None) -> DatasetIndex:
    return read_index(
        sources,
        ClassChoice(reading.names, None if reading.names else reading.nc, classes),
        None,
        reading.policy,
        reading.image_folder,
        kpt_shape=reading.kpt_shape,
    )


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
