"""Boxes drawn on images, and images side by side."""

import numpy as np

from yoloflow.data.formats.outlines import mask_of_pixels, pixels_of_mask
from yoloflow.report.box_drawing import class_colour, draw_detections, draw_grid, text_colour
from yoloflow.structures import RunLengthMask

NAMES = ["cat", "dog"]


def test_a_box_is_drawn_along_its_edge_and_the_rest_of_the_image_stays() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    boxes = np.array([[100, 80, 180, 150]], np.float32)
    drawn = draw_detections(image, boxes, np.array([1]), np.array([0.5], np.float32), NAMES)
    assert (image == 90).all(), "the input is not drawn on"
    assert drawn.shape == image.shape
    for x, y in ((100, 110), (179, 110), (140, 149)):
        assert tuple(drawn[y, x].tolist()) == class_colour(1)
    assert (drawn[84:146, 104:176] == 90).all(), "inside"
    assert (drawn[154:] == 90).all(), "below"


def test_the_label_stands_above_the_box_or_inside_where_there_is_no_room() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    for y1, rows in ((100, slice(80, 100)), (0, slice(1, 18))):
        box = np.array([[50, y1, 250, y1 + 90]], np.float32)
        drawn = draw_detections(image, box, np.array([0]), None, NAMES)
        assert (drawn[rows, 52:70] != 0).any()


def test_boxes_over_the_border_and_unknown_classes_and_tiny_images_are_drawn() -> None:
    boxes = np.array([[-50, -50, 500, 500], [-9, -9, -3, -3], [np.nan, 0, 5, 5]], np.float32)
    for height, width in ((1, 1), (7, 900), (64, 64)):
        image = np.zeros((height, width, 3), np.uint8)
        drawn = draw_detections(image, boxes, np.array([0, 7, 1]), np.ones(3, np.float32), NAMES)
        assert drawn.shape == image.shape


def test_the_best_detection_lies_on_top() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[20, 40, 80, 90]] * 2, np.float32)
    drawn = draw_detections(image, boxes, np.array([0, 1]), np.array([0.9, 0.3], np.float32), NAMES)
    assert tuple(drawn[70, 20].tolist()) == class_colour(0)


def test_the_text_grows_with_the_image() -> None:
    def label_pixels(side: int) -> int:
        image = np.zeros((side, side, 3), np.uint8)
        box = np.array([[side * 0.3, side * 0.5, side * 0.6, side * 0.8]], np.float32)
        drawn = draw_detections(image, box, np.array([0]), None, NAMES)
        return int((drawn[: side // 2 - 5] > 0).any(2).sum())

    assert label_pixels(1600) > 4 * label_pixels(400)


def test_class_colours_differ_and_their_text_contrasts() -> None:
    colours = [class_colour(number) for number in range(24)]
    assert len(set(colours)) == 24
    for first, second in zip(colours, colours[1:], strict=False):
        assert np.abs(np.subtract(first, second)).max() > 60
    for colour in colours:
        luma = np.dot(colour, (0.114, 0.587, 0.299))
        assert abs(luma - np.dot(text_colour(colour), (0.114, 0.587, 0.299))) > 100


def test_a_grid_holds_every_image_in_reading_order() -> None:
    images = [np.full((30, 40, 3), 50 * (k + 1), np.uint8) for k in range(5)]
    grid = draw_grid(images, 3)
    assert grid.shape == (2 * 34 + 4, 3 * 44 + 4, 3)
    for k in range(5):
        assert (grid[k // 3 * 34 + 20, k % 3 * 44 + 20] == 50 * (k + 1)).all()
    assert draw_grid(images[:2], 4).shape == (38, 92, 3)


def test_captions_lie_above_images_at_one_size_whatever_the_images_have() -> None:
    images = [np.full(shape, 90, np.uint8) for shape in ((200, 320, 3), (200, 320, 3), (400, 640, 3))]
    grid = draw_grid(images, 3, ["truth"] * 3)
    assert grid.shape == (24 + 200 + 8, 3 * 324 + 4, 3)
    bars = [grid[4:28, 4 + 324 * k : 324 * (k + 1)] for k in range(3)]
    assert (bars[0] == bars[1]).all()
    assert (bars[0] == bars[2]).all()
    assert bars[0].max() > 200
    long = draw_grid(images, 3, ["truth", "found " * 40, "found"])[4:28, 328:648]
    assert long[:, -4:].max() == 0, "a long text is shrunk to fit"


def test_a_grid_fits_images_of_other_sizes_in_proportion() -> None:
    images = [np.full(shape, 200, np.uint8) for shape in ((40, 40, 3), (40, 40, 3), (400, 100, 3))]
    last = draw_grid(images, 3)[:, 92:]
    filled = (last == 200).all(2)
    assert filled.any(1).sum() == 40
    assert filled.any(0).sum() == 10


def disc(height: int, width: int, radius: int) -> RunLengthMask:
    y, x = np.mgrid[:height, :width]
    return mask_of_pixels(((x - width // 2) ** 2 + (y - height // 2) ** 2 < radius**2).astype(np.uint8))


def test_a_mask_is_filled_half_transparent_with_its_outline_in_the_class_colour() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    boxes, mask = np.array([[100, 50, 200, 150]], np.float32), disc(200, 300, 50)
    drawn = draw_detections(image, boxes, np.array([1]), None, NAMES, [mask])
    assert (image == 90).all(), "the input is not drawn on"
    centre, colour = drawn[100, 150].astype(int), np.array(class_colour(1))
    assert ((centre - 90) * (colour - centre) >= 0).all(), "between the image and the colour"
    assert abs(centre - 90).max() > 20
    assert tuple(drawn[100, 101].tolist()) == class_colour(1), "the outline"
    assert (drawn[60, 110] == 90).all(), "in the box, not in the mask"


def test_a_hole_has_an_outline_and_is_not_filled() -> None:
    image = np.full((200, 200, 3), 90, np.uint8)
    ring = pixels_of_mask(disc(200, 200, 80)) - pixels_of_mask(disc(200, 200, 40))
    box = np.array([[20, 20, 180, 180]], np.float32)
    drawn = draw_detections(image, box, np.array([0]), None, NAMES, [mask_of_pixels(ring)])
    assert (drawn[100, 100] == 90).all()
    assert (drawn[100, 55:65] == class_colour(0)).all(1).any()
    assert (drawn[100, 30] != 90).any()


def test_the_mask_of_the_best_detection_lies_on_top_and_below_all_boxes() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    boxes, mask = np.array([[20, 40, 80, 90]] * 2, np.float32), disc(100, 100, 30)
    drawn = draw_detections(
        image, boxes, np.array([0, 1]), np.array([0.9, 0.3], np.float32), NAMES, [mask, mask]
    )
    assert tuple(drawn[70, 20].tolist()) == class_colour(0)
    last = np.rint(0.45 * np.array(class_colour(0)))
    assert (drawn[60, 50] >= last).all()


def test_empty_masks_and_masks_of_another_size_are_drawn() -> None:
    image, boxes = np.zeros((120, 160, 3), np.uint8), np.array([[0, 0, 160, 120]] * 2, np.float32)
    masks = [mask_of_pixels(np.zeros((60, 80), np.uint8)), disc(60, 80, 20)]
    drawn = draw_detections(image, boxes, np.array([0, 1]), None, NAMES, masks)
    assert (drawn[60, 80] > 0).any()
    assert (drawn[60, 135] == 0).all()
