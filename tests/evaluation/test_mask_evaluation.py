"""The test function on a network that segments: figures of boxes and masks, equal to pycocotools'."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.support.coco_oracle import pycocotools_classes, random_polygon, run_pycocotools
from yoloflow.data.formats.outlines import (
    NO_POLYGON,
    join_parts,
    mask_of_pixels,
    pixels_of_mask,
    pixels_of_segmentation,
)
from yoloflow.data.writers.coco_json import ground_truth_dict, segmentations
from yoloflow.evaluation.coco import evaluate_coco
from yoloflow.evaluation.coco_arrays import ground_truth_of
from yoloflow.evaluation.diagnostics.images import corners
from yoloflow.evaluation.run_diagnostics import diagnostics_of_run
from yoloflow.evaluation.test_function import Synchronizer, test
from yoloflow.models.layers.contract import HeadOutput
from yoloflow.runtime.ranks import leave_ranks
from yoloflow.structures import Batch, DatasetIndex

IMAGES, PER_IMAGE, CHANNELS = 8, 5, 6
HEIGHT, WIDTH, SIDE, CELLS = 60, 96, 64, 16
SCALE, PAD_XY = SIDE / WIDTH, (0.0, 12.0)


class KnownSegmenter(nn.Module):
    """Answers each image, recognised by its first pixel, with rows and prototypes learned by heart."""

    def __init__(self, rows: Tensor, prototypes: Tensor) -> None:
        super().__init__()
        self.rows, self.prototypes = nn.Parameter(rows), nn.Parameter(prototypes)
        self.output_kind = HeadOutput(mask_channels=CHANNELS)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        positions = images[:, 0, 0, 0].long()
        return self.rows[positions], (images, self.prototypes[positions])


def data_set() -> DatasetIndex:
    """Eight images with polygons of one or two parts, run lengths, a crowd region and a bare box."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, [WIDTH - 45, HEIGHT - 32], (IMAGES * PER_IMAGE, 2)).round(2)
    boxes = np.concatenate((low, low + rng.uniform(12, [45, 32], low.shape).round(2)), 1)
    outlines: list[Any] = []
    parts, masks = {}, {}
    for k, (x, y, X, Y) in enumerate(boxes.tolist()):  # noqa: N806
        pieces = [
            np.array(random_polygon(rng, [x, y, X - x, Y - y]), np.float32).reshape(-1, 2) for _ in range(2)
        ]
        kind = k % 5
        outlines.append(NO_POLYGON if kind == 4 else join_parts(pieces if kind == 1 else pieces[:1]))
        if kind == 1:
            parts[k] = [len(piece) for piece in pieces]
        if kind in (2, 3):
            masks[k] = mask_of_pixels(ellipse(x, y, X, Y))
    return DatasetIndex(
        image_paths=np.array([f"/data/{i}.jpg" for i in range(IMAGES)]),
        image_ids=np.arange(IMAGES) * 3 + 5,
        sizes_hw=np.tile((HEIGHT, WIDTH), (IMAGES, 1)),
        box_offsets=np.arange(IMAGES + 1) * PER_IMAGE,
        boxes_xyxy=boxes,
        classes=rng.integers(0, 2, len(boxes)),
        is_crowd=np.arange(len(boxes)) % 5 == 3,
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], 1) * 0.6,
        polygon_offsets=np.cumsum([0, *map(len, outlines)]),
        polygon_points=np.concatenate(outlines).astype(np.float32),
        polygon_parts=parts,
        masks=masks,
        names=["cat", "dog"],
        category_ids=np.array([2, 4]),
    )


