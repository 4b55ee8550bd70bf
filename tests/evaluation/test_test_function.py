"""The test function on networks whose detections are known, in one process and in two."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from yoloflow.data.writers.coco_json import ground_truth_dict
from yoloflow.evaluation.coco import CocoResult, evaluate_coco
from yoloflow.evaluation.coco_truth import Float64Array, GroundTruth
from yoloflow.evaluation.metrics import METRICS
from yoloflow.evaluation.run_diagnostics import diagnose_result
from yoloflow.evaluation.test_function import Synchronizer, test
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.runtime.ranks import leave_ranks
from yoloflow.structures import Batch, DatasetIndex, Detections, YoloflowError

SIZE = 64
IMAGES = 10


@dataclass(frozen=True)
class Kind:
    has_objectness: bool = False
    end_to_end: bool = False
    mask_channels: int = 0


class KnownDetector(nn.Module):
    """Answers each image, recognised by its first pixel, with rows it has learned by heart."""

    def __init__(self, rows: Tensor, kind: Kind | None = None) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.statistics = nn.BatchNorm2d(3)
        self.output_kind = kind or Kind()
        self.seen_modes: set[bool] = set()

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.seen_modes.add(self.training or torch.is_grad_enabled())
        assert images.dtype == torch.uint8
        self.statistics(images.float() / 255)
        positions = images[:, 0, 0, 0].long()
        return self.rows[positions], [images]


def data_set(seed: int = 0) -> DatasetIndex:
    """Ten images of 200 x 100 pixels with up to five boxes of two classes; the last has none."""
    rng = np.random.default_rng(seed)
    counts = np.append(rng.integers(1, 6, IMAGES - 1), 0)
    low = rng.uniform(0, [150, 60], (counts.sum(), 2))
    boxes = np.concatenate((low, low + rng.uniform(10, 40, low.shape)), 1)
    return DatasetIndex(
        image_paths=np.array([f"/data/{i}.jpg" for i in range(IMAGES)]),
        image_ids=np.arange(IMAGES) * 3 + 5,
        sizes_hw=np.tile((100, 200), (IMAGES, 1)),
        box_offsets=np.append(0, counts.cumsum()),
        boxes_xyxy=boxes,
        classes=rng.integers(0, 2, len(boxes)),
        is_crowd=np.zeros(len(boxes), bool),
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], 1),
        polygon_offsets=np.zeros(len(boxes) + 1, np.int64),
        polygon_points=np.zeros((0, 2), np.float32),
        names=["cat", "dog"],
        category_ids=np.array([2, 4]),
    )


# 200 x 100 pixels in a square of 64: factor 0.32, borders of 16 pixels above and below.
SCALE, PAD_XY = 0.32, (0.0, 16.0)


def rows_for(index: DatasetIndex, noise: float, seed: int = 0) -> Tensor:
    """(I, 40, 6) predictions: the true boxes moved by `noise` of their size, and false ones."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((IMAGES, 40, 6), np.float32)
    rows[..., :2] = rng.uniform(5, 60, (IMAGES, 40, 2))
    rows[..., 2:4] = rng.uniform(3, 20, (IMAGES, 40, 2))
    rows[..., 4:] = rng.uniform(0, 0.3 if noise else 0.0005, (IMAGES, 40, 2))
    for i in range(IMAGES):
        span = slice(index.box_offsets[i], index.box_offsets[i + 1])
        boxes = index.boxes_xyxy[span]
        boxes = boxes * SCALE + np.tile(PAD_XY, 2)
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        count = len(boxes)
        rows[i, :count, :2] = centre + rng.normal(0, 1, centre.shape) * size * noise
        rows[i, :count, 2:4] = size
        rows[i, np.arange(count), 4 + index.classes[span]] = rng.uniform(0.3, 1, count)
    return torch.from_numpy(rows)


def batches(positions: list[int], batch_size: int = 4) -> list[Batch]:
    result = []
    for start in range(0, len(positions), batch_size):
        part = torch.tensor(positions[start : start + batch_size])
        images = torch.zeros(len(part), 3, SIZE, SIZE, dtype=torch.uint8)
        images[:, 0, 0, 0] = part.to(torch.uint8)
        result.append(
            Batch(
                images=images,
                labels=torch.zeros(len(part), 0, 6),
                indices=part,
                original_sizes_hw=torch.tensor([[100.0, 200.0]]).repeat(len(part), 1),
                scales_xy=torch.full((len(part), 2), SCALE),
                pads_xy=torch.tensor([PAD_XY]).repeat(len(part), 1),
            )
        )
    return result


ALL = list(range(IMAGES))


