"""Places of the sets of a data set file: as it says or, if it was written for another place, beside it."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from yoloflow.config.document import Located
from yoloflow.files import require_local
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

# Folders that each set has one of: the name alone does not say which set is meant.
_SHARED_NAMES = ("images", "labels", "jpegimages", "annotations")
_UP = ".."


def locate_sets(
    sets: Mapping[str, Located], path: Located | None, file: Path, optional: str = ""
) -> dict[str, Located]:
    """Returns the sets of a data set file with absolute paths, or paths from where the program runs.

    A path begins at `path`, else at the file's folder. What is not there is looked for beside the file under
    the last parts of its name, since exporters write paths of other machines and folders. Paths of the form
    `../train/images` are looked for as `train/images` beside the file first: so they are exported, and in the
    parent folder may lie another set. Every set that is taken from beside the file is said.

    Args:
        sets: paths, or lists of paths, by key.
        path: value of the file's key `path`.
        file: the data set file.
        optional: a set that is left out where nothing of it is there; the log says so.

    Raises:
        YoloflowError: a value is no path, or the file would mix its sets with those of another folder.
    """
    root = _root(path, file)
    entries = [_Entry(key, leaf, root, file.parent) for key, node in sets.items() for leaf in _leaves(node)]
    if not any(_exists(entry.chosen) for entry in entries if entry.key == optional):
        for entry in (entry for entry in entries if entry.key == optional):
            logger.warning("%s: %s is not there, left out", entry.where, os.path.abspath(entry.literal))
        entries = [entry for entry in entries if entry.key != optional]
        sets = {key: node for key, node in sets.items() if key != optional}
    if any(entry.is_moved for entry in entries):
        _check_not_mixed(entries, file.parent)
    for entry in entries:
        entry.tell()
    located = iter(entries)
    return {key: _replaced(node, located) for key, node in sets.items()}


def _root(path: Located | None, file: Path) -> str:
    """Returns the value of the key `path`; "" where there is none."""
    if path is None:
        return ""
    if isinstance(path.value, bool) or not isinstance(path.value, str | int):
        raise YoloflowError(f"{path.place}: path: a folder is expected, not {path.plain()!r}")
    return str(path.value)


def _leaves(node: Located) -> Iterator[Located]:
    if isinstance(node.value, list):
        for child in node.value:
            yield from _leaves(child)
    elif isinstance(node.value, str) and node.value:
        require_local(node.value, f"{node.place}: {node.value}")
        yield node
    else:
        raise YoloflowError(f"{node.place}: a path, or a list of paths, is expected")


def _replaced(node: Located, located: Iterator[_Entry]) -> Located:
    if isinstance(node.value, list):
        return Located([_replaced(child, located) for child in node.value], node.place)
    return Located(next(located).chosen, node.place)


@dataclass(slots=True)
class _Entry:
    """One path of a data set file.

    Attributes:
        key: the set; node: its value.
        root: value of `path`; folder: of the data set file.
        literal: where it leads as written.
        beside: what lies beside the file under the last parts of its name; None where nothing does.
        is_moved: whether that is taken.
    """

    key: str
    node: Located
    root: str
    folder: Path
    literal: str = ""
    beside: str | None = None
    is_moved: bool = False

    def __post_init__(self) -> None:
        text = str(self.node.value)
        spellings = [text, text.replace("\\", "/")]
        paths = [_join(self.folder, self.root, spelling) for spelling in spellings]
        self.literal = next((path for path in paths if _exists(path)), paths[-1])
        is_there = _exists(self.literal)
        leads_up = spellings[-1].startswith(_UP) and os.path.normpath(self.root) == os.curdir
        if is_there and not leads_up:
            return
        self.beside = _below(self.folder, _parts(text), is_whole=True)
        if self.beside is None and not is_there:
            parts = _parts(text) if _is_absolute(text) else [*_parts(self.root), *_parts(text)]
            tails = (parts[start:] for start in range(len(parts)))
            self.beside = next(filter(None, (_below(self.folder, tail) for tail in tails)), None)
        self.is_moved = self.beside not in (None, self.literal)

    @property
    def chosen(self) -> str:
        """The path that is taken."""
        return self.beside if self.is_moved and self.beside is not None else self.literal

    @property
    def where(self) -> str:
        """The place of the entry and what it says."""
        return f"{self.node.place}: {self.key}: {self.node.value}"

    def tell(self) -> None:
        """Logs what differs from what is written."""
        where, literal = self.where, os.path.abspath(self.literal)
        if self.is_moved:
            why = "although there is" if _exists(self.literal) else "there is no"
            logger.warning("%s: taken from %s beside this file; %s %s", where, self.beside, why, literal)
        elif not _exists(self.literal):
            hint = f"set `path:` to the folder where the sets lie, or correct `{self.key}:`"
            if not self.literal.isprintable():
                hint = r"within double quotes \t is a tab: write / or single quotes"
            logger.warning("%s: there is no %s, nor the like beside this file; %s", where, literal, hint)


def _check_not_mixed(entries: Sequence[_Entry], folder: Path) -> None:
    """Refuses sets of two folders in one file, and one folder for two sets."""
    taken: dict[str, _Entry] = {}
    for entry in entries:
        path, here = os.path.abspath(entry.chosen), os.path.abspath(folder)
        is_elsewhere = os.path.commonpath([here, path]) != here and _exists(path)
        if is_elsewhere and not _is_absolute(str(entry.node.value)):
            raise YoloflowError(
                f"{entry.where}: leads to {path}, but other sets of this file lie beside it in {here}; "
                "put this one there too, or write `path:` and paths below it"
            )
        other = taken.setdefault(entry.chosen, entry)
        if other.node.value != entry.node.value and (other.is_moved or entry.is_moved):
            raise YoloflowError(
                f"{entry.where}: there is only {entry.chosen}, which {other.key} is taken from already; "
                "correct the paths"
            )


def _join(folder: Path, root: str, text: str) -> str:
    """Returns where a path leads; a Windows path with a drive leads nowhere on other systems."""
    if PureWindowsPath(text).drive and not os.path.isabs(text):
        return text
    root_path = Path(root.replace("\\", "/") if "\\" in root and not Path(root).exists() else root)
    return os.path.normpath(folder / root_path.expanduser() / Path(text).expanduser())


def _below(folder: Path, parts: Sequence[str], is_whole: bool = False) -> str | None:
    """Returns the path of these parts below a folder if it exists and can only be the one that is meant."""
    plain = [part for part in parts if not glob.has_magic(part)]
    if not parts or glob.has_magic(parts[0]):
        return None
    if not is_whole and len(plain) == 1 and plain[0].lower() in _SHARED_NAMES:
        return None
    path = os.path.normpath(folder.joinpath(*parts))
    return path if _exists(path) else None


def _parts(text: str) -> list[str]:
    """Parts of a path of any system, without what leads to another place."""
    path = PureWindowsPath(text) if "\\" in text or PureWindowsPath(text).drive else PurePosixPath(text)
    return [part for part in path.parts if part not in (path.anchor, _UP, "~")]


def _is_absolute(text: str) -> bool:
    return os.path.isabs(text) or text.startswith("~") or bool(PureWindowsPath(text).drive)


def _exists(path: str) -> bool:
    return os.path.exists(path) or (
        glob.has_magic(path) and next(glob.iglob(path, recursive=True), None) is not None
    )
