"""The transform that pastes objects once more, mirrored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from yoloflow.data.transforms.canvas import Canvas, Layer
from yoloflow.data.transforms.geometry import Matrix, covered_share, move_boxes, move_polygons
from yoloflow.data.transforms.sample import Sample
from yoloflow.data.transforms.transform import Transform, TransformContext
from yoloflow.structures import Float32Array

MAX_COVERED = 0.30


@dataclass(frozen=True, slots=True)
class CopyPaste(Transform):
    """Pastes the mirror images of some objects at their mirrored places (Ghiasi et al. 2021, simplified).

    Only objects with a polygon can be cut out; without any the sample stays as it is. An object is pasted
    where it covers less than 30 % of every object that is there, those just pasted included.

    Attributes:
        prob: the share of a sample's objects that is pasted; **not** the probability of the step, which is
            always tried, as in MindYOLO.
        sorted: try the objects whose mirror image covers others least first, instead of in random order.
    """

    func_name: ClassVar[str] = "copy_paste"
    prob: float = 0.0
    sorted: bool = False

    def __post_init__(self) -> None:
        self.require_range("prob", 0, 1)

    @property
    def does_nothing(self) -> bool:
        """True if no object is ever pasted."""
        return self.prob == 0

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        """Return a composed sample with the pasted objects on top."""
        can_paste = np.array([len(polygon) > 2 for polygon in sample.polygons], bool)
        count = round(self.prob * int(can_paste.sum()))
        if count == 0:
            return sample
        canvas = sample.canvas
        mirror = np.array([[-1.0, 0.0, canvas.size_hw[1]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        mirrored = move_boxes(sample.boxes_xyxy, mirror)
        candidates = context.rng.permutation(np.flatnonzero(can_paste))
        if self.sorted:
            worst = covered_share(mirrored[candidates], sample.boxes_xyxy).max(1)
            candidates = candidates[np.argsort(worst, kind="stable")]
        boxes, pasted = sample.boxes_xyxy, []
        for row in candidates[:count].tolist():
            box = mirrored[row : row + 1]
            if (covered_share(box, boxes) < MAX_COVERED).all():
                boxes = np.concatenate((boxes, box))
                pasted.append(row)
        outlines = move_polygons([sample.polygons[row] for row in pasted], mirror)
        layers = [
            _mirrored_layer(canvas, sample.boxes_xyxy[row], mirror, outline)
            for row, outline in zip(pasted, outlines, strict=True)
        ]
        return replace(
            sample,
            canvas=canvas.add(layers),
            boxes_xyxy=boxes,
            classes=np.concatenate((sample.classes, sample.classes[pasted])),
            polygons=[*sample.polygons, *outlines],
        )

    def most_objects(self, count: int, per_image: int) -> int:
        """Return the objects with the share that is pasted on top."""
        return count + round(self.prob * count)


def _mirrored_layer(canvas: Canvas, box_xyxy: Float32Array, mirror: Matrix, outline: Float32Array) -> Layer:
    """Return the image that an object lies on, mirrored, of which only the object is drawn."""
    home = max(
        (layer for layer in canvas.layers if layer.outline is None),
        key=lambda layer: float(covered_share(_extent(layer), box_xyxy[None])[0, 0]),
    )
    return Layer(home.image, mirror @ home.matrix, outline)


def _extent(layer: Layer) -> Float32Array:
    """Return the (1, 4) corner box of a layer on its canvas."""
    height, width = layer.image.shape[:2]
    return move_boxes(np.array([[0, 0, width, height]], np.float32), layer.matrix)
