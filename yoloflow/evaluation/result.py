"""The result of an evaluation: figures, detections, settings, time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from yoloflow.data.problems import problems_report
from yoloflow.evaluation.coco import CocoResult
from yoloflow.structures import DatasetIndex, Detections

MASK_PREFIX = "mask_"
"""Begins the names of the figures of masks."""


@dataclass(frozen=True, slots=True)
class DetectedImage:
    """An image file and its detections."""

    path: Path
    detections: Detections


@dataclass(frozen=True, slots=True)
class EvaluationSeconds:
    """The seconds of each part; of several ranks the slowest.

    Attributes:
        loading: waiting for images, and their way to the device.
        network: normalisation and forward pass, decoding included.
        nms: suppression, and the way back to original pixels.
        figures: gathering the ranks' detections and COCO's figures.
        masks: masks at the images' own sizes.
        loss: the loss, where it was asked for.
    """

    loading: float
    network: float
    nms: float
    figures: float
    masks: float = 0.0
    loss: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return self.loading + self.network + self.nms + self.masks + self.loss + self.figures


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation, the same on every rank (but for the seconds of the last part).

    Attributes:
        coco: the figures of boxes.
        detections: of each image, by its position in the data set.
        examples: the first images of the data set with their detections.
        seconds: where the time went.
        num_images: images evaluated.
        num_late_batches: batches whose suppression took longer than the limit; they count all the same.
        index: the data set evaluated.
        peak_memory_mb: most memory in MiB (in a training: since the memory forecast), of several ranks the
            largest: of the accelerator's, what tensors held; on the CPU, all that the process held. None
            where it is not told.
        metrics: figures of the table `METRICS`, by name.
        settings: plain words and numbers: thresholds, precision, device, ranks and, where
            the flow made the loader, pre-processing.
        masks: the figures of masks; None where the network predicts none.
        losses: the loss items, means over the images; empty where they were not asked for.
    """

    coco: CocoResult
    detections: dict[int, Detections]
    examples: tuple[DetectedImage, ...]
    seconds: EvaluationSeconds
    num_images: int
    num_late_batches: int
    index: DatasetIndex
    peak_memory_mb: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    masks: CocoResult | None = None
    losses: Mapping[str, float] = field(default_factory=dict)

    @property
    def stats(self) -> tuple[float, ...]:
        """The twelve COCO figures in pycocotools' order."""
        return self.coco.stats

    @property
    def map(self) -> float:
        """AP over IoU 0.50:0.95."""
        return self.coco.map

    @property
    def map50(self) -> float:
        """AP at IoU 0.50."""
        return self.coco.map50

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Each class's figures as plain dictionaries."""
        rows: list[dict[str, Any]] = self.coco.to_json()["per_class"]
        return rows

    def figures(self) -> dict[str, Any]:
        """Returns the figures that a run's summary keeps; those of masks begin with `mask_`."""
        masks = {} if self.masks is None else _figures(self.masks, MASK_PREFIX)
        losses = {"val_losses": dict(self.losses)} if self.losses else {}
        return {**_figures(self.coco), **masks, **self.metrics, **losses}

    @property
    def images_per_second(self) -> float:
        """Images in all the time, from the first batch to the figures."""
        return self.num_images / max(self.seconds.total, 1e-9)

    @property
    def milliseconds_per_image(self) -> dict[str, float]:
        """Each part's time over the images."""
        parts = asdict(self.seconds)
        for name, is_there in (("masks", self.masks is not None), ("loss", bool(self.losses))):
            if not is_there:
                del parts[name]
        return {name: 1000 * seconds / self.num_images for name, seconds in parts.items()}

    @property
    def settings_line(self) -> str:
        """One line on the settings."""
        return _describe(self.settings)

    @property
    def speed(self) -> str:
        """One line on time and memory."""
        parts = ", ".join(f"{name} {value:.1f}" for name, value in self.milliseconds_per_image.items())
        memory = f"; peak memory {self.peak_memory_mb:.0f} MB" if self.peak_memory_mb is not None else ""
        late = f"; {self.num_late_batches} batches over nms_time_limit" if self.num_late_batches else ""
        return f"milliseconds an image: {parts}; {self.images_per_second:.1f} images/s{memory}{late}"

    def to_json(self) -> dict[str, Any]:
        """Returns COCO's figures as `figures_json` has them, `settings`, `speed` and `data_problems`.

        The last is the account of the data set as `problems_report` has it, by the set's key.
        """
        return {
            **figures_json(self.coco, self.masks),
            **self.metrics,
            **({"val_losses": dict(self.losses)} if self.losses else {}),
            "settings": dict(self.settings),
            "speed": {
                "images_per_second": self.images_per_second,
                "milliseconds_per_image": self.milliseconds_per_image,
                "peak_memory_mb": self.peak_memory_mb,
                "late_batches": self.num_late_batches,
            },
            "data_problems": {"val_set": problems_report(self.index)},
        }


def figures_json(coco: CocoResult, masks: CocoResult | None) -> dict[str, Any]:
    """Returns `CocoResult.to_json` of boxes and, where there are masks, `mask_stats` and `mask_per_class`."""
    content = coco.to_json()
    if masks is not None:
        content |= {f"{MASK_PREFIX}{key}": masks.to_json()[key] for key in ("stats", "per_class")}
    return content


def _figures(result: CocoResult, prefix: str = "") -> dict[str, Any]:
    content = {"map": result.map, "map50": result.map50, **result.to_json()}
    return {f"{prefix}{name}": content[name] for name in ("map", "map50", "stats", "per_class")}


def _describe(settings: Mapping[str, Any]) -> str:
    parts = []
    if "shape" in settings:
        side = f"{settings['img_size']} px"
        sides = {"square": side, "rectangular": f"up to {side}"}.get(settings["shape"], "px")
        rows = "; ".join(_describe_row(row) for row in settings["test_transforms"])
        parts.append(f"{settings['shape']} {sides}, {rows}, shrunk {_SHRUNK[settings['test_shrink']]}")
    suppression = f"NMS iou {settings['iou_thres']:g}" if settings["nms"] else "no NMS (end-to-end head)"
    suppression += " inside the file" if settings.get("nms_inside") else ""
    parts.append(f"{suppression}, conf {settings['conf_thres']:g}, max_det {settings['max_det']}")
    ranks = "1 rank" if settings["ranks"] == 1 else f"{settings['ranks']} ranks"
    fused = ", fused" if settings["fused"] else ""
    parts.append(f"{settings['precision']} on {settings['device']}, {ranks}{fused}")
    return "; ".join(parts)


_SHRUNK = {"area": "by area", "linear": "bilinearly"}


def _describe_row(row: Mapping[str, Any]) -> str:
    arguments = [f"{key}={value}" for key, value in row.items() if key != "func_name"]
    return f"{row['func_name']} ({', '.join(arguments)})" if arguments else str(row["func_name"])
