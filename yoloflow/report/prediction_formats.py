"""Files of predictions: our own rows, COCO's results, YOLO's labels, cut-outs; each written as they come.

To add a format, write a subclass of `PredictionFormat` and a line in `FORMATS`.
"""

from __future__ import annotations

import csv
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from yoloflow.data.formats.outlines import outline_of_mask, pixels_of_mask
from yoloflow.report.box_drawing import cut_out
from yoloflow.report.image_writer import image_suffix, save_image
from yoloflow.structures import Detections, RunLengthMask, Uint8Array

# As in the files that evaluation writes.
_COCO_BOX_DECIMALS, _COCO_SCORE_DECIMALS = 3, 5
# Of the 255 that a file name may have; numbers and suffixes come after it.
_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class PredictedImage:
    """An image or video frame with the objects found in it.

    Attributes:
        file: the source, as it was named.
        frame: 0-based number in a video or camera; None for an image.
        image: (H, W, 3) uint8 BGR.
        stem: a name that no other image of the folder has; frames of a video share that of the video.
        drawn: name of the drawn file; None where nothing is drawn.
        found: boxes and masks in pixels of the original.
    """

    file: str
    frame: int | None
    image: Uint8Array
    stem: str
    drawn: str | None
    found: Detections

    @property
    def height(self) -> int:
        """The height in pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """The width in pixels."""
        return int(self.image.shape[1])


@dataclass(frozen=True, slots=True)
class Naming:
    """The names and ids that the formats give to classes and images, and whether labels have scores.

    Attributes:
        names: class names in class order.
        category_ids: COCO's id of each class; 1-based numbers by default.
        take_image_id: COCO's id of a file, asked for once an image; None for one that has none. Without it
            images are numbered from 1 as they come.
        scores: the rows of YOLO's labels end with the score; without it they are labels to train on.
    """

    names: Sequence[str]
    category_ids: Sequence[int] | None = None
    take_image_id: Callable[[str], int | str | None] | None = None
    scores: bool = True

    def category_id(self, number: int) -> int:
        """Returns COCO's id of a class."""
        return number + 1 if self.category_ids is None else self.category_ids[number]


class PredictionFormat(ABC):
    """One kind of file, written image by image.

    Attributes:
        file_name: of the file or folder; nothing of this name is there before, and it is never overwritten.
        path: the same in the folder of the predictions, for the user.
        naming: names and ids of classes and images.
        needs_masks: boxes alone make nothing of it.
    """

    file_name: ClassVar[str]
    needs_masks: ClassVar[bool] = False

    def __init__(self, folder: Path, naming: Naming) -> None:
        """Opens the files; the folder exists."""
        self.path = folder / self.file_name
        self.naming = naming

    @abstractmethod
    def write(self, image: PredictedImage) -> None:
        """Adds an image."""

    @abstractmethod
    def close(self) -> None:
        """Completes the files, also after an interrupted prediction."""


class JsonList:
    """A file with a JSON list that grows row by row; until it is closed its name begins with a dot.

    The name is taken only once the list is whole, so a reader never sees half of one.
    """

    def __init__(self, path: Path, head: str = "[", tail: str = "]") -> None:
        """Opens the file.

        Args:
            path: of the finished file.
            head: what comes before the rows.
            tail: what comes after them.
        """
        self.path = path
        self._head, self._tail = head, tail
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("w", encoding="utf-8")
        self._num_rows = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._file.write((f"{self._head}\n" if self._num_rows == 0 else ",\n") + json.dumps(row))
        self._num_rows += 1

    def close(self) -> None:
        """Ends the list."""
        self._file.write(f"\n{self._tail}\n" if self._num_rows else f"{self._head}{self._tail}\n")
        self._file.close()
        self._partial.replace(self.path)


class JsonFormat(PredictionFormat):
    """`predictions.json`: a row for each image, also for one without objects."""

    file_name = "predictions.json"

    def __init__(self, folder: Path, naming: Naming) -> None:
        super().__init__(folder, naming)
        self._list = JsonList(self.path)

    def write(self, image: PredictedImage) -> None:
        """Adds an image."""
        row = {
            "file": image.file,
            "frame": image.frame,
            "width": image.width,
            "height": image.height,
            "picture": image.drawn,
            "detections": detection_rows(image.found, self.naming.names),
        }
        self._list.write(row)

    def close(self) -> None:
        """Ends the list."""
        self._list.close()


