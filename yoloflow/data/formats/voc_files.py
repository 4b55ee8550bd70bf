"""Files of PASCAL VOC sets: annotations below a folder or in a list, their images, images without any."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from yoloflow.data.formats.list_file import read_list_file
from yoloflow.data.formats.other_files import files_below, is_image_name, is_of_other_use
from yoloflow.data.formats.yolo_txt import label_file

_ANNOTATION_FOLDERS = ("annotations", "labels")
IMAGE_FOLDERS = ("jpegimages", "images")
"""Names of the folders of images, in small letters."""
_FLAGS = ("1", "0", "-1")


@dataclass(slots=True)
class Content:
    """The files in a folder and below.

    Attributes:
        xmls: annotation files, images: image files, both absolute and sorted; others: what is neither.
        folders: all folders that were looked into, by their real paths.
    """

    xmls: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, folder: str) -> Content:
        """Look into a folder; linked folders too, each real folder once."""
        content = cls()
        if os.path.isdir(folder):
            for path in sorted(files_below(os.path.abspath(folder), content.folders)):
                if path.lower().endswith(".xml"):
                    content.xmls.append(path)
                else:
                    (content.images if is_image_name(path) else content.others).append(path)
        return content


def annotation_files(source: str) -> Content:
    """Returns the annotation files of a folder; of a folder of images those in `annotations` beside it."""
    content = Content.of(source)
    if not content.xmls:
        root, below = root_above(os.path.abspath(source), IMAGE_FOLDERS)
        for beside in folders_named(os.path.dirname(root), _ANNOTATION_FOLDERS if root else []):
            content.xmls = content.xmls or Content.of(os.path.join(beside, below)).xmls
    return content


def is_annotated(source: str) -> bool:
    """Returns whether a folder is labelled by XML files, and not by more YOLO labels.

    Where all images have both, the files on top of the folder or in its folder Annotations decide for XML.
    """
    content = annotation_files(source)
    if not content.xmls:
        return False
    stems = {stem_of(path) for path in content.xmls}
    with_xml = sum(stem_of(image) in stems for image in content.images)
    with_text = sum(label_file(image) is not None for image in content.images)
    if with_text and with_xml == with_text:
        places = [os.path.abspath(source), *folders_named(source, _ANNOTATION_FOLDERS[:1])]
        return any(os.path.dirname(path) in places for path in content.xmls)
    return with_text == 0 or with_xml > with_text


def listed_annotations(source: str) -> list[tuple[str, int]] | None:
    """Returns the annotation files that a list names, with their lines; None if it is no list of such files.

    A line is an XML file, a stem (with 1, 0 or -1 behind it in the lists of one class), the name of an image
    whose annotation is found, or an image and its XML file.
    """
    rows = read_list_file(source)
    base = os.path.dirname(os.path.abspath(source))
    # A list of images that exist as they stand is YOLO's.
    if not rows or (is_image_name(rows[0][0]) and os.path.isfile(os.path.join(base, rows[0][0]))):
        return None
    above = (os.path.normpath(os.path.join(base, up)) for up in ("..", "../..", "."))
    places = [*(place for folder in above for place in folders_named(folder, _ANNOTATION_FOLDERS[:1])), base]
    found = [next(filter(os.path.isfile, _places_of_line(name, places)), None) for name, _ in rows]
    if not any(found):
        return None
    return [
        (path or next(_places_of_line(name, places)), number)
        for path, (name, number) in zip(found, rows, strict=True)
    ]


def _places_of_line(line: str, places: Sequence[str]) -> Iterator[str]:
    """Where the annotation file of a line of a list may lie, the likeliest first."""
    for name in _names_of_line(line):
        yield from (os.path.normpath(os.path.join(place, name)) for place in places)


def _names_of_line(line: str) -> Iterator[str]:
    yield line if line.lower().endswith(".xml") and len(line.split()) == 1 else f"{line}.xml"
    *first, last = line.split()
    if first and last.lower().endswith(".xml"):
        yield last
    if first and last in _FLAGS:
        yield f"{line[: -len(last)].strip()}.xml"
    if is_image_name(line):
        yield f"{os.path.splitext(line)[0]}.xml"


def find_png(files: Sequence[str], folder_name: str, places: dict[str, list[str]]) -> str | None:
    """Absolute path of the PNG with the masks of an image; None if there is none.

    Args:
        files: of the image, each in a folder beside that of the PNG: annotation file, image.
        folder_name: of the folder of the PNG, in small letters.
        places: by the folder of such files, where their PNGs may lie; it is filled in here.
    """
    for file in files:
        folder = os.path.dirname(file)
        if folder not in places:
            root, below = root_above(folder, (*_ANNOTATION_FOLDERS[:1], *IMAGE_FOLDERS))
            beside = folders_named(os.path.dirname(root), [folder_name]) if root else []
            found = [os.path.join(one, part) for one in beside for part in (below, "")]
            places[folder] = list(dict.fromkeys(map(os.path.normpath, found)))
        for place in places[folder]:
            if os.path.isfile(path := os.path.join(place, f"{stem_of(file)}.png")):
                return path
    return None


class ImageFinder:
    """Finds the image of an annotation file; every folder is listed once."""

    def __init__(self, image_folder: str | None) -> None:
        self._first = [os.path.abspath(image_folder)] if image_folder else []
        self._listings: dict[str, dict[str, str]] = {}

    def find(self, xml: str, file_name: str) -> str:
        """Absolute path of the image; if there is none, the path where it would be first looked for.

        Args:
            xml: path of the annotation file.
            file_name: that it states, with or without folders.
        """
        stated = os.path.basename(file_name.strip().replace("\\", "/"))
        stem = stem_of(xml)
        wanted = [name for name in (stated, os.path.splitext(stated)[0], stem) if name]
        folders = self._folders_for(os.path.dirname(xml))
        for name in wanted:
            for folder in folders:
                found = self._listing(folder).get(name)
                if found and (is_image_name(found) or os.path.isfile(os.path.join(folder, found))):
                    return os.path.join(folder, found)
        return os.path.join(folders[0], stated or f"{stem}.jpg")

    @property
    def folders(self) -> list[str]:
        """All folders that were looked into."""
        return list(self._listings)

    def _folders_for(self, place: str) -> list[str]:
        """Folders of the images of annotations in `place`, the likeliest first."""
        root, below = root_above(place, _ANNOTATION_FOLDERS)
        beside = folders_named(os.path.dirname(root), IMAGE_FOLDERS) if root else []
        found = [*self._with_below(self._first, below), place, *(os.path.join(one, below) for one in beside)]
        for up in ("..", "../.."):
            found += folders_named(os.path.join(place, up), IMAGE_FOLDERS)
        found += beside
        if root:
            found += self._with_below([os.path.dirname(root)], below)
        return list(dict.fromkeys(map(os.path.normpath, found)))

    @staticmethod
    def _with_below(folders: Iterable[str], below: str) -> list[str]:
        return [place for folder in folders for place in (os.path.join(folder, below), folder)]

    def _listing(self, folder: str) -> dict[str, str]:
        if folder not in self._listings:
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            images = [name for name in names if is_image_name(name)]
            # Under its whole name a file is found whatever that ends in.
            whole = {name: name for name in names if not is_of_other_use(name)}
            by_stem = {os.path.splitext(name)[0]: name for name in images}
            self._listings[folder] = whole | by_stem | {name: name for name in images}
        return self._listings[folder]


def root_above(place: str, names: Sequence[str]) -> tuple[str, str]:
    """Returns the folder of one of these names that a folder is or is in, and the path from there; or ""."""
    root = place
    while os.path.basename(root).lower() not in names:
        parent = os.path.dirname(root)
        if parent == root:
            return "", ""
        root = parent
    return root, os.path.relpath(place, root)


def images_without_annotation(
    source: str, content: Content, found: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Images of a folder that no annotation file names, with the annotation file that each should have.

    These are the images beside others that have one, and those below JPEGImages or images; not the masks and
    other images that such sets have too.

    Args:
        source: the folder.
        content: its files.
        found: images of the annotation files.
    """
    taken = set(found)
    whole = os.path.abspath(source)
    root, below = root_above(whole, _ANNOTATION_FOLDERS)
    images = list(content.images)
    for beside in folders_named(os.path.dirname(root), IMAGE_FOLDERS) if root else []:
        images += Content.of(os.path.join(beside, below)).images
    is_of_images = not any(path.startswith(whole + os.sep) for path in content.xmls)
    places = {os.path.dirname(path) for path in taken}
    for image in dict.fromkeys(images):
        place = os.path.dirname(image)
        parts = os.path.relpath(place, os.path.dirname(whole)).lower().split(os.sep)
        is_beside = is_of_images or place in places or bool(set(parts) & set(IMAGE_FOLDERS))
        if image not in taken and is_beside:
            yield image, _annotation_of(image, content.xmls)


def _annotation_of(image: str, xmls: Sequence[str]) -> str:
    """Where the annotation file of an image should be, given those of others."""
    place, name = os.path.split(image)
    root, below = root_above(place, IMAGE_FOLDERS)
    folders = folders_named(os.path.dirname(root), _ANNOTATION_FOLDERS) if root else []
    used = [folder for folder in folders if any(path.startswith(folder + os.sep) for path in xmls)]
    for folder in (used or folders)[:1]:
        place = os.path.normpath(os.path.join(folder, below))
    return os.path.join(place, f"{os.path.splitext(name)[0]}.xml")


def folders_named(folder: str, names: Iterable[str]) -> list[str]:
    """Folders in a folder whose names are these in whatever case, in their order."""
    try:
        entries = sorted(os.listdir(folder))
    except OSError:
        return []
    paths = [os.path.join(folder, entry) for name in names for entry in entries if entry.lower() == name]
    return [os.path.normpath(path) for path in paths if os.path.isdir(path)]


def stem_of(path: str) -> str:
    """Returns the name of a file without folders and suffix."""
    return os.path.splitext(os.path.basename(path))[0]
