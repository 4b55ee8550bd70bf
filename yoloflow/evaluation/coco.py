"""COCO's twelve figures, overall and by class, equal to pycocotools'. Imports no torch.

Lin et al. 2014, "Microsoft COCO", with the evaluation server's protocol: AP is the mean of the precision
at 101 recalls, over ten IoU thresholds 0.50 to 0.95 and all classes that have objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
from numpy.typing import NDArray

from yoloflow.evaluation.coco_reader import Results, read_detections
from yoloflow.evaluation.coco_truth import Float64Array, GroundTruth, read_ground_truth
from yoloflow.structures import YoloflowError

# In pycocotools' order. AP and AR over IoU 0.50:0.95 unless named otherwise; small below 32^2 pixels, large
# above 96^2; AR1, AR10, AR100: with so many detections an image.
STAT_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)

_ALL_AREAS, _SMALL, _MEDIUM, _LARGE = range(4)
_HUNDRED_DETECTIONS = 2


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The figures of a class; None where it has no objects (of that size).

    Attributes:
        category_id: the id in the ground truth; name: the class's name.
        num_objects: objects in the ground truth, crowd regions not counted.
        ap: AP over IoU 0.50:0.95; ap50, ap75: at one IoU; ap_small, ap_medium, ap_large: by object size.
        ar100: recall over IoU 0.50:0.95 with at most 100 detections an image.
    """

    category_id: int
    name: str
    num_objects: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar100: float | None


@dataclass(frozen=True, slots=True)
class CocoResult:
    """The twelve figures, and each class's.

    Attributes:
        stats: twelve figures named by `STAT_NAMES`; -1 where there are no objects, as pycocotools has it.
        per_class: by rising category id.
        num_images: images compared.
        pr50: (K, 101) interpolated precision of each class at IoU 0.50, recall 0, 0.01 ... 1; -1: no objects.
            Its mean is the class's AP50.
        scores50: (K, 101) score of the detection that reaches that recall; 0 where none does.
    """

    stats: tuple[float, ...]
    per_class: tuple[ClassResult, ...]
    num_images: int
    pr50: Float64Array = field(repr=False, compare=False)
    scores50: Float64Array = field(repr=False, compare=False)

    @property
    def map(self) -> float:
        """AP over IoU 0.50:0.95."""
        return self.stats[0]

    @property
    def map50(self) -> float:
        """AP at IoU 0.50."""
        return self.stats[1]

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists and dictionaries; `stats` are the twelve figures in pycocotools' order."""
        return {
            "stats": list(self.stats),
            "stat_names": list(STAT_NAMES),
            "per_class": [asdict(row) for row in self.per_class],
            "num_images": self.num_images,
        }


IouType = Literal["bbox", "segm"]
"""What is compared, in pycocotools' words: boxes or masks."""


def evaluate_coco(
    ground_truth: GroundTruth | Mapping[str, Any] | str | Path,
    detections: Results,
    image_ids: Sequence[int] | None = None,
    iou_type: IouType = "bbox",
) -> CocoResult:
    """Compares detections with ground truth.

    Equal scores rank in the order given (within an image) and by image id, as in pycocotools.

    Args:
        ground_truth: COCO json file or its content, or either as `read_ground_truth` gives it.
        detections: COCO results json file, its rows, or an (N, 7) array of image_id x y w h score
            category_id.
        image_ids: the images to compare (default: all of the ground truth).
        iou_type: "segm" compares masks; every detection must have one, and an object without one fills its
            box. Sizes are those of the ground truth's `area` and, as in pycocotools, of the detections'
            boxes where they have any, else of their masks.

    Raises:
        YoloflowError: something cannot be read or does not fit together; the message names file and entry.
    """
    with_masks = iou_type == "segm"
    truth = read_ground_truth(ground_truth, with_masks=with_masks)
    found = read_detections(detections, truth, with_masks=with_masks)
    return evaluate_read(truth, found, image_ids, iou_type)


def evaluate_read(
    truth: GroundTruth, found: hotcoco.COCO, image_ids: Sequence[int] | None, iou_type: IouType = "bbox"
) -> CocoResult:
    """Compares ground truth and detections that are read already, as `evaluate_coco`; same errors."""
    evaluation = hotcoco.COCOeval(truth.coco, found, iou_type)
    evaluation.params.img_ids = compared = compared_ids(image_ids, truth)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # fills `stats`; summarize() would print
    arrays = evaluation.eval
    assert arrays is not None
    precision, scores, recall = (
        np.asarray(arrays[name])[..., _HUNDRED_DETECTIONS] for name in ("precision", "scores", "recall")
    )
    return CocoResult(
        stats=tuple(float(value) for value in evaluation.stats),
        per_class=tuple(_per_class(precision, recall, truth, compared)),
        num_images=len(compared),
        pr50=precision[0, :, :, _ALL_AREAS].T,
        scores50=scores[0, :, :, _ALL_AREAS].T,
    )


def compared_ids(image_ids: Sequence[int] | None, truth: GroundTruth) -> list[int]:
    """Returns the images to compare, by rising id: those that are named, or all of the ground truth.

    Raises:
        YoloflowError: none is named, or one that the ground truth does not have.
    """
    if image_ids is None:
        return sorted(truth.image_ids)
    wanted = sorted({int(image_id) for image_id in image_ids})
    if not wanted:
        raise YoloflowError("no image to evaluate: image_ids is empty")
    unknown = [image_id for image_id in wanted if image_id not in truth.image_ids]
    if unknown:
        raise YoloflowError(f"{truth.source}: has no image with id {unknown[0]} ({len(unknown)} ids unknown)")
    return wanted


def _per_class(
    precision: Float64Array, recall: Float64Array, truth: GroundTruth, image_ids: list[int]
) -> list[ClassResult]:
    """Returns each class's figures.

    Args:
        precision: (T IoUs, R recalls, K classes, A areas), 100 detections an image; -1: no objects.
        recall: (T, K, A) likewise.
        truth: the ground truth.
        image_ids: the images compared.
    """
    is_counted = np.isin(truth.annotations[:, 0], image_ids) & (truth.annotations[:, 7] == 0)
    compared_categories = truth.annotations[is_counted, 1]
    rows = []
    for k, (category_id, name) in enumerate(truth.category_names.items()):
        everywhere = precision[:, :, k, _ALL_AREAS]
        rows.append(
            ClassResult(
                category_id=category_id,
                name=name,
                num_objects=int((compared_categories == category_id).sum()),
                ap=_mean(everywhere),
                ap50=_mean(everywhere[0]),
                ap75=_mean(everywhere[5]),
                ap_small=_mean(precision[:, :, k, _SMALL]),
                ap_medium=_mean(precision[:, :, k, _MEDIUM]),
                ap_large=_mean(precision[:, :, k, _LARGE]),
                ar100=_mean(recall[:, k, _ALL_AREAS]),
            )
        )
    return rows


def _mean(values: NDArray[np.float64]) -> float | None:
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else None
