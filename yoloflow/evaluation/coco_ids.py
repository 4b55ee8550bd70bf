"""The ids of images and classes in a COCO json, for files of predictions that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yoloflow.data.classes import numbers_by_name
from yoloflow.data.formats.coco_entries import key_of, load, read_categories, read_image_entries
from yoloflow.data.formats.image_search import parts_of
from yoloflow.structures import Problem, YoloflowError, nearest_names

ImageId = int | str
"""The id of an image as the file has it."""


class CocoIds:
    """Finds the id of an image by its file name, each once."""

    def __init__(self, path: str | Path, problems: list[Problem]) -> None:
        """Reads the file.

        Args:
            path: COCO json with `images` and `categories`.
            problems: takes the images that have no id.

        Raises:
            YoloflowError: the file cannot be read, or lacks what is needed.
        """
        content = load(path, with_outlines=False)
        entries = read_image_entries(str(path), content["images"])
        names = read_categories(str(path), content["categories"])
        own_ids = {
            key_of(entry["id"]): entry["id"]
            for entry in content["images"]
            if isinstance(entry, dict) and "id" in entry
        }
        self.path = path
        # Of categories of one name the first stands for all, as where a data set is read.
        self._categories = {name: number for number, name in reversed(names.items())}
        self._problems = problems
        self._by_base_name: dict[str, list[tuple[list[str], ImageId]]] = {}
        # Of entries of one name the first stands for all.
        ids_of_names = dict(zip(reversed(entries.names), reversed(entries.keys), strict=True))
        for name, key in ids_of_names.items():
            parts = parts_of(name) or [name]
            self._by_base_name.setdefault(parts[-1], []).append((parts, own_ids[key]))
        self._num_images = len(ids_of_names)
        self._taken: set[ImageId] = set()
        self._last_refused: str | None = None

    @property
    def num_left(self) -> int:
        """Images of the file that were not taken yet."""
        return self._num_images - len(self._taken)

    def category_ids(self, names: Sequence[str], reported: Sequence[int] | None) -> list[int]:
        """Returns the id of each class, by its name.

        Args:
            names: in class order.
            reported: numbers of the classes that may occur; None for all. The others need no id and get -1.

        Raises:
            YoloflowError: a class that may occur is not in the file.
        """
        numbers = [*self._categories.values()]
        places = numbers_by_name(names, [*self._categories])
        ids = [-1 if place < 0 else numbers[place] for place in places]
        for number in range(len(names)) if reported is None else reported:
            if ids[number] < 0:
                raise YoloflowError(
                    f"{self.path}: has no category {names[number]!r}, a class of the run; "
                    f"{nearest_names(names[number], self._categories)} (--class chooses classes to report)"
                )
        return ids

    def take(self, file: str) -> ImageId | None:
        """Returns the id of an image; None, and a problem, where there is none or another file has it.

        A name in the file that has folders must agree with the end of the path. Where none does, a base name
        that occurs once is enough.
        """
        parts = list(Path(file).parts)
        candidates = self._by_base_name.get(parts[-1], []) if parts else []
        fitting = [image_id for known, image_id in candidates if parts[-len(known) :] == known]
        if not fitting and len(candidates) == 1:
            fitting = [candidates[0][1]]
        image_id = fitting[0] if len(fitting) == 1 else None
        if image_id is not None and image_id not in self._taken:
            self._taken.add(image_id)
            return image_id
        if file != self._last_refused:  # frames of a video come many times
            self._last_refused = file
            detail = (
                f"{self.path} lists no such file_name, or several"
                if image_id is None
                else f"another file was taken for image {image_id} of {self.path}"
            )
            self._problems.append(Problem(file, None, "no-image-id", "drop-image", detail))
        return None
