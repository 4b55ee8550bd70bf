"""Masks at the image's own size are those that the definition gives, pixel for pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from yoloflow.data.formats.outlines import mask_of_pixels, pixels_of_mask
from yoloflow.evaluation.masks import masks_of


def made_up(height: int, width: int, side: int, number: int, seed: int = 0) -> dict[str, Any]:
    """Returns smooth prototypes and boxes of all sizes, of an image letterboxed into a square of `side`."""
    generator = torch.Generator().manual_seed(seed)
    scale = min(side / height, side / width)
    new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
    coarse = torch.randn(1, 8, 7, 7, generator=generator)
    limit = torch.tensor([width, height, width, height])
    centres = torch.rand(number, 2, generator=generator) * limit[:2]
    halves = torch.rand(number, 2, generator=generator) ** 2 * limit[:2]
    boxes = torch.cat((centres - halves, centres + halves), 1)
    boxes[0] = limit
    boxes[0, :2] = 0
    return {
        "prototypes": torch.nn.functional.interpolate(coarse, size=side // 4, mode="bilinear")[0],
        "coefficients": torch.randn(number, 8, generator=generator),
        "boxes_xyxy": torch.minimum(boxes.clamp(min=0), limit),
        "input_hw": (side, side),
        "scale_xy": torch.tensor([new_width / width, new_height / height]),
        "pad_xy": torch.tensor([(side - new_width) // 2, (side - new_height) // 2]).float(),
        "original_size_hw": torch.tensor([height, width]).float(),
    }


def interpolation(size: int, scale: float, pad: float, cells: int, side: int) -> NDArray[np.float64]:
    """Returns (size, cells) the share of each cell in each pixel."""
    places = (((np.arange(size) + 0.5) * scale + pad) * cells / side - 0.5).clip(0, cells - 1)
    return np.maximum(1 - abs(places[:, None] - np.arange(cells)), 0)


def logits_and_boxes(
    prototypes: torch.Tensor,
    coefficients: torch.Tensor,
    boxes_xyxy: torch.Tensor,
    input_hw: tuple[int, int],
    scale_xy: torch.Tensor,
    pad_xy: torch.Tensor,
    original_size_hw: torch.Tensor,
) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Returns the whole image's logits of each detection, and which pixels are in its box."""
    height, width = (int(side) for side in original_size_hw)
    rows = interpolation(height, float(scale_xy[1]), float(pad_xy[1]), prototypes.shape[1], input_hw[0])
    columns = interpolation(width, float(scale_xy[0]), float(pad_xy[0]), prototypes.shape[2], input_hw[1])
    y, x = np.arange(height)[:, None] + 0.5, np.arange(width)[None] + 0.5
    found = []
    for row, box in zip(coefficients.double().numpy(), boxes_xyxy.numpy(), strict=True):
        logits = rows @ np.tensordot(row, prototypes.double().numpy(), 1) @ columns.T
        found.append((logits, (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])))
    return found


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(60, 80, 96), (97, 41, 64), (13, 20, 160), (150, 6, 64), (64, 64, 64), (1, 1, 32)],
)
def test_masks_equal_the_definition(height: int, width: int, side: int) -> None:
    case = made_up(height, width, side, 30, seed=height)
    found = masks_of(**case)
    for mask, (logits, in_box) in zip(found, logits_and_boxes(**case), strict=True):
        pixels = pixels_of_mask(mask).astype(bool)
        differs = pixels != (in_box & (logits > 0))
        assert (abs(logits[differs]) < 1e-5).all()  # rounding alone decides these
        assert mask == mask_of_pixels(pixels.astype(np.uint8))  # the only form of these pixels


def test_exact_numbers_give_exactly_the_definition() -> None:
    case = made_up(32, 32, 64, 12)
    case["prototypes"] = torch.randint(-2, 3, (8, 16, 16), generator=torch.Generator().manual_seed(1)).float()
    case["coefficients"] = case["coefficients"].sign()
    for mask, (logits, in_box) in zip(masks_of(**case), logits_and_boxes(**case), strict=True):
        assert (logits == 0).any()  # 0 is outside
        np.testing.assert_array_equal(pixels_of_mask(mask), in_box & (logits > 0))


def test_a_mask_that_fills_its_box_has_the_pixels_whose_centres_are_in_it() -> None:
    case = made_up(20, 30, 32, 3)
    case["prototypes"][:], case["coefficients"][:] = 1.0, 1.0
    case["boxes_xyxy"] = torch.tensor([[0.0, 0, 30, 20], [3.4, 2.6, 7.5, 5.5], [8, 8, 8.4, 9]])
    whole, part, nothing = (pixels_of_mask(mask) for mask in masks_of(**case))
    assert whole.all()
    assert part[3:5, 3:7].all()
    assert part.sum() == 8
    assert not nothing.any()


def test_an_image_without_detections_has_no_masks() -> None:
    case = made_up(20, 30, 32, 3)
    case["coefficients"], case["boxes_xyxy"] = torch.zeros(0, 8), torch.zeros(0, 4)
    assert masks_of(**case) == []


def test_a_prototype_that_is_not_finite_leaves_empty_masks() -> None:
    case = made_up(20, 30, 32, 3)
    case["prototypes"][:] = np.nan
    assert not any(pixels_of_mask(mask).any() for mask in masks_of(**case))