class CocoFormat(PredictionFormat):
    """`predictions_coco.json`, COCO's results, and `images_coco.json`, the images of their ids."""

    file_name = "predictions_coco.json"

    def __init__(self, folder: Path, naming: Naming) -> None:
        super().__init__(folder, naming)
        self._results = JsonList(self.path)
        categories = [{"id": naming.category_id(k), "name": name} for k, name in enumerate(naming.names)]
        tail = f'],\n"categories": {json.dumps(categories)},\n"annotations": []}}'
        self._images = JsonList(folder / "images_coco.json", '{"images": [', tail)
        self._num_images = 0

    def write(self, image: PredictedImage) -> None:
        """Adds an image's detections; one that is not among the given ids has none."""
        self._num_images += 1
        take = self.naming.take_image_id
        image_id = self._num_images if take is None else take(image.file)
        if image_id is None:
            return
        listed = {"id": image_id, "file_name": image.file, "width": image.width, "height": image.height}
        self._images.write(listed if image.frame is None else {**listed, "frame": image.frame})
        for (x1, y1, x2, y2), score, number, mask in _columns(image.found):
            box = [round(value, _COCO_BOX_DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
            row = {
                "image_id": image_id,
                "category_id": self.naming.category_id(number),
                "bbox": box,
                "score": round(score, _COCO_SCORE_DECIMALS),
            }
            self._results.write(row if mask is None else {**row, "segmentation": mask})

    def close(self) -> None:
        """Ends both lists."""
        self._results.close()
        self._images.close()


class _ListedFiles(PredictionFormat):
    """A folder of files, and beside it a CSV that says of which source each of them is."""

    more_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, naming: Naming) -> None:
        super().__init__(folder, naming)
        self.path.mkdir()
        # A file name need not be text: its bytes are kept as they are.
        path = folder / f"{self.file_name}.csv"
        self._list = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._rows = csv.writer(self._list)
        self._rows.writerow((self.file_name.removesuffix("s"), "file", "frame", *self.more_columns))

    def add_row(self, path: Path, image: PredictedImage, *more: object) -> None:
        """Adds the row of a file."""
        self._rows.writerow((path.relative_to(self.path).as_posix(), image.file, image.frame, *more))

    def close(self) -> None:
        """Closes the list."""
        self._list.close()


class YoloFormat(_ListedFiles):
    """`labels/<stem>.txt`, a row `class cx cy w h score` for each object, and `labels.csv`: of which file.

    All are shares of the image's width and height. An object with a mask has a row `class x1 y1 x2 y2 ...
    score`, see `_outline`. An image without objects has an empty file; frames of a video are
    `labels/<stem>/000000.txt` and so on. Without scores `classes.txt` names the classes, as label tools
    expect.
    """

    file_name = "labels"

    def __init__(self, folder: Path, naming: Naming) -> None:
        super().__init__(folder, naming)
        classes = folder / "classes.txt"
        if not naming.scores and not classes.exists():
            classes.write_text("".join(f"{name}\n" for name in naming.names), encoding="utf-8")

    def write(self, image: PredictedImage) -> None:
        """Adds an image."""
        path = self.path / f"{image.stem}.txt"
        if image.frame is not None:
            path = self.path / image.stem / f"{image.frame:06d}.txt"
            path.parent.mkdir(exist_ok=True)
        lines = []
        for box, score, number, mask in _columns(image.found):
            x1, y1, x2, y2 = box
            points = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1] if mask is None else _outline(mask, box)
            sides = itertools.cycle((image.width, image.height))
            shares = " ".join(f"{value / side:.6f}" for value, side in zip(points, sides, strict=False))
            lines.append(f"{number} {shares} {score:.5f}\n" if self.naming.scores else f"{number} {shares}\n")
        path.write_text("".join(lines))
        self.add_row(path, image)


