"""The objects found in one image, to look through, draw and save."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloflow.data.decoder_messages import decode_again
from yoloflow.data.formats.outlines import pixels_of_mask
from yoloflow.data.sources import Frame
from yoloflow.report.box_drawing import draw_detections
from yoloflow.report.image_writer import image_suffix, save_image
from yoloflow.report.prediction_formats import detection_rows
from yoloflow.structures import Detections, RunLengthMask, Uint8Array, YoloflowError

_NOTEBOOK_SIDE = 640


@dataclass(frozen=True, slots=True)
class Detection:
    """One object.

    Attributes:
        name: of its class.
        score: in 0..1.
        box_xyxy: corners in pixels of the image.
        class_number: 0-based.
        mask: COCO's run-length mask of the image's size; None where the network predicts none.
    """

    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    class_number: int
    mask: RunLengthMask | None = field(default=None, hash=False, repr=False)

    @property
    def mask_array(self) -> NDArray[np.bool_]:
        """The mask as (H, W) bool, made anew each time.

        Raises:
            YoloflowError: the network predicts no masks.
        """
        if self.mask is None:
            raise _no_masks()
        return pixels_of_mask(self.mask) > 0


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class Result(Detections):
    """The detections of one image; iterating over it gives each object as a `Detection`, best first.

    A notebook shows it as the image with the boxes drawn.

    An image that was read from a file is read again where its pixels are needed, so that a list of results
    holds none.

    Attributes:
        names: class names in class order.
        source: the file, or the stream as it was named; "" for pixels.
        frame: 0-based number in a video or stream; None for an image.
        height: of the image in pixels; width: likewise.
        pixels: (H, W, 3) uint8 BGR; None for an image that was read from a file.
    """

    names: Sequence[str]
    source: str
    frame: int | None
    height: int
    width: int
    pixels: Uint8Array | None

    @classmethod
    def of(cls, found: Detections, frame: Frame, names: Sequence[str]) -> Result:
        """Joins detections with their image."""
        is_file = bool(frame.name) and frame.number is None
        height, width = frame.image.shape[:2]
        return cls(
            *(found.boxes_xyxy, found.scores, found.classes, found.masks),
            names=names,
            source=frame.name,
            frame=frame.number,
            height=height,
            width=width,
            pixels=None if is_file else frame.image,
        )

    def __iter__(self) -> Iterator[Detection]:
        return (self[k] for k in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> Detection: ...

    @overload
    def __getitem__(self, place: slice) -> list[Detection]: ...

    def __getitem__(self, place: int | slice) -> Detection | list[Detection]:
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        number = int(self.classes[place])
        x1, y1, x2, y2 = self.boxes_xyxy[place].tolist()
        mask = None if self.masks is None else self.masks[place]
        return Detection(self.names[number], float(self.scores[place]), (x1, y1, x2, y2), number, mask)

    @property
    def mask_array(self) -> NDArray[np.bool_]:
        """The masks as (N, H, W) bool, made anew each time; (0, H, W) where nothing is found.

        Raises:
            YoloflowError: the network predicts no masks.
        """
        if self.masks is None:
            raise _no_masks()
        pixels = np.zeros((len(self), self.height, self.width), np.bool_)
        for place, mask in enumerate(self.masks):
            pixels[place] = pixels_of_mask(mask)
        return pixels

    @property
    def counts(self) -> dict[str, int]:
        """The number of objects of each class that was found, the most frequent first."""
        return dict(Counter(self.names[number] for number in self.classes.tolist()).most_common())

    def __repr__(self) -> str:
        found = counted(self.counts) or "nothing"
        place = self.source or "pixels"
        place += "" if self.frame is None else f", frame {self.frame}"
        return f"Result({place}, {self.width} x {self.height}: {found})"

    def plot(self) -> Uint8Array:
        """Returns the image with boxes and masks drawn: (H, W, 3) uint8, BGR as OpenCV shows and writes it.

        Raises:
            YoloflowError: the image's file cannot be read any more.
        """
        image = decode_again(self.source) if self.pixels is None else self.pixels
        return draw_detections(image, self.boxes_xyxy, self.classes, self.scores, self.names, self.masks)

    def _repr_png_(self) -> bytes | None:
        """Returns what a notebook shows of a result: the drawn image, shrunk; None where it is gone."""
        try:
            image = self.plot()
        except YoloflowError:
            return None
        factor = min(_NOTEBOOK_SIDE / max(image.shape[:2]), 1)
        size_wh = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
        return cv2.imencode(".png", cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA))[1].tobytes()

    def save(self, path: str | Path) -> Path:
        """Writes the image with boxes and masks drawn; returns the path of the file.

        Args:
            path: a file whose suffix is an image's (.jpg, .png), written over if it is there; or a folder,
                which gets one of the source's name, numbered where that is taken.

        Raises:
            YoloflowError: the file is the image itself or cannot be written.
        """
        path = Path(path).expanduser()
        image = self.plot()
        if path.is_dir():
            stem = Path(self.source).stem or "image"
            stem += "" if self.frame is None else f"-{self.frame:06d}"
            names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
            files = (path / f"{name}{image_suffix(image)}" for name in names)
            path = next(file for file in files if not file.exists())
        if self.source and path.exists() and path.samefile(self.source):
            raise YoloflowError(f"{path}: is the image itself, which is never overwritten; give another name")
        save_image(path, image)
        return path

    def to_dict(self) -> dict[str, Any]:
        """Returns what `predictions.json` has of an image, ready for JSON."""
        return {
            "file": self.source or None,
            "frame": self.frame,
            "width": self.width,
            "height": self.height,
            "detections": detection_rows(self, self.names),
        }


def counted(counts: Mapping[str, int]) -> str:
    """Returns numbers of objects as text, "2 cat, 1 dog"; names that begin with a digit in quotes."""
    return ", ".join(
        f"{count} '{name}'" if name[:1].isdigit() else f"{count} {name}" for name, count in counts.items()
    )


def _no_masks() -> YoloflowError:
    return YoloflowError(
        "mask_array: the network predicts boxes alone; one that segments, such as yolov8n-seg, has masks"
    )