def ellipse(x1: float, y1: float, x2: float, y2: float) -> Any:
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return (((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1).astype(np.uint8)


def segmenter(index: DatasetIndex, noise: float) -> KnownSegmenter:
    """Returns a network that finds every object moved by `noise`, as an ellipse, and some false ones."""
    rng = np.random.default_rng(1)
    rows = np.zeros((IMAGES, 20, 6 + CHANNELS), np.float32)
    rows[..., :2], rows[..., 2:4] = rng.uniform(5, 60, (IMAGES, 20, 2)), rng.uniform(3, 20, (IMAGES, 20, 2))
    rows[..., 4:6] = rng.uniform(0, 0.3 if noise else 0.0005, (IMAGES, 20, 2))
    rows[..., 6:] = rng.normal(0, 1, (IMAGES, 20, CHANNELS))
    prototypes = np.zeros((IMAGES, CHANNELS, CELLS, CELLS), np.float32)
    y, x = (np.mgrid[:CELLS, :CELLS] + 0.5) * SIDE / CELLS
    for i in range(IMAGES):
        span = slice(index.box_offsets[i], index.box_offsets[i + 1])
        boxes = index.boxes_xyxy[span] * SCALE + np.tile(PAD_XY, 2)
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        centres += rng.normal(0, 1, centres.shape) * sizes * noise
        rows[i, :PER_IMAGE, :4] = np.concatenate((centres, sizes), 1)
        rows[i, np.arange(PER_IMAGE), 4 + index.classes[span]] = rng.uniform(0.3, 1, PER_IMAGE)
        rows[i, :PER_IMAGE, 6:] = np.eye(CHANNELS)[:PER_IMAGE]
        for k, ((cx, cy), (w, h)) in enumerate(zip(centres, sizes, strict=True)):
            prototypes[i, k] = 1 - (2 * (x - cx) / w) ** 2 - (2 * (y - cy) / h) ** 2
    return KnownSegmenter(torch.from_numpy(rows), torch.from_numpy(prototypes))


def batches(positions: list[int], batch_size: int = 3) -> list[Batch]:
    result = []
    for start in range(0, len(positions), batch_size):
        part = torch.tensor(positions[start : start + batch_size])
        images = torch.zeros(len(part), 3, SIDE, SIDE, dtype=torch.uint8)
        images[:, 0, 0, 0] = part.to(torch.uint8)
        result.append(
            Batch(
                images=images,
                labels=torch.zeros(len(part), 0, 6),
                indices=part,
                original_sizes_hw=torch.tensor([[HEIGHT, WIDTH]]).repeat(len(part), 1).float(),
                scales_xy=torch.full((len(part), 2), SCALE),
                pads_xy=torch.tensor([PAD_XY]).repeat(len(part), 1),
            )
        )
    return result


ALL = list(range(IMAGES))


def content_of(index: DatasetIndex) -> dict[str, Any]:
    """The data set as a COCO file; a box without an outline is drawn as pycocotools draws a detection's."""
    content = ground_truth_dict(index)
    for row, segmentation in zip(content["annotations"], segmentations(index), strict=True):
        x, y, w, h = row["bbox"]
        row["segmentation"] = segmentation or [[x, y, x, y + h, x + w, y + h, x + w, y]]
    return content


def test_figures_of_boxes_and_masks_are_bit_equal_to_pycocotools(tmp_path: Path) -> None:
    index, saved = data_set(), tmp_path / "found.json"
    result = test(segmenter(index, 0.1), batches(ALL), index, save_json=saved)
    found = json.loads(saved.read_text())
    assert result.masks is not None
    for iou_type, ours in (("bbox", result.coco), ("segm", result.masks)):
        expected = run_pycocotools(content_of(index), found, iou_type=iou_type)
        assert list(ours.stats) == expected.stats.tolist()
        rows = [
            (row.ap, row.ap50, row.ap75, row.ap_small, row.ap_medium, row.ap_large, row.ar100)
            for row in ours.per_class
        ]
        assert rows == pycocotools_classes(expected)
    assert 0.1 < result.masks.map < result.map + 0.5 < 1.5
    assert result.masks.stats != result.coco.stats


def test_the_written_detections_have_masks_and_the_same_figures(tmp_path: Path) -> None:
    index, saved, truth = data_set(), tmp_path / "found.json", tmp_path / "truth.json"
    result = test(segmenter(index, 0.1), batches(ALL), index, save_json=saved)
    truth.write_text(json.dumps(content_of(index)))
    assert evaluate_coco(truth, saved) == result.coco
    assert evaluate_coco(truth, saved, iou_type="segm") == result.masks
    row = json.loads(saved.read_text())[0]
    assert row["segmentation"]["size"] == [HEIGHT, WIDTH]
    assert isinstance(row["segmentation"]["counts"], str)


def test_exact_masks_have_a_high_ap_and_lie_in_their_boxes() -> None:
    index = data_set()
    result = test(segmenter(index, 0), batches(ALL), index)
    assert result.masks is not None
    assert result.map == pytest.approx(1)
    assert result.masks.map50 > 0.6
    for found in result.detections.values():
        assert found.masks is not None
        for (x1, y1, x2, y2), mask in zip(found.boxes_xyxy, found.masks, strict=True):
            ys, xs = pixels_of_mask(mask).nonzero()
            assert len(xs)
            assert ((xs + 0.5 >= x1) & (xs + 0.5 < x2) & (ys + 0.5 >= y1) & (ys + 0.5 < y2)).all()


def test_figures_and_json_name_the_masks() -> None:
    index = data_set()
    result = test(segmenter(index, 0.1), batches(ALL), index)
    assert result.masks is not None
    figures, content = result.figures(), json.loads(json.dumps(result.to_json()))
    assert (figures["mask_map"], figures["mask_map50"]) == (result.masks.map, result.masks.map50)
    assert figures["mask_stats"] == content["mask_stats"] == list(result.masks.stats)
    assert figures["mask_per_class"] == content["mask_per_class"]
    assert content["speed"]["milliseconds_per_image"]["masks"] > 0
    assert "masks" in result.speed


def test_objects_without_an_outline_fill_their_box_and_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = data_set()
    with caplog.at_level(logging.WARNING, "yoloflow"):
        test(segmenter(index, 0), batches(ALL), index)
    assert "8 of 40 objects have neither outline nor mask and count as filling their box" in caplog.text
    assert ground_truth_of(index).num_filled is None
    assert ground_truth_of(index, with_masks=True).num_filled == 8


def test_an_image_without_detections_counts() -> None:
    index = data_set()
    network = segmenter(index, 0)
    with torch.no_grad():
        network.rows[2, :, 4:6] = 0
    result = test(network, batches(ALL), index)
    assert result.masks is not None
    assert result.detections[2].masks == []
    assert 0.5 < result.masks.map50 < 1
    with torch.no_grad():
        network.rows[..., 4:6] = 0
    result = test(network, batches(ALL), index)
    assert result.masks is not None
    assert result.masks.stats == result.coco.stats
    assert result.map == 0


def test_the_worst_images_have_outlines_of_detections_and_of_missed_objects() -> None:
    index = data_set()
    network = segmenter(index, 0)
    with torch.no_grad():
        network.rows[:, ::2, 4:6] = 0  # every other object is missed, of each kind of label one at least
    content = diagnostics_of_run(test(network, batches(ALL), index), Path("best"), "")
    expected = content_of(index)["annotations"]
    drawn = [(image, box) for image in content["images"] for box in image["boxes"]]
    missed = [(image["image_id"], box) for image, box in drawn if box["kind"] == "missed"]
    assert len(missed) > IMAGES
    for image_id, box in missed:
        (row,) = (
            row
            for row in expected
            if row["image_id"] == image_id and corners(np.array(row["bbox"])) == box["box_xyxy"]
        )
        if expected.index(row) % 5 == 4:
            assert "outline" not in box, "the label is a bare box"
            continue
        truth = pixels_of_segmentation(row["segmentation"], (HEIGHT, WIDTH))
        again = np.zeros_like(truth)
        cv2.fillPoly(again, [np.array(ring, np.int32).reshape(-1, 2) for ring in box["outline"]], 1)
        assert (truth & again).sum() > 0.9 * (truth | again).sum()
    assert all("outline" in box for _, box in drawn if box["score"] is not None)


def evaluate_as_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    index = data_set()
    shard = [ALL[:5], [*ALL[5:], 0, 1]][rank]  # the second shard is filled up with images of the first
    saved = Path(folder) / "results.json"
    result = test(segmenter(index, 0.1), batches(shard), index, synchronizer=Synchronizer(2), save_json=saved)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(result.figures()))
    leave_ranks()


@pytest.mark.process
def test_two_ranks_give_exactly_what_one_process_gives(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(evaluate_as_rank, (str(tmp_path),), nprocs=2)
    index, saved = data_set(), tmp_path / "alone.json"
    alone = test(segmenter(index, 0.1), batches(ALL), index, save_json=saved)
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == alone.figures()
    assert (tmp_path / "results.json").read_bytes() == saved.read_bytes()
