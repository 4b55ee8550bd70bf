"""Search for images whose names were written on another machine: other separators, folders and prefixes.

A name is taken as it stands where a file has it. Else the images of one folder, as the names have it, are
looked for together: with slashes for backslashes, without what other programs add, without leading folders,
and at last with other capitals or another suffix. One file never stands for two names, and a folder of which
one image is found as it stands is not looked for anywhere else: what is missing there is missing.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from urllib.parse import unquote

from yoloflow.data.formats.other_files import is_image_name
from yoloflow.structures import Problem, YoloflowError

_SAMPLE = 200
_MOST_ENTRIES = 20_000
_LEVELS = 4
_NAMED = 4
# Label Studio puts eight digits before the name of a file that is uploaded.
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


@dataclass(slots=True)
class FoundImages:
    """The files of names.

    Attributes:
        paths: absolute; of an image that is nowhere, where it should be.
        num_found: how many exist.
        problems: names that are not taken as they stand.
    """

    paths: list[str]
    num_found: int = 0
    problems: list[Problem] = field(default_factory=list)


_DETOUR = re.compile(r"(?:^|(?<=[\\/]))(?!\.\.?[\\/])[^\\/]+[\\/]+\.\.[\\/]+")


def find_images(
    source: str, names: Sequence[str], folders: Sequence[str], below: str | None = None
) -> FoundImages:
    """Finds the files of names.

    Args:
        source: the file that has the names.
        names: relative or absolute.
        folders: where they may begin; of folders that have equally many of them the first counts.
        below: a folder that may have them anywhere below it.
    """
    names = [_without_detours(name) for name in names]
    folders = _fullest_first(names, folders)
    paths: list[str | None] = [_first_file(folders, [name]) for name in names]
    lost: dict[str, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        if path is None:
            lost[_folder_of(names[number])].append(number)
    settled = {_folder_of(names[n]) for n, path in enumerate(paths) if path is not None} if lost else set()
    for folder, numbers in lost.items():
        again = _without_folders(folder, [names[n] for n in numbers], folders, is_settled=folder in settled)
        if below is not None and not any(again) and folder not in settled:
            again = _anywhere_below(below, [names[n] for n in numbers])
        for number, path in zip(numbers, again, strict=True):
            paths[number] = path
    found = FoundImages([])
    shared = (
        _shared_files(names, paths) if any(paths[n] for numbers in lost.values() for n in numbers) else set()
    )
    for numbers in lost.values():
        mended = [n for n in numbers if paths[n] is not None and n not in shared]
        unclear = [n for n in numbers if n in shared]
        found.problems += _remarks(source, names, paths, mended, unclear)
        for number in unclear:
            paths[number] = None
    found.num_found = sum(path is not None for path in paths)
    found.paths = [
        os.path.normpath(os.path.join(folders[0], name) if path is None else path)
        for name, path in zip(names, paths, strict=True)
    ]
    return found


def folder_advice(source: str, name: str) -> str:
    """Returns what to set where the images of a source are not found; folders nearby are named.

    Args:
        source: the file that lists the images.
        name: of one of them.
    """
    last, here = (parts_of(name) or [name])[-1], os.path.dirname(os.path.abspath(source))
    places = list(_folders_with(last, os.path.dirname(here)))
    advice = f"set data.image_folder to the folder of {last}"
    if len(places) == 1:
        return f"{advice}, which is in {places[0]}"
    if places:
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        advice += (
            f"; it is in {', '.join(places[:_NAMED])}{more}: where these are the folders of different sets, "
            "'data.image_folder={train_set: FOLDER, val_set: FOLDER}'"
        )
    return advice


def _folders_with(name: str, root: str) -> Iterator[str]:
    """Finds folders with a file of a name, a few levels below a folder; the search is short."""
    places, looked = deque([(root, 0)]), 0
    while places and looked < _MOST_ENTRIES:
        place, depth = places.popleft()
        try:
            entries = sorted(islice(os.scandir(place), _MOST_ENTRIES), key=lambda entry: entry.name)
        except OSError:
            continue
        looked += len(entries)
        if any(entry.name == name and entry.is_file() for entry in entries):
            yield place
        folders = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        places.extend((path, depth + 1) for path in folders if depth < _LEVELS)


def check_not_shared(
    source: str, image_folder: str, train_paths: Sequence[str], val_paths: Sequence[str]
) -> None:
    """Raises where two sets have the same files of their one folder, and a folder beside it others.

    Args:
        source: of the second set, for the message.
        image_folder: as the user gave it.
        train_paths: images of the first set.
        val_paths: of the second.
    """
    shared = sorted(set(train_paths) & set(val_paths))
    shared = shared[:: max(1, len(shared) // _SAMPLE)]
    given = (os.path.abspath(image_folder), os.path.join(os.path.dirname(source), image_folder))
    folder = os.path.abspath(next(filter(os.path.isdir, given), image_folder))
    parent = os.path.dirname(folder)
    if shared and os.path.isdir(parent):
        beside = (entry.path for entry in os.scandir(parent) if entry.is_dir() and entry.path != folder)
        check_same_images(source, image_folder, folder, beside, shared)


def check_same_images(
    source: str, image_folder: str, folder: str, others: Iterable[str], image_paths: Sequence[str]
) -> None:
    """Raises where another folder has an image of the same name that is not the same.

    Args:
        source: that lists the images, for the message.
        image_folder: as the user gave it.
        folder: where that is.
        others: folders that the images may be meant in.
        image_paths: in `folder`.
    """
    for place in others:
        for one in image_paths:
            name = os.path.relpath(one, folder)
            other = os.path.join(place, name)
            if os.path.isfile(one) and os.path.isfile(other) and not filecmp.cmp(one, other, shallow=False):
                raise YoloflowError(
                    f"{source}: {name} is in data.image_folder={image_folder} and, as another image, in "
                    f"{place}; give a folder for each set: "
                    "'data.image_folder={train_set: FOLDER, val_set: FOLDER}'"
                )


def _shared_files(names: Sequence[str], paths: Sequence[str | None]) -> set[int]:
    """Returns the numbers of names whose file other names have too; spellings of one name are no others."""
    owners: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, path in enumerate(paths):
        if path is not None:
            owners[os.path.realpath(path)]["/".join(parts_of(names[number]))].append(number)
    several = [by_name for by_name in owners.values() if len(by_name) > 1]
    return {number for by_name in several for numbers in by_name.values() for number in numbers}


def _remarks(
    source: str, names: Sequence[str], paths: Sequence[str | None], mended: list[int], unclear: list[int]
) -> Iterator[Problem]:
    if mended:
        detail = f"{len(mended)} images such as {names[mended[0]]} are taken from {paths[mended[0]]}"
        yield Problem(source, None, "image-path-mended", "keep", detail)
    if unclear:
        detail = (
            f"{len(unclear)} images such as {names[unclear[0]]} are not used: "
            f"{paths[unclear[0]]} may be theirs or that of another name"
        )
        yield Problem(source, None, "image-path-unclear", "keep", detail)


def _fullest_first(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Folders that have more of the names first; a single name found elsewhere is the wrong image."""
    sample = names[:: max(1, len(names) // _SAMPLE)]
    counts = {
        folder: sum(os.path.exists(os.path.join(folder, name)) for name in sample) for folder in folders
    }
    return sorted(counts, key=lambda folder: -counts[folder])


def _first_file(folders: Iterable[str], spellings: Iterable[str]) -> str | None:
    paths = (os.path.join(folder, name) for name in spellings for folder in folders)
    return next((path for path in paths if os.path.exists(path)), None)


def parts_of(name: str) -> list[str]:
    """Returns the folders and the file name of a path of any system, without a drive."""
    parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]
    return parts[1:] if parts and re.fullmatch(r"[A-Za-z]:|[a-z0-9]+:", parts[0]) else parts


def _without_detours(name: str) -> str:
    """Returns `sub/../a.jpg` as `a.jpg`: such a folder need not be there."""
    while (plain := _DETOUR.sub("", name)) != name:
        name = plain
    return name


def _folder_of(name: str) -> str:
    return "/".join(parts_of(name)[:-1])


def _spellings(name: str, *, is_settled: bool = False) -> list[str]:
    """File names that a name may mean, the likeliest first; fewer where its folder is known."""
    last = (parts_of(name) or [name])[-1]
    plain = unquote(last.partition("?")[0] or last)
    bare = plain.rpartition("/")[2] or plain
    uploaded = [] if is_settled else [bare, _UPLOAD_PREFIX.sub("", bare, count=1)]
    return list(dict.fromkeys((last, plain, *uploaded)))


def _without_folders(
    folder: str, names: Sequence[str], folders: Sequence[str], *, is_settled: bool
) -> list[str | None]:
    """Returns the files of names of one folder, found together with as many of its parts as are there.

    Args:
        folder: of the names.
        names: which are not found as they stand.
        folders: where they may begin.
        is_settled: other names of the folder are found as they stand, so it is no other folder.
    """
    parts = folder.split("/") if folder else []
    spellings = [_spellings(name, is_settled=is_settled) for name in names]
    nothing: list[str | None] = [None] * len(names)
    for find in (_file_in, _Alike().file_in):
        best, most = nothing, 0
        for start in range(1 if is_settled else len(parts) + 1):
            joined = [os.path.join(root, *parts[start:]) for root in reversed(folders)]
            places = {os.path.realpath(place): place for place in joined}.values()
            outcomes = [[find(place, some) for some in spellings] for place in places]
            counts = [len(names) - outcome.count(None) for outcome in outcomes]
            if max(counts) > most:
                most = max(counts)
                fullest = [
                    outcome for outcome, number in zip(outcomes, counts, strict=True) if number == most
                ]
                are_same = all(list(map(_real, one)) == list(map(_real, fullest[0])) for one in fullest)
                best = fullest[0] if are_same else nothing
        # A few of many are there by chance.
        if 2 * most >= len(names):
            return best
    return nothing


def _real(path: str | None) -> str | None:
    return path and os.path.realpath(path)


def _file_in(place: str, spellings: Sequence[str]) -> str | None:
    return _first_file([place], spellings)


class _Alike:
    """Images whose names differ in capitals or in the suffix alone, as systems and converters leave them."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, list[str]]] = {}

    def file_in(self, place: str, spellings: Sequence[str]) -> str | None:
        """Returns the file of a name, else the one image in a folder that has its stem."""
        if place not in self._names:
            by_stem: dict[str, list[str]] = defaultdict(list)
            for name in os.listdir(place) if os.path.isdir(place) else ():
                if is_image_name(name):
                    by_stem[os.path.splitext(name)[0].casefold()].append(name)
            self._names[place] = by_stem
        if found := _first_file([place], spellings):
            return found
        for spelling in spellings:
            whole = os.path.splitext(spelling)[0] if is_image_name(spelling) else spelling
            alike = self._names[place].get(whole.casefold(), [])
            if len(alike) == 1:
                return os.path.join(place, alike[0])
        return None


def _anywhere_below(below: str, names: Sequence[str]) -> list[str | None]:
    """Returns the one file below a folder that agrees with the longest end of each name."""
    files: dict[str, list[str]] = defaultdict(list)
    for place, _, here in os.walk(below):
        for name in here:
            files[name].append(os.path.join(place, name))
    return [_longest_end(name, files) for name in names]


def _longest_end(name: str, files: dict[str, list[str]]) -> str | None:
    wanted = parts_of(name)[:-1][::-1]
    for spelling in _spellings(name):
        shared = {
            path: len(os.path.commonprefix([parts_of(path)[:-1][::-1], wanted]))
            for path in files.get(spelling, [])
        }
        best = [path for path, count in shared.items() if count == max(shared.values())]
        if best:
            return best[0] if len(best) == 1 else None
    return None
