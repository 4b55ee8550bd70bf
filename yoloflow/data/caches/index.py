"""A cache of indexed data sets, valid as long as nothing that they depend on changes."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from yoloflow.data.caches.files import digest, file_identities
from yoloflow.files import default_cache_folder, write_atomically
from yoloflow.structures import DatasetIndex, Problem, Uint8Array

logger = logging.getLogger("yoloflow")

# Time marks of files are this coarse at worst; what changed so shortly before it was read could have changed
# once more without leaving a trace.
_TICK_NS = 2_000_000_000
_MARK_BYTES = 32

Read = Callable[[], tuple[DatasetIndex, list[str] | None]]
"""Reads a data set; also gives the files and folders that the outcome depends on, None if nobody can tell."""


def cached_index(words: Iterable[str], read: Read, folder: Path | None = None) -> DatasetIndex:
    """Returns the index that `read` gives, from a file if it was stored before and nothing has changed since.

    The file's name is made of the code that reads, of the libraries' versions and of `words`; inside stands
    the identity (size, times of change, inode) of every file and folder that the outcome depends on. It holds
    a checksum, plain arrays and JSON, appears whole or not at all, and a damaged one is ignored and replaced.

    Args:
        words: all that decides the outcome beside the files.
        read: reads the data set.
        folder: of the files; by default $XDG_CACHE_HOME/yoloflow or ~/.cache/yoloflow.
    """
    name = digest(_code_digest(), np.__version__, cv2.__version__, PIL.__version__, *words)
    path = (folder or default_cache_folder()) / "indexes" / f"{name}.index"
    found = _load(path)
    if found is not None:
        return found
    begun = time.time_ns()
    index, tracked = read()
    if tracked is not None:
        _store(path, index, sorted(set(tracked)), begun)
    return index


@cache
def _code_digest() -> str:
    """Returns a name for the code that reads data sets: another version may read another outcome."""
    room = Path(__file__).parents[1]
    sources = [*room.glob("*.py"), *room.glob("formats/*.py"), room.parent / "structures.py", Path(__file__)]
    return digest(*(path.read_bytes() for path in sorted(sources)))


def _load(path: Path) -> DatasetIndex | None:
    """Returns the stored index if it is still true; None if there is none, or none that can be used."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    mark, content = content[:_MARK_BYTES], content[_MARK_BYTES:]
    if mark != digest(content).encode():
        logger.warning("%s: is damaged; the data set is read again", path)
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if not np.array_equal(arrays["identities"], file_identities(_texts(arrays["tracked"]))):
            return None
        stored = {name: arrays[name] for name in arrays.files}
    return _index_of(stored, json.loads(stored.pop("rest").tobytes()))


def _store(path: Path, index: DatasetIndex, tracked: list[str], begun: int) -> None:
    identities = file_identities(tracked)
    if identities[:, 1:3].max(initial=0) > begun - _TICK_NS:
        logger.debug("%s: not stored, the data changed only just now", path)
        return
    arrays, rest = _parts_of(index)
    content = io.BytesIO()
    np.savez(
        content,
        tracked=_bytes(tracked),
        identities=identities,
        rest=np.frombuffer(json.dumps(rest).encode(), np.uint8),
        **arrays,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, digest(content.getvalue()).encode() + content.getvalue())
    except OSError as error:
        logger.warning("%s: cannot be written (%s); the data set will be read again", path, error.strerror)


def _parts_of(index: DatasetIndex) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the arrays of an index, and all else as JSON-able data."""
    values = {one.name: getattr(index, one.name) for one in fields(DatasetIndex)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    # Texts of fixed width would take four bytes for each character of the longest path.
    arrays["image_paths"] = _bytes(values["image_paths"].tolist())
    rest = {name: value for name, value in values.items() if name not in arrays}
    rest["problems"] = [asdict(problem) for problem in index.problems]
    return arrays, rest


def _index_of(arrays: dict[str, Any], rest: dict[str, Any]) -> DatasetIndex:
    values = {name: array for name, array in arrays.items() if name not in ("tracked", "identities")}
    values["image_paths"] = np.array(_texts(arrays["image_paths"]), np.str_)
    rest["problems"] = [Problem(**problem) for problem in rest["problems"]]
    for name in ("polygon_parts", "masks", "given_ids"):
        rest[name] = {int(number): value for number, value in rest[name].items()}
    return DatasetIndex(**values, **rest)


def _bytes(texts: list[str]) -> Uint8Array:
    """Texts without zeros, as they are never in paths, in one array."""
    return np.frombuffer("\0".join(texts).encode("utf-8", "surrogateescape"), np.uint8)


def _texts(data: Uint8Array) -> list[str]:
    joined = data.tobytes().decode("utf-8", "surrogateescape")
    return joined.split("\0") if joined else []
