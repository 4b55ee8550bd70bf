"""The fused mosaic compared with a plain one of two steps with draws of its own: the same distributions."""

import math

import cv2
import numpy as np
import pytest

from tests.support.toy_images import ToyImages
from yoloflow.data.transforms import TransformContext, create_transforms
from yoloflow.data.transforms.rows import Row

SIZE = 96
SCALE, TRANSLATE = 0.5, 0.1
# Kolmogorov and Smirnov's two-sample bound for a false alarm in 10,000.
_FALSE_ALARM = 1e-4


def plain_sample(source: ToyImages, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paste four images on a canvas of twice the size, then warp it; (S, S, 3) image and (N, 4) boxes."""
    canvas = np.full((2 * SIZE, 2 * SIZE, 3), 114, np.uint8)
    centre_x, centre_y = (int(rng.uniform(0.5, 1.5) * SIZE) for _ in range(2))
    boxes = []
    for place, number in enumerate([index, *rng.integers(0, len(source), 3)]):
        tile = source.load(int(number))
        height, width = tile.image.shape[:2]
        left = centre_x - width if place % 2 == 0 else centre_x
        top = centre_y - height if place < 2 else centre_y
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, 2 * SIZE), min(top + height, 2 * SIZE)
        canvas[y1:y2, x1:x2] = tile.image[y1 - top : y2 - top, x1 - left : x2 - left]
        for box in tile.boxes_xyxy:
            moved = np.clip(box + (left, top, left, top), 0, 2 * SIZE)
            if (moved[2:] > moved[:2]).all():
                boxes.append(moved)
    zoom = rng.uniform(1 - SCALE, 1 + SCALE)
    shift = rng.uniform(0.5 - TRANSLATE, 0.5 + TRANSLATE, 2) * SIZE - zoom * SIZE
    pixels = np.array([[zoom, 0, shift[0] + zoom / 2 - 0.5], [0, zoom, shift[1] + zoom / 2 - 0.5]])
    image = cv2.warpAffine(canvas, pixels, (SIZE, SIZE), borderValue=(114, 114, 114))
    kept = []
    for box in boxes:
        after = np.clip(box * zoom + np.tile(shift, 2), 0, SIZE)
        sides, before = after[2:] - after[:2], (box[2:] - box[:2]) * zoom
        long, short = sides.max(), max(sides.min(), 1e-9)
        if (sides > 2).all() and sides.prod() > 0.1 * before.prod() and long / short < 20:
            kept.append(after)
    return image, np.array(kept).reshape(-1, 4)


def distance(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Kolmogorov and Smirnov's statistic of two samples, and its bound."""
    grid = np.sort(np.concatenate((first, second)))
    shares = [np.searchsorted(np.sort(one), grid, side="right") / len(one) for one in (first, second)]
    factor = math.sqrt(-math.log(_FALSE_ALARM / 2) / 2)
    bound = factor * math.sqrt((len(first) + len(second)) / (len(first) * len(second)))
    return float(np.abs(shares[0] - shares[1]).max()), bound


@pytest.mark.parametrize("samples", [150, pytest.param(2000, marks=pytest.mark.oracle)])
def test_boxes_and_images_are_distributed_as_in_a_plain_mosaic(samples: int) -> None:
    source = ToyImages(smooth=True, size=SIZE)
    rows: list[Row] = [
        {"func_name": "mosaic"},
        {"func_name": "random_perspective", "scale": SCALE, "translate": TRANSLATE},
    ]
    fused = create_transforms(rows)
    images: dict[str, list[np.ndarray]] = {"fused": [], "plain": []}
    boxes: dict[str, list[np.ndarray]] = {"fused": [], "plain": []}
    for number in range(samples):
        index = number % len(source)
        context = TransformContext(np.random.default_rng((1, number)), source, SIZE)
        sample = fused(source.load(index), context)
        plain, kept = plain_sample(source, index, np.random.default_rng((2, number)))
        for name, image, found in (("fused", sample.image, sample.boxes_xyxy), ("plain", plain, kept)):
            images[name].append(image)
            boxes[name].append(found)
    counts = [np.array([len(found) for found in boxes[name]], float) for name in boxes]
    assert distance(*counts)[0] < distance(*counts)[1]
    joined = [np.concatenate(boxes[name]) for name in boxes]
    for column in range(4):
        statistic, bound = distance(joined[0][:, column], joined[1][:, column])
        assert statistic < bound, f"corner {column}"
    for axis in range(2):
        sides = [found[:, axis + 2] - found[:, axis] for found in joined]
        assert distance(*sides)[0] < distance(*sides)[1]
    stacks = [np.stack(images[name]).astype(np.float32).mean(3) for name in images]
    noise = np.sqrt(sum(stack.var(0) for stack in stacks) / samples)
    z = (stacks[0].mean(0) - stacks[1].mean(0)) / noise
    # Neighbouring pixels go together: the mean of z^2 scatters around 1 as if of a few hundred pixels.
    assert 0.5 < np.square(z).mean() < 1.7
    spreads = [stack.std((1, 2)) for stack in stacks]
    assert distance(*spreads)[0] < distance(*spreads)[1]


def test_a_difference_of_five_percent_would_be_seen() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0, SIZE, 6000)
    statistic, bound = distance(first, rng.uniform(0, 1.05 * SIZE, 6000))
    assert statistic > bound
