"""Step 7, the test function: batches go through the network, suppression and back to original pixels.

Then the detections of all ranks are gathered and compared with the data set, by COCO's protocol.
"""

# ruff: noqa: PT028  `test` is no test of pytest's

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from yoloflow.boxes import boxes_to_original
from yoloflow.evaluation.coco import evaluate_read
from yoloflow.evaluation.coco_arrays import ground_truth_of, result_array, result_masks, result_rows
from yoloflow.evaluation.coco_truth import Float64Array, describe_filled
from yoloflow.evaluation.masks import masks_of
from yoloflow.evaluation.metrics import compute_metrics
from yoloflow.evaluation.nms import MAX_NMS, non_max_suppression
from yoloflow.evaluation.result import DetectedImage, EvaluationResult, EvaluationSeconds
from yoloflow.files import write_atomically
from yoloflow.models import Network, prepare_for_inference
from yoloflow.models.exported import ExportedNetwork
from yoloflow.models.inference import Prediction, predict
from yoloflow.models.layers.contract import HeadOutput
from yoloflow.models.precision import Precision
from yoloflow.runtime.memory import peak_memory
from yoloflow.runtime.ranks import gather_over_ranks
from yoloflow.structures import Batch, DatasetIndex, Detections, YoloflowError

__all__ = [
    "EvaluationResult",
    "EvaluationSeconds",
    "Synchronizer",
    "test",
]

logger = logging.getLogger("yoloflow")

T = TypeVar("T")

NUM_EXAMPLES = 16


class Synchronizer:
    """Brings the ranks' parts of an evaluation together."""

    def __init__(self, world_size: int = 1) -> None:
        """Takes the number of ranks.

        Args:
            world_size: processes that evaluate together.

        Raises:
            YoloflowError: several ranks, but no process group of that size.
        """
        self.world_size = world_size
        group_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world_size > 1 and group_size != world_size:
            raise YoloflowError(
                f"Synchronizer: world_size is {world_size}, the process group has {group_size}; "
                "start the ranks with torchrun"
            )

    @property
    def is_main(self) -> bool:
        """True if this rank writes files."""
        return self.world_size == 1 or dist.get_rank() == 0

    def gather(self, value: T) -> list[T]:
        """Returns every rank's value, by rank; all ranks must call it."""
        return gather_over_ranks(value) if self.world_size > 1 else [value]


@dataclass(slots=True)
class _RankPart:
    """The detections of one rank."""

    detections: dict[int, Detections]
    seconds: dict[str, float]
    num_late_batches: int
    peak_memory: int | None


class _Stopwatch:
    """Adds up the time between laps, by name."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {"loading": 0.0, "network": 0.0, "nms": 0.0, "masks": 0.0}
        self._device = device
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        """Returns the seconds since the last lap, once the device is done; they count as `name`."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self.seconds[name] += seconds
        return seconds


def test(
    network: nn.Module,
    dataloader: Iterable[Batch],
    index: DatasetIndex,
    *,
    conf_thres: float = 0.001,
    iou_thres: float = 0.65,
    max_det: int = 300,
    nms_time_limit: float | None = 20.0,
    precision: Precision | None = None,
    synchronizer: Synchronizer | None = None,
    save_json: str | Path | None = None,
) -> EvaluationResult:
    """Evaluates a network with COCO's protocol: its boxes, and its masks where it predicts any.

    Of a `Network` a fused copy is evaluated (see `prepare_for_inference`); any other is in evaluation mode
    meanwhile. An image that comes twice (a loader may fill up its last batch) counts once.

    Args:
        network: takes the batches' images, uint8 RGB, as they are. Its `output_kind` says what its first
            output in evaluation mode is (see `HeadOutput`); boxes in input pixels.
        dataloader: this rank's batches.
        index: the data set that the batches' `indices` refer to.
        conf_thres: scores must be above it.
        iou_thres: largest IoU of two detections of a class.
        max_det: detections of an image at most.
        nms_time_limit: seconds; a batch that takes longer is warned of and counted, and finished.
        precision: computes the forward pass in its precision (default: float32).
        synchronizer: brings several ranks together.
        save_json: the main rank writes the detections here, as a COCO results file.

    Raises:
        YoloflowError: the loader gives nothing, or network and data set do not fit together.
    """
    kind = cast(HeadOutput, network.output_kind)
    num_masks = int(getattr(kind, "mask_channels", 0))
    thresholds: dict[str, Any] = {"conf_thres": conf_thres, "iou_thres": iou_thres, "max_det": max_det}
    suppress = partial(
        non_max_suppression,
        **thresholds,
        conf_free=not kind.has_objectness,
        need_nms=not kind.end_to_end,
        num_masks=num_masks,
        time_limit_s=nms_time_limit,
    )
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    settings = {"nms_time_limit": nms_time_limit, **_settings_of(network, device, precision, thresholds)}
    if isinstance(network, Network):
        network = prepare_for_inference(network, in_float32=settings["precision"] == "float32")

    def detect(images: Tensor) -> Prediction:
        with precision.autocast() if precision is not None else nullcontext():
            prediction = predict(network, images)
        _check_classes(prediction.rows[..., : -num_masks or None], kind, index)
        return prediction

    with in_mode(network, training=False), torch.inference_mode():
        part = _evaluate_part(detect, suppress, dataloader, device, nms_time_limit)
    return _conclude(part, index, synchronizer or Synchronizer(), save_json, settings)