def test_exact_boxes_in_input_pixels_have_ap_1_in_original_pixels() -> None:
    index = data_set()
    result = test(KnownDetector(rows_for(index, noise=0)), batches(ALL), index)
    assert result.map == pytest.approx(1)
    assert result.stats == result.coco.stats
    assert [row["name"] for row in result.per_class] == ["cat", "dog"]
    assert result.num_images == IMAGES
    assert result.num_late_batches == 0
    for i in ALL:
        boxes = index.boxes_xyxy[index.box_offsets[i] : index.box_offsets[i + 1]]
        found = result.detections[i]
        nearest = np.abs(found.boxes_xyxy[:, None] - np.minimum(boxes, [200, 100, 200, 100])).max(-1)
        assert (nearest.min(1, initial=np.inf) < 1e-4).all()
        assert len(found) == len(boxes)
        assert found.boxes_xyxy.dtype == np.float32
        assert found.classes.dtype == np.int64


def test_objectness_and_end_to_end_heads_are_read_as_they_say() -> None:
    index = data_set()
    rows = rows_for(index, noise=0.1)
    expected = test(KnownDetector(rows), batches(ALL), index)
    with_objectness = torch.cat((rows[..., :4], torch.ones(IMAGES, 40, 1), rows[..., 4:]), -1)
    result = test(KnownDetector(with_objectness, Kind(has_objectness=True)), batches(ALL), index)
    assert result.stats == expected.stats
    centre, half = rows[..., :2], rows[..., 2:4] / 2
    scores, classes = rows[..., 4:].max(-1, keepdim=True)
    ready = torch.cat((centre - half, centre + half, scores, classes), -1)
    result = test(KnownDetector(ready, Kind(end_to_end=True)), batches(ALL), index, conf_thres=0.5)
    assert 0 < result.map < 1
    assert all((found.scores > 0.5).all() for found in result.detections.values())


def test_a_metric_of_the_table_is_in_all_figures_of_the_result() -> None:
    def detections_per_image(coco: CocoResult, truth: GroundTruth, detections: Float64Array) -> float:
        return len(detections) / len(truth.image_ids)

    index = data_set()
    rows = rows_for(index, noise=0.1)
    plain = test(KnownDetector(rows), batches(ALL), index)
    METRICS["detections_per_image"] = detections_per_image
    try:
        result = test(KnownDetector(rows), batches(ALL), index)
    finally:
        del METRICS["detections_per_image"]
    expected = sum(len(found) for found in result.detections.values()) / IMAGES
    assert result.metrics == {"detections_per_image": expected}
    assert result.figures() == plain.figures() | dict(result.metrics)
    assert result.to_json()["detections_per_image"] == expected
    assert "detections_per_image" not in plain.to_json()


def test_a_metric_with_the_name_of_another_figure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "map", lambda coco, truth, detections: 0.0)
    index = data_set()
    with pytest.raises(YoloflowError, match="METRICS: map: the name of another figure"):
        test(KnownDetector(rows_for(index, noise=0)), batches(ALL), index)


def test_the_written_detections_have_the_same_figures(tmp_path: Path) -> None:
    index = data_set()
    path = tmp_path / "results.json"
    result = test(KnownDetector(rows_for(index, noise=0.15)), batches(ALL), index, save_json=path)
    assert 0.05 < result.map < 0.95
    truth_path = tmp_path / "truth.json"
    truth_path.write_text(json.dumps(ground_truth_dict(index)))
    assert evaluate_coco(truth_path, path) == result.coco


def test_each_module_is_afterwards_in_the_mode_it_was_in() -> None:
    index = data_set()
    network = KnownDetector(rows_for(index, noise=0)).train()
    network.statistics.eval()
    running_mean = network.statistics.running_mean
    assert running_mean is not None
    before = running_mean.clone()
    test(network, batches(ALL), index)
    assert (network.training, network.statistics.training) == (True, False)
    assert network.seen_modes == {False}
    network.statistics.train()
    test(network, batches(ALL), index)
    after = network.statistics.running_mean
    assert after is not None
    assert torch.equal(after, before)


def test_the_mode_comes_back_after_an_error_too() -> None:
    index = data_set()
    network = KnownDetector(torch.zeros(IMAGES, 5, 9)).train()
    with pytest.raises(YoloflowError, match="predicts 5 classes, the data set has 2"):
        test(network, batches(ALL), index)
    assert network.training


def test_a_class_number_beyond_the_data_set_is_refused() -> None:
    rows = torch.tensor([[[0.0, 0, 9, 9, 0.9, 6]]]).repeat(IMAGES, 1, 1)
    with pytest.raises(YoloflowError, match="predicts 7 classes, the data set has 2"):
        test(KnownDetector(rows, Kind(end_to_end=True)), batches(ALL), data_set())


def test_an_image_that_comes_twice_counts_once() -> None:
    index = data_set()
    network = KnownDetector(rows_for(index, noise=0.1))
    assert test(network, batches([*ALL, 0, 1]), index).coco == test(network, batches(ALL), index).coco


def test_images_that_the_loader_leaves_out_are_not_counted_as_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = data_set()
    with caplog.at_level(logging.WARNING, "yoloflow"):
        result = test(KnownDetector(rows_for(index, noise=0)), batches([4, 2]), index)
    assert result.map == pytest.approx(1)
    assert (result.num_images, list(result.detections)) == (2, [2, 4])
    assert "2 of 10 images evaluated" in caplog.text


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(YoloflowError, match="is the validation set empty"):
        test(KnownDetector(torch.zeros(1, 1, 6)), [], data_set())


