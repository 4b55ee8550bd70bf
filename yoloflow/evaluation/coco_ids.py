"""The ids of images and classes in a COCO json, for files of predictions that go with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from yoloflow.evaluation.coco_reader import read_coco_json
from yoloflow.structures import Problem, YoloflowError, nearest_names


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
        content = read_coco_json(path, _without_annotation)
        try:
            names = [(str(entry["file_name"]), int(entry["id"])) for entry in content["images"]]
            categories = {str(entry["name"]): int(entry["id"]) for entry in content["categories"]}
        except (KeyError, TypeError, ValueError) as error:
            raise YoloflowError(
                f"{path}: needs images (id, file_name) and categories (id, name); {error!r}"
            ) from error
        self.path = path
        self._categories = categories
        self._problems = problems
        self._by_base_name: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        for name, image_id in names:
            parts = PurePosixPath(name).parts
            self._by_base_name.setdefault(parts[-1], []).append((parts, image_id))
        self._num_images = len(names)
        self._taken: set[int] = set()
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
        ids = [self._categories.get(name, -1) for name in names]
        for number in range(len(names)) if reported is None else reported:
            if ids[number] < 0:
                raise YoloflowError(
                    f"{self.path}: has no category {names[number]!r}, a class of the run; "
                    f"{nearest_names(names[number], self._categories)} (--class chooses classes to report)"
                )
        return ids

    def take(self, file: str) -> int | None:
        """Returns the id of an image; None, and a problem, where there is none or another file has it.

        A name in the file that has folders must agree with the end of the path. Where none does, a base name
        that occurs once is enough.
        """
        parts = Path(file).parts
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


def _without_annotation(entry: dict[str, object]) -> dict[str, object]:
    """Drops an object's annotation as soon as it is parsed: annotations are most of the file."""
    return {} if "image_id" in entry else entry