test.__test__ = False  # type: ignore[attr-defined]  # keeps pytest from collecting it


def _evaluate_part(
    detect: Callable[[Tensor], Prediction],
    suppress: Callable[[Tensor], list[Tensor]],
    dataloader: Iterable[Batch],
    device: torch.device,
    nms_time_limit: float | None,
) -> _RankPart:
    """Returns this rank's batches through the network and suppression."""
    stopwatch = _Stopwatch(device)
    detections: dict[int, Detections] = {}
    num_late_batches = 0
    for batch in dataloader:
        images = batch.images.to(device, non_blocking=True)
        stopwatch.lap("loading")
        prediction = detect(images)
        stopwatch.lap("network")
        rows = _on_host(suppress(prediction.rows))
        found = [_to_original(rows[i], batch, i) for i in range(len(rows))]
        seconds = stopwatch.lap("nms")
        if prediction.prototypes is not None:
            _add_masks(found, rows, prediction.prototypes, batch)
            stopwatch.lap("masks")
        for position, found_here in zip(batch.indices.tolist(), found, strict=True):
            detections.setdefault(position, found_here)
        num_late_batches += nms_time_limit is not None and seconds > nms_time_limit
    return _RankPart(detections, stopwatch.seconds, num_late_batches, peak_memory(device))


@contextmanager
def in_mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Sets the mode of training or of evaluation; afterwards each module is in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    network.train(training)
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def _settings_of(
    network: nn.Module, device: torch.device, precision: Precision | None, thresholds: dict[str, Any]
) -> dict[str, Any]:
    """Returns the thresholds that count, and the other settings."""
    dtype = precision.dtype if precision is not None else None
    return {
        **thresholds,
        "nms": not cast(HeadOutput, network.output_kind).end_to_end,
        "multi_label": True,
        "max_nms": MAX_NMS,
        "device": device.type,
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "fused": isinstance(network, Network),
        **_inside(network, thresholds),
    }


