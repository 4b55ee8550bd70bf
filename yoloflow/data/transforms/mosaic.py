"""The transform that puts four or nine images side by side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from yoloflow.data.transforms.canvas import Canvas, Layer
from yoloflow.data.transforms.geometry import boxes_around, clip_boxes, move_polygons, translation
from yoloflow.data.transforms.sample import Sample, join_samples
from yoloflow.data.transforms.transform import Pipeline, Transform, TransformContext

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mosaic(Transform):
    """Composes a sample and partners drawn from the context's source on a canvas of twice the image size.

    Four tiles meet in a point drawn uniformly from the middle half of the canvas (Bochkovskiy et al. 2020,
    section 3.3). Nine tiles lie as a pinwheel around the sample, and the canvas is a random window of three
    times the image size. The canvas is not drawn here: see the module `canvas`.

    Attributes:
        mosaic9_prob: share of the mosaics that have nine tiles.
        post_transform: what follows on mosaics only.
    """

    func_name: ClassVar[str] = "mosaic"
    mixes_images: ClassVar[bool] = True
    mosaic9_prob: float = 0.0
    post_transform: Pipeline = field(default_factory=Pipeline)

    def __post_init__(self) -> None:
        self.require_range("mosaic9_prob", 0, 1)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return a composed sample, its canvas 2 x 2 image sizes."""
        rng = context.rng
        nine = self.mosaic9_prob > 0 and rng.random() < self.mosaic9_prob
        partners = rng.integers(len(context.source), size=8 if nine else 3)
        tiles = [sample, *(context.source.load(int(index)) for index in partners)]
        places = _places_of_nine(tiles, context) if nine else _places_of_four(tiles, context)
        return self.post_transform(_compose(tiles, places, 2 * context.image_size), context)

    def most_objects(self, count: int, per_image: int) -> int:
        """Return the objects of all tiles."""
        partners = 8 if self.mosaic9_prob > 0 else 3
        return self.post_transform.most_objects(count + partners * per_image, per_image)


def _places_of_four(tiles: list[Sample], context: TransformContext) -> list[Point]:
    """Draw the left top corners of four tiles around a random point of the canvas."""
    size = context.image_size
    x, y = (int(value) for value in context.rng.uniform(0.5 * size, 1.5 * size, 2))
    directions = ((-1, -1), (1, -1), (-1, 1), (1, 1))
    return [_corner((x, y), way, tile) for way, tile in zip(directions, tiles, strict=True)]


def _places_of_nine(tiles: list[Sample], context: TransformContext) -> list[Point]:
    """Draw the left top corners of a sample and four arms of a pinwheel around it, seen from a random window.

    Each arm starts at a corner of the middle tile and has two tiles, the second beside the first.
    """
    size = context.image_size
    left, top = (int(value) for value in context.rng.uniform(0, size, 2))
    height, width = tiles[0].image.shape[:2]
    x1, y1 = size - left, size - top
    x2, y2 = x1 + width, y1 + height
    arms = (((x1, y1), (1, -1)), ((x2, y1), (1, 1)), ((x2, y2), (-1, 1)), ((x1, y2), (-1, -1)))
    places = [(x1, y1)]
    for arm, (start, way) in enumerate(arms):
        inner, outer = tiles[1 + 2 * arm], tiles[2 + 2 * arm]
        inner_height, inner_width = inner.image.shape[:2]
        sideways = way[0] * way[1] < 0
        next_start = (
            start[0] + (way[0] * inner_width if sideways else 0),
            start[1] + (0 if sideways else way[1] * inner_height),
        )
        places += [_corner(start, way, inner), _corner(next_start, way, outer)]
    return places


def _corner(anchor: Point, way: Point, tile: Sample) -> Point:
    """Return the left top corner of a tile that grows from `anchor` towards `way` (-1 or 1 in x and y)."""
    height, width = tile.image.shape[:2]
    return anchor[0] - (width if way[0] < 0 else 0), anchor[1] - (height if way[1] < 0 else 0)


def _compose(tiles: list[Sample], places: list[Point], side: int) -> Sample:
    """Put tiles on a canvas of side x side pixels; cut off the parts and objects beyond it."""
    layers, shown = [], []
    for tile, (x, y) in zip(tiles, places, strict=True):
        height, width = tile.image.shape[:2]
        left, top = max(-x, 0), max(-y, 0)
        right, bottom = min(side - x, width), min(side - y, height)
        if left < right and top < bottom:
            layers.append(Layer(tile.image[top:bottom, left:right], translation(x + left, y + top)))
            moved = tile.boxes_xyxy + np.array((x, y, x, y), np.float32)
            boxes = clip_boxes(moved, (side, side))
            polygons = move_polygons(tile.polygons, translation(x, y), (side, side))
            if any(map(len, tile.polygons)):
                # The box of an outline that is cut is what is left of it; nothing where nothing is left.
                cut = (boxes != moved).any(1) & np.array([len(one) > 0 for one in tile.polygons], bool)
                boxes = np.where(cut[:, None], boxes_around(polygons, np.zeros_like(boxes)), boxes)
            shown.append(replace(tile, boxes_xyxy=boxes, polygons=polygons))
    composed = join_samples(shown, Canvas((side, side), tuple(layers)))
    return composed.select(np.all(composed.boxes_xyxy[:, 2:] > composed.boxes_xyxy[:, :2], axis=1))
