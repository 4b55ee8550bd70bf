"""All diagnostics of one set of detections, and the file that they become."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yoloflow.evaluation.coco import STAT_NAMES, CocoResult, compared_ids, evaluate_read
from yoloflow.evaluation.coco_reader import Results, read_detection_rows
from yoloflow.evaluation.coco_truth import GroundTruth, read_ground_truth
from yoloflow.evaluation.diagnostics import average_precision, curves, images, intervals
from yoloflow.evaluation.diagnostics.calibration import Calibration, calibrate
from yoloflow.evaluation.diagnostics.confusion import BACKGROUND, CONVENTION, confusion_matrix, mix_ups
from yoloflow.evaluation.diagnostics.errors import KINDS, ErrorSummary, find_errors, summarise
from yoloflow.evaluation.diagnostics.labels import suspected_labels
from yoloflow.evaluation.diagnostics.matching import (
    BACKGROUND_IOU,
    Pairs,
    Tables,
    find_pairs,
    make_tables,
    match,
    operate,
)
from yoloflow.structures import Int64Array, YoloflowError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Intervals:
    """Bootstrap intervals of AP and AP50 at `level`, of so many samples of the images."""

    level: float
    samples: int
    ap: tuple[float, float]
    ap50: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and numbers."""
        return {
            "level": self.level,
            "samples": self.samples,
            "AP": list(self.ap),
            "AP50": list(self.ap50),
        }


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """The result of `diagnose`; K classes by rising category id, counts at `conf_thres` and `iou_thres`.

    Attributes:
        what: words for the evaluated weights or file.
        coco: COCO's figures.
        num_detections: detections given for the compared images.
        conf_thres: the operating point; iou_thres: least overlap of a true positive.
        at_point: counts at the operating point, T = 1.
        along: counts at the 101 thresholds `curves.CONFIDENCES`.
        best: (K,) each class's best threshold.
        matrix: (K + 1, K + 1) rows the truth, columns the prediction, the last the background.
        errors: their kinds, counts and costs.
        calibration: scores against shares of true positives.
        intervals: of AP; None if not asked for or without objects.
        label_errors: suspected labels, see `labels.suspected_labels`.
        images: the worst ones, see `images.worst_images`.
        speed: of the evaluation, where one was timed; see `run_diagnostics`.
    """

    what: str
    coco: CocoResult
    num_detections: int
    conf_thres: float
    iou_thres: float
    at_point: curves.Counts
    along: curves.Counts
    best: list[curves.BestThreshold]
    matrix: Int64Array
    errors: ErrorSummary
    calibration: Calibration
    intervals: Intervals | None
    label_errors: list[dict[str, Any]]
    images: list[dict[str, Any]]
    speed: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a diagnostics file; None stands where nothing is defined."""
        return {
            "schema": SCHEMA,
            "what": self.what,
            "num_images": self.coco.num_images,
            "num_objects": int(self.at_point.objects.sum()),
            "num_detections": self.num_detections,
            "conf_thres": self.conf_thres,
            "iou_thres": self.iou_thres,
            "stats": list(self.coco.stats),
            "stat_names": list(STAT_NAMES),
            "classes": self._classes(),
            "confidence_curves": self._confidence_curves(),
            "pr_curves": pr_curves(self.coco),
            "confusion": {
                "labels": [*(row.name for row in self.coco.per_class), BACKGROUND],
                "matrix": self.matrix.tolist(),
                "convention": CONVENTION,
            },
            "errors": {
                "base_ap50": self.errors.base_ap,
                "kinds": [
                    {"kind": kind, "count": number, "ap_cost": cost}
                    for kind, number, cost in zip(
                        KINDS, self.errors.counts, self.errors.ap_costs, strict=True
                    )
                ],
            },
            "calibration": asdict(self.calibration)
            | {"bins": [asdict(row) for row in self.calibration.bins]},
            "intervals": self.intervals and self.intervals.to_json(),
            "label_errors": self.label_errors,
            "images": self.images,
            "speed": self.speed,
        }

    def _classes(self) -> list[dict[str, Any]]:
        counts = self.at_point
        columns = {
            "precision": _known(counts.precision[:, 0]),
            "recall": _known(counts.recall[:, 0]),
            "f1": _known(counts.f1[:, 0]),
            "best_conf": [best.conf for best in self.best],
            "best_f1": [best.f1 for best in self.best],
            "true_positives": counts.right[:, 0].tolist(),
            "false_positives": counts.wrong[:, 0].tolist(),
            "ignored": counts.ignored[:, 0].tolist(),
            "missed": counts.missed[:, 0].tolist(),
        }
        return [
            asdict(row) | {key: column[k] for key, column in columns.items()}
            for k, row in enumerate(self.coco.per_class)
        ]

    def _confidence_curves(self) -> dict[str, Any]:
        values = {"precision": self.along.precision, "recall": self.along.recall, "f1": self.along.f1}
        return {
            "confidence": curves.CONFIDENCES.tolist(),
            "all": {key: _known(self.along.over_classes(value)) for key, value in values.items()},
            "per_class": [
                {"category_id": row.category_id} | {key: _known(value[k]) for key, value in values.items()}
                for k, row in enumerate(self.coco.per_class)
            ],
        }


def _known(values: Iterable[float]) -> list[float | None]:
    """Returns plain numbers, None for NaN."""
    return [None if math.isnan(value) else float(value) for value in values]


def diagnose(
    ground_truth: GroundTruth | Mapping[str, Any] | str | Path,
    detections: Results,
    image_ids: Sequence[int] | None = None,
    *,
    files: Mapping[int, str] | None = None,
    conf_thres: float | None = None,
    iou_thres: float = 0.5,
    num_bootstrap: int = 1000,
    seed: int = 0,
    num_worst: int = 60,
    what: str = "",
) -> Diagnostics:
    """Diagnoses detections: their figures, and the errors that cost AP.

    Args:
        ground_truth: COCO json file or its content, or either as `read_ground_truth` gives it.
        detections: as `evaluate_coco` takes them.
        image_ids: the images to compare (default: all of the ground truth).
        files: path of each image id (default: the ground truth's file_name).
        conf_thres: scores from it on are detections; None: best mean F1 over classes, of 0, 0.01 ... 1.
        iou_thres: least overlap of a true positive; COCO's figures and the PR curves have their own.
        num_bootstrap: samples for the intervals; 0: no intervals.
        seed: of these samples.
        num_worst: images described in full, at most.
        what: words for the evaluated weights or file.

    Raises:
        YoloflowError: something cannot be read or does not fit together, or an argument makes no sense.
    """
    _check(conf_thres, iou_thres, num_bootstrap)
    truth = read_ground_truth(ground_truth)
    rows = read_detection_rows(detections, truth)
    coco = evaluate_read(truth, truth.coco.load_res(rows), image_ids)
    compared = compared_ids(image_ids, truth)
    tables = make_tables(truth, rows, compared)
    pairs = find_pairs(tables)
    matches = match(tables, pairs, iou_thres)
    along = curves.count(tables, matches, curves.CONFIDENCES)
    conf_thres = curves.operating_point(along) if conf_thres is None else float(conf_thres)
    point = operate(tables, matches, conf_thres)
    mixed_up = mix_ups(point, pairs, iou_thres)
    kinds = find_errors(tables, pairs, matches, iou_thres)
    facts = images.image_facts(truth.images, files)
    return Diagnostics(
        what=what,
        coco=coco,
        num_detections=int(np.isin(rows[:, 0], compared).sum()),
        conf_thres=conf_thres,
        iou_thres=iou_thres,
        at_point=curves.count(tables, matches, np.array([conf_thres])),
        along=along,
        best=curves.best_thresholds(tables, matches),
        matrix=confusion_matrix(point, matches, mixed_up),
        errors=summarise(kinds, point, operate(tables, matches, -math.inf)),
        calibration=calibrate(tables, matches),
        intervals=_bootstrap(coco, tables, pairs, num_bootstrap, seed),
        label_errors=suspected_labels(point, kinds, mixed_up, facts),
        images=images.worst_images(point, kinds, facts, num_worst),
    )


def _check(conf_thres: float | None, iou_thres: float, num_bootstrap: int) -> None:
    if conf_thres is not None and not math.isfinite(conf_thres):
        raise YoloflowError(f"diagnostics: conf_thres is {conf_thres}, expected a number")
    if not BACKGROUND_IOU < iou_thres < 1:
        raise YoloflowError(
            f"diagnostics: iou_thres is {iou_thres}, expected a number between {BACKGROUND_IOU} and 1"
        )
    if num_bootstrap < 0:
        raise YoloflowError(f"diagnostics: num_bootstrap is {num_bootstrap}, expected 0 or more")


def _bootstrap(
    coco: CocoResult, tables: Tables, pairs: Pairs, num_samples: int, seed: int
) -> Intervals | None:
    if not num_samples:
        return None
    rankings = intervals.rank_classes(tables, pairs)
    weights = intervals.draw_images(len(tables.image_ids), num_samples, seed)
    ap, ap50 = (
        intervals.interval(figure, samples, (0, 1))
        for figure, samples in zip(coco.stats, intervals.resampled_ap(rankings, weights), strict=False)
    )
    if ap is None or ap50 is None:
        return None
    return Intervals(intervals.LEVEL, num_samples, ap, ap50)


def pr_curves(coco: CocoResult) -> dict[str, Any]:
    """Returns the content of `pr_curves`: precision over recall at IoU 0.50, of all classes and of each.

    Args:
        coco: figures of boxes or of masks.
    """
    has_objects = coco.pr50[:, 0] > -1
    mean = coco.pr50[has_objects].mean(0) if has_objects.any() else np.full(101, np.nan)
    return {
        "iou": 0.5,
        "recall": average_precision.RECALLS.tolist(),
        "all": _known(mean),
        "per_class": [
            {"category_id": row.category_id, "precision": coco.pr50[k].tolist()}
            for k, row in enumerate(coco.per_class)
            if has_objects[k]
        ],
    }