def _inside(network: nn.Module, thresholds: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a suppression inside an exported file; none where that is left to us."""
    nms = network.info.nms if isinstance(network, ExportedNetwork) else None
    if nms is None:
        return {}
    return {
        "conf_thres": max(thresholds["conf_thres"], nms.conf_thres),
        "iou_thres": nms.iou_thres,
        "max_det": min(thresholds["max_det"], nms.max_det),
        **{"nms": True, "nms_inside": True, "multi_label": False},
    }


def _check_classes(prediction: Tensor, kind: HeadOutput, index: DatasetIndex) -> None:
    num_known = len(index.names)
    if kind.end_to_end:  # its width does not tell, its class numbers may
        num_classes = max(num_known, int(prediction[..., 5].nan_to_num(0, 0, 0).max()) + 1)
    else:
        num_classes = prediction.shape[-1] - (5 if kind.has_objectness else 4)
    if num_classes != num_known:
        raise YoloflowError(
            f"the network predicts {num_classes} classes, the data set has {num_known} "
            f"({', '.join(index.names[:5])}, ...); evaluate it on data with the classes it was trained on"
        )


def _on_host(rows: list[Tensor]) -> list[Tensor]:
    """Returns the rows of each image in main memory, by one transfer for the batch."""
    return list(torch.split(torch.cat(rows).cpu(), [len(part) for part in rows]))


def _to_original(rows: Tensor, batch: Batch, i: int) -> Detections:
    """Converts rows of image i in input pixels to detections in pixels of the original image."""
    boxes_xyxy = boxes_to_original(
        rows[:, :4], batch.scales_xy[i], batch.pads_xy[i], batch.original_sizes_hw[i]
    )
    return Detections(boxes_xyxy.numpy(), rows[:, 4].numpy(), rows[:, 5].numpy().astype(np.int64))


def _add_masks(found: list[Detections], rows: list[Tensor], prototypes: Tensor, batch: Batch) -> None:
    """Gives the detections of each image their masks."""
    for i, (detections, cells) in enumerate(zip(found, prototypes.float().cpu(), strict=True)):
        detections.masks = masks_of(
            cells,
            rows[i][:, 6:],
            torch.from_numpy(detections.boxes_xyxy),
            input_hw=(batch.images.shape[2], batch.images.shape[3]),
            scale_xy=batch.scales_xy[i],
            pad_xy=batch.pads_xy[i],
            original_size_hw=batch.original_sizes_hw[i],
        )


def _listed_rows(
    results: Float64Array, masks: list[dict[str, Any]] | None, index: DatasetIndex
) -> list[dict[str, Any]]:
    """Returns the rows of a file, without classes for which the json of the data set has no category."""
    known = ~np.isin(results[:, 6], index.category_ids[index.unlisted_classes])
    if not known.all():
        names = ", ".join(index.names[number] for number in index.unlisted_classes)
        logger.info("left out of the file: %d detections of %s, no categories there", (~known).sum(), names)
    masks = masks and [masks[k] for k in np.flatnonzero(known).tolist()]
    return result_rows(results[known], index, masks)


def _write_json(path: Path, content: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(content).encode())
    except OSError as error:
        raise YoloflowError(f"{path}: the detections cannot be written there ({error.strerror})") from error


def _conclude(
    part: _RankPart,
    index: DatasetIndex,
    synchronizer: Synchronizer,
    save_json: str | Path | None,
    settings: Mapping[str, Any],
) -> EvaluationResult:
    """Returns all ranks' parts as one result."""
    start = time.perf_counter()
    parts = synchronizer.gather(part)
    found = {position: rows for other in reversed(parts) for position, rows in other.detections.items()}
    detections = {position: found[position] for position in sorted(found)}
    if not detections:
        raise YoloflowError("nothing to evaluate: the loader gives no batch; is the validation set empty?")
    if len(detections) < len(index):
        logger.warning("%d of %d images evaluated: the loader gives no others", len(detections), len(index))
    results, masks = result_array(detections, index), result_masks(detections)
    if save_json is not None and synchronizer.is_main:
        _write_json(Path(save_json), _listed_rows(results, masks, index))
    image_ids = index.image_ids[list(detections)].tolist()
    truth = ground_truth_of(index, with_masks=masks is not None)
    if truth.num_filled and synchronizer.is_main:
        logger.warning("%s", describe_filled(truth))
    # The list of the library's type holds polygons too.
    read = truth.coco.load_res(results, segmentation=cast(Any, masks))
    coco = evaluate_read(truth, read, image_ids)
    slowest = {name: max(other.seconds[name] for other in parts) for name in part.seconds}
    peaks = [other.peak_memory for other in parts if other.peak_memory is not None]
    return EvaluationResult(
        coco=coco,
        masks=None if masks is None else evaluate_read(truth, read, image_ids, "segm"),
        metrics=compute_metrics(coco, truth, results),
        detections=detections,
        examples=tuple(
            DetectedImage(Path(index.image_paths[position]), detections[position])
            for position in list(detections)[:NUM_EXAMPLES]
        ),
        seconds=EvaluationSeconds(**slowest, figures=time.perf_counter() - start),
        num_images=len(detections),
        num_late_batches=sum(other.num_late_batches for other in parts),
        index=index,
        peak_memory_mb=max(peaks) / 2**20 if peaks else None,
        settings={**settings, "ranks": synchronizer.world_size},
    )