class CropsFormat(_ListedFiles):
    """`crops/<class>/<stem>-<k>.jpg`, each object cut out, best first, and `crops.csv`: of which file."""

    file_name = "crops"
    more_columns = ("class", "score", "x1", "y1", "x2", "y2")
    # None: .jpg where the object is not too large for it.
    suffix: ClassVar[str | None] = None

    def __init__(self, folder: Path, naming: Naming) -> None:
        super().__init__(folder, naming)
        self._folders: list[str] = []
        for number, name in enumerate(naming.names):
            clean = file_name_of(name).strip(". ") or str(number)
            taken = clean.lower() in (known.lower() for known in self._folders)
            self._folders.append(f"{clean}-{number}" if taken else clean)

    def write(self, image: PredictedImage) -> None:
        """Adds the objects of an image."""
        stem = image.stem if image.frame is None else f"{image.stem}-{image.frame:06d}"
        for k, (box, score, number, mask) in enumerate(_columns(image.found), 1):
            crop = self.cut(image.image, box, mask)
            path = self.path / self._folders[number] / f"{stem}-{k}{self.suffix or image_suffix(crop)}"
            path.parent.mkdir(exist_ok=True)
            save_image(path, crop)
            self.add_row(path, image, number, f"{score:.5f}", *(f"{value:.2f}" for value in box))

    def cut(self, image_bgr: Uint8Array, box_xyxy: Sequence[float], mask: RunLengthMask | None) -> Uint8Array:
        """Returns the pixels of an object."""
        return cut_out(image_bgr, box_xyxy)


class CutoutsFormat(CropsFormat):
    """`cutouts/<class>/<stem>-<k>.png`, as crops, but transparent where the object's mask is not."""

    file_name = "cutouts"
    needs_masks = True
    suffix = ".png"

    def cut(self, image_bgr: Uint8Array, box_xyxy: Sequence[float], mask: RunLengthMask | None) -> Uint8Array:
        """Returns the pixels of an object, with their alpha as (h, w, 4) BGRA where there is a mask."""
        if mask is None:
            return cut_out(image_bgr, box_xyxy)
        alpha = cut_out(pixels_of_mask(mask)[..., None], box_xyxy) * np.uint8(255)
        return np.concatenate((cut_out(image_bgr, box_xyxy), alpha), 2)


FORMATS: dict[str, type[PredictionFormat]] = {
    "json": JsonFormat,
    "coco": CocoFormat,
    "yolo": YoloFormat,
    "crops": CropsFormat,
    "cutouts": CutoutsFormat,
}


def file_name_of(text: str) -> str:
    """Returns a text as part of a file name: without letters that a file system refuses, and not too long."""
    clean = "".join("-" if letter in '<>:"/\\|?*' or letter < " " else letter for letter in text)
    encoded = clean.encode("utf-8", "surrogateescape")
    return encoded[:_NAME_BYTES].decode("utf-8", "ignore") if len(encoded) > _NAME_BYTES else clean


def detection_rows(found: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns detections as JSON-able rows, best first; boxes to a hundredth of a pixel, masks as COCO's."""
    rows = []
    for box, score, number, mask in _columns(found):
        row = {
            "box_xyxy": [round(value, 2) for value in box],
            "score": round(score, 5),
            "class": number,
            "name": names[number],
        }
        rows.append(row if mask is None else {**row, "segmentation": mask})
    return rows


def _columns(found: Detections) -> list[tuple[list[float], float, int, RunLengthMask | None]]:
    """Returns box, score, class and mask of each object."""
    masks = [None] * len(found) if found.masks is None else found.masks
    columns = (found.boxes_xyxy.tolist(), found.scores.tolist(), found.classes.tolist())
    return list(zip(*columns, masks, strict=True))


def _outline(mask: RunLengthMask, box_xyxy: Sequence[float]) -> list[float]:
    """Returns x1 y1 x2 y2 ... of the polygon along the edges of the mask's pixels.

    Parts and holes are joined to one polygon, by lines there and back; it is inside where it is gone round an
    odd number of times. An empty mask has the rectangle of its box.
    """
    points = outline_of_mask(mask)
    if len(points):
        return [float(value) for value in points.ravel()]
    x1, y1, x2, y2 = box_xyxy
    return [x1, y1, x2, y1, x2, y2, x1, y2]
