"""The transform that pastes objects of other images into free places."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from yoloflow.data.transforms.canvas import Layer
from yoloflow.data.transforms.geometry import Matrix, boxes_around, covered_share, move_polygons, translation
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.structures import Float32Array

# Greatest side of each place to be filled, as a share of the image's.
PLACES = (0.75,) * 2 + (0.5,) * 4 + (0.25,) * 4 + (0.125,) * 4 + (0.0625,) * 6
SKIPPED = 0.2
MAX_COVERED = 0.30
# Pixels: least side of a place, of a pasted object, and least area of the latter.
MIN_PLACE, MIN_SIDE, MIN_AREA = 20, 10, 60
MAX_IMAGES = 16

CutOut = tuple[Sample, int]


@dataclass(frozen=True, slots=True)
class PasteIn(Transform):
    """Cuts objects out of other images and pastes them into random places, smaller places more often.

    YOLOv7's form of copy and paste (Ghiasi et al. 2021). Only objects with a polygon can be cut out; where
    there are none the sample stays as it is. A place counts where it covers less than 30 % of every object
    that is there, those just pasted included; an object keeps its proportions.

    Attributes:
        num_sample: how many objects are at hand to choose from, at least; images are drawn until so many
            are found, 16 images at most.
    """

    func_name: ClassVar[str] = "pastein"
    mixes_images: ClassVar[bool] = True
    num_sample: float = 30

    def __post_init__(self) -> None:
        self.require_range("num_sample", 1, 10_000)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return a composed sample with the pasted objects on top."""
        found = self._cut_outs(context)
        if not found:
            return sample
        boxes, classes, polygons = sample.boxes_xyxy, sample.classes, list(sample.polygons)
        layers: list[Layer] = []
        for place in _places(sample.canvas.size_hw, context.rng):
            if (covered_share(place[None], boxes) >= MAX_COVERED).any():
                continue
            partner, row = found[int(context.rng.integers(len(found)))]
            matrix = _fit(partner.polygons[row], place)
            outline = move_polygons([partner.polygons[row]], matrix)[0]
            box = boxes_around([outline], place[None])
            if (box[0, 2:] - box[0, :2]).min() <= MIN_SIDE or _area(outline) <= MIN_AREA:
                continue
            layers.append(Layer(partner.image, matrix, outline))
            boxes, classes = np.concatenate((boxes, box)), np.append(classes, partner.classes[row])
            polygons.append(outline)
        if not layers:
            return sample
        return replace(
            sample, canvas=sample.canvas.add(layers), boxes_xyxy=boxes, classes=classes, polygons=polygons
        )

    def most_objects(self, count: int, per_image: int) -> int:
        """Return the objects with one more in every place."""
        return count + len(PLACES)

    def _cut_outs(self, context: TransformContext) -> list[CutOut]:
        """Find objects with a polygon in images drawn at random."""
        found: list[CutOut] = []
        for _ in range(MAX_IMAGES):
            partner = context.source.load(int(context.rng.integers(len(context.source))))
            found += [(partner, row) for row, polygon in enumerate(partner.polygons) if len(polygon) > 2]
            if len(found) >= self.num_sample:
                break
        return found


def _places(size_hw: tuple[int, int], rng: np.random.Generator) -> list[Float32Array]:
    """Draw the corner boxes to be filled, large ones first."""
    size = np.array((size_hw[1], size_hw[0]))
    places = []
    for share in PLACES:
        if rng.random() < SKIPPED:
            continue
        sides = rng.integers(1, np.maximum(size * share, 1).astype(int) + 1)
        low = np.maximum(rng.integers(0, size + 1) - sides // 2, 0)
        high = np.minimum(low + sides, size)
        if (high - low > MIN_PLACE).all():
            places.append(np.concatenate((low, high)).astype(np.float32))
    return places


def _fit(polygon: Float32Array, place_xyxy: Float32Array) -> Matrix:
    """Return the matrix that scales a polygon into a place and moves its left top corner there."""
    low, high = polygon.min(0), polygon.max(0)
    scale = float(np.min((place_xyxy[2:] - place_xyxy[:2]) / np.maximum(high - low, 1e-6)))
    moved = translation(*place_xyxy[:2].tolist()) @ np.diag([scale, scale, 1.0])
    matrix: Matrix = moved @ translation(*(-low).tolist())
    return matrix


def _area(polygon: Float32Array) -> float:
    """Return the area in pixels (the shoelace formula)."""
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