def test_late_batches_are_counted_and_lose_nothing(caplog: pytest.LogCaptureFixture) -> None:
    index = data_set()
    network = KnownDetector(rows_for(index, noise=0.1))
    with caplog.at_level(logging.WARNING, "yoloflow"):
        late = test(network, batches(ALL), index, nms_time_limit=0)
    on_time = test(network, batches(ALL), index, nms_time_limit=None)
    assert (late.num_late_batches, on_time.num_late_batches) == (3, 0)
    assert late.coco == on_time.coco
    assert "nms_time_limit" in caplog.text


def test_the_seconds_and_the_first_images_are_told() -> None:
    index = data_set()
    result = test(KnownDetector(rows_for(index, noise=0)), batches(ALL[::-1]), index)
    assert [picture.path for picture in result.examples] == [Path(f"/data/{i}.jpg") for i in ALL]
    assert result.examples[3].detections is result.detections[3]
    parts = result.seconds
    assert min(parts.loading, parts.network, parts.nms, parts.figures) >= 0
    assert result.images_per_second == pytest.approx(IMAGES / parts.total)
    assert sum(result.milliseconds_per_image.values()) == pytest.approx(1000 * parts.total / IMAGES)
    assert result.peak_memory_mb is None or result.peak_memory_mb > 50
    assert result.index is index


def test_how_it_was_done_is_told() -> None:
    index = data_set()
    result = test(KnownDetector(rows_for(index, noise=0)), batches(ALL), index, iou_thres=0.6)
    assert result.settings_line == "NMS iou 0.6, conf 0.001, max_det 300; float32 on cpu, 1 rank"
    assert result.to_json()["settings"] == result.settings
    assert result.to_json()["speed"]["images_per_second"] == result.images_per_second
    ready = torch.tensor([[[0.0, 0, 9, 9, 0.9, 1]]]).repeat(IMAGES, 1, 1)
    result = test(KnownDetector(ready, Kind(end_to_end=True)), batches(ALL), index)
    assert result.settings_line.startswith("no NMS (end-to-end head), conf 0.001")


def test_a_half_precision_forward_pass_gives_float32_detections() -> None:
    index = data_set()
    precision = auto_mixed_precision("O2", "cpu")
    result = test(KnownDetector(rows_for(index, noise=0)), batches(ALL), index, precision=precision)
    assert result.map == pytest.approx(1)


def evaluate_as_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    index = data_set()
    shard = [ALL[:6], [*ALL[6:], 0, 5]][rank]  # the second shard is filled up with images of the first
    network = KnownDetector(rows_for(index, noise=0.15))
    saved = Path(folder) / "results.json"
    result = test(network, batches(shard), index, synchronizer=Synchronizer(2), save_json=saved)
    figures = {
        "coco": result.coco.to_json(),
        "images": result.num_images,
        "scores": scores_of(result.detections),
    }
    Path(folder, f"rank{rank}.json").write_text(json.dumps(figures))
    leave_ranks()


def scores_of(detections: dict[int, Detections]) -> dict[str, list[float]]:
    return {str(position): found.scores.tolist() for position, found in detections.items()}


@pytest.mark.process
def test_two_ranks_give_exactly_what_one_process_gives(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(evaluate_as_rank, (str(tmp_path),), nprocs=2)
    index = data_set()
    saved = tmp_path / "alone.json"
    alone = test(KnownDetector(rows_for(index, noise=0.15)), batches(ALL), index, save_json=saved)
    expected = {"coco": alone.coco.to_json(), "images": IMAGES, "scores": scores_of(alone.detections)}
    for rank in range(2):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == expected
    assert (tmp_path / "results.json").read_bytes() == saved.read_bytes()


def test_several_ranks_need_a_process_group() -> None:
    with pytest.raises(YoloflowError, match="start the ranks with torchrun"):
        Synchronizer(2)


def test_an_evaluation_is_diagnosed_with_the_images_of_its_data_set() -> None:
    index = data_set()
    result = test(KnownDetector(rows_for(index, noise=0.1)), batches([7, 2, 0, 5]), index)
    content = diagnose_result(result, result.index, "these weights").to_json()
    assert content["stats"] == list(result.stats)
    assert (content["what"], content["num_images"]) == ("these weights", 4)
    assert content["num_detections"] == sum(map(len, result.detections.values()))
    files = {image["image_id"]: image["file"] for image in content["images"]}
    assert files == {5: "/data/0.jpg", 11: "/data/2.jpg", 20: "/data/5.jpg", 26: "/data/7.jpg"}
    assert all((image["width"], image["height"]) == (200, 100) for image in content["images"])
    speed = content["speed"]
    assert speed["images_per_second"] == result.images_per_second
    milliseconds = speed["milliseconds_per_image"]
    assert milliseconds["network"] == pytest.approx(result.seconds.network * 1000 / 4)
    assert set(milliseconds) == {"loading", "network", "nms", "figures"}
