"""Turns decoded predictions into detections: thresholds, class choice and non-maximum suppression.

With objectness the score of a class is objectness times class probability, and only boxes whose objectness
passes the threshold count; with one class the score is the objectness alone. A box is suppressed when its IoU
with a kept box of its class is above the threshold (greedy, by falling score; equal scores keep the order of
the prediction). Boxes that are not finite are left out with a warning.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from yoloflow.boxes import cxcywh_to_xyxy
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

MAX_NMS = 30000
"""Candidates of an image that enter suppression, best first."""

# Numbers that float32 holds exactly.
_EXACT_NUMBERS = 2**24

# Boxes whose suppression is decided at once, as a multiple of `max_det`; see `_suppress`.
_FIRST_PREFIX = 4


def non_max_suppression(  # noqa: PLR0913  the settings of one algorithm
    prediction: Tensor,
    *,
    conf_thres: float = 0.001,
    iou_thres: float = 0.65,
    conf_free: bool = True,
    multi_label: bool = True,
    max_nms: int = MAX_NMS,
    max_det: int = 300,
    class_offset: float | None = None,
    need_nms: bool = True,
    num_masks: int = 0,
    time_limit_s: float | None = None,
) -> list[Tensor]:
    """Returns the detections in each image, best first (the rules: see the module).

    Args:
        prediction: (B, N, 4 + C) or, with objectness, (B, N, 5 + C): centre-form boxes in input pixels and
            scores in 0..1. Without suppression (B, N, 6): x1 y1 x2 y2 score class. The mask
            coefficients follow.
        conf_thres: scores must be above it.
        iou_thres: largest IoU of two kept boxes of a class.
        conf_free: the prediction has no objectness column.
        multi_label: a box counts for each class that passes `conf_thres` (only with more than one class);
            else for its best class alone.
        max_nms: candidates of an image that enter suppression, best first.
        max_det: detections of an image that are kept, best first.
        class_offset: pixels between the classes' copies of the plane in which boxes are compared. None: as
            much as the boxes need. 4096: the reference's. 0: boxes of all classes suppress each other.
        need_nms: False for end-to-end heads, whose rows are only thresholded.
        num_masks: mask coefficients at the end of a row, which go where the row goes.
        time_limit_s: a batch that takes longer is named in a warning; it is finished all the same.

    Returns:
        B tensors (K, 6 + num_masks): x1 y1 x2 y2 in input pixels, score, class, coefficients; float32.

    Raises:
        YoloflowError: the prediction has another shape.
    """
    _check_shape(prediction, conf_free, need_nms, num_masks)
    detections, start, late_after = [], time.perf_counter(), 0
    images = _finite_rows(prediction.detach().float())
    width = prediction.shape[-1] - num_masks
    select = partial(_candidates, conf_thres=conf_thres, conf_free=conf_free, multi_label=multi_label)
    together = None
    if need_nms and prediction.device.type != "cpu":  # each image's own selection would be a wait
        together = best_of_batch([rows[:, :width] for rows in images], select, max_nms)
    for i, rows in enumerate(images, start=1):
        if need_nms:
            boxes, coefficients = rows.tensor_split((width,), 1)
            candidates = together[i - 1] if together else _best_first(select(boxes), max_nms)
            kept = _suppress(candidates, iou_thres, max_det, class_offset)[:max_det]
            detections.append(torch.cat((kept[:, :6], coefficients[kept[:, 6].long()]), 1))
        else:
            detections.append(_best_first(rows[rows[:, 4] > conf_thres], max_det))
        if time_limit_s is not None and not late_after and time.perf_counter() - start > time_limit_s:
            late_after = i
    if late_after:
        _tell_late(late_after, len(prediction), time.perf_counter() - start, time_limit_s)
    return detections


def _tell_late(image: int, images: int, seconds: float, limit: float | None) -> None:
    logger.warning(
        "non-maximum suppression passed nms_time_limit=%s s at image %d of %d and took %.1f s: the batch "
        "was finished all the same (a higher conf_thres is faster)",
        *(limit, image, images, seconds),
    )


def _check_shape(prediction: Tensor, conf_free: bool, need_nms: bool, num_masks: int) -> None:
    width = prediction.shape[-1] - num_masks if prediction.ndim == 3 else 0
    wanted, fits = "6", width == 6
    if need_nms:
        wanted, fits = ("4 + C", width >= 5) if conf_free else ("5 + C", width >= 6)
    if not fits:
        wanted += f" + {num_masks}" if num_masks else ""
        raise YoloflowError(f"predictions have shape {tuple(prediction.shape)}, expected (B, N, {wanted})")


def _finite_rows(prediction: Tensor) -> list[Tensor]:
    """Returns each image's rows without those that are not finite; a warning counts them."""
    if torch.isfinite(prediction.sum()):
        return list(prediction)
    is_finite = prediction.isfinite().all(-1)
    num_dropped = is_finite.numel() - int(is_finite.sum())
    if num_dropped:
        num_images = int((~is_finite).any(1).sum())
        logger.warning(
            "%d predicted boxes of %d images are not finite and were left out", num_dropped, num_images
        )
    return [rows[keep] for rows, keep in zip(prediction, is_finite, strict=True)]


def _candidates(rows: Tensor, conf_thres: float, conf_free: bool, multi_label: bool) -> Tensor:
    """Returns (K, 7) pairs of a box and a class that pass the threshold, in the order of the prediction.

    The last column is the row of the prediction, exact up to 2^24.
    """
    numbers, scores = torch.arange(len(rows), device=rows.device), rows[:, 4:]
    if not conf_free:
        (numbers,) = (rows[:, 4] > conf_thres).nonzero(as_tuple=True)
        rows = rows[numbers]
        objectness, class_scores = rows[:, 4:5], rows[:, 5:]
        scores = objectness if class_scores.shape[1] == 1 else objectness * class_scores
    if multi_label and scores.shape[1] > 1:
        box, classes = (scores > conf_thres).nonzero(as_tuple=True)
        scores = scores[box, classes]
    else:
        scores, classes = scores.max(1)
        (box,) = (scores > conf_thres).nonzero(as_tuple=True)
        scores, classes = scores[box], classes[box]
    boxes_xyxy = cxcywh_to_xyxy(rows[box, :4])
    return torch.cat((boxes_xyxy, torch.stack((scores, classes, numbers[box]), 1).to(scores.dtype)), 1)


def _best_first(candidates: Tensor, limit: int) -> Tensor:
    """Returns the `limit` best rows; equal scores keep their order."""
    return candidates[candidates[:, 4].argsort(descending=True, stable=True)[:limit]]


def best_of_batch(
    images: list[Tensor], select: Callable[[Tensor], Tensor], limit: int
) -> list[Tensor] | None:
    """Returns each image's candidates, best first, with a selection and a sorting for all of them.

    They are those that `select` and sorting give for each image alone, in the same order.

    Args:
        images: rows of each, in one prediction.
        select: see `_candidates`; takes rows, gives (K, 7) with the number of the row last.
        limit: candidates of an image, best first.
    """
    lengths = [len(rows) for rows in images]
    if sum(lengths) > _EXACT_NUMBERS:
        return None
    found = select(torch.cat(images))
    ends = torch.tensor(lengths).cumsum(0).to(found.device, non_blocking=True)
    image = torch.searchsorted(ends, found[:, 6].long(), right=True)
    order = found[:, 4].argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    found, image = found[order], image[order]
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    found[:, 6] -= starts[image].to(found.dtype)
    counts = torch.zeros_like(ends).index_add_(0, image, torch.ones_like(image))
    return [part[:limit] for part in found.split(counts.tolist())]


def _suppress(candidates: Tensor, iou_thres: float, max_det: int, class_offset: float | None) -> Tensor:
    """Returns the kept rows of sorted candidates: all, or at least the first `max_det`.

    Whether a box is kept depends on better boxes only, so the best boxes are decided first and the others
    only where these do not yield `max_det`: the same result in a fraction of the time.
    """
    if not len(candidates):
        return candidates
    boxes, scores = _boxes_apart(candidates, class_offset), candidates[:, 4]
    prefix = _FIRST_PREFIX * max_det
    while True:
        kept = _torchvision_nms(boxes[:prefix], scores[:prefix].to(boxes.dtype), iou_thres)
        if len(kept) >= max_det or prefix >= len(candidates):
            return candidates[kept]
        prefix *= _FIRST_PREFIX


def _torchvision_nms(boxes_xyxy: Tensor, scores: Tensor, iou_thres: float) -> Tensor:
    """Returns positions of the kept boxes, best first."""
    if not hasattr(torch.ops.torchvision, "nms"):
        _load_torchvision_kernels()
    kept: Tensor = torch.ops.torchvision.nms(boxes_xyxy, scores, iou_thres)
    return kept


def _load_torchvision_kernels() -> None:
    """Loads torchvision's compiled library; the package, which takes 1.5 s, only where that does not help."""
    spec = find_spec("torchvision")
    if spec is not None and spec.origin is not None:
        for library in sorted(Path(spec.origin).parent.glob("_C*")):
            with suppress(OSError):
                torch.ops.load_library(str(library))
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision.ops  # noqa: F401  registers them


def _boxes_apart(candidates: Tensor, class_offset: float | None) -> Tensor:
    """Returns (K, 4) boxes moved so far apart by class that boxes of two classes cannot overlap."""
    boxes, classes = candidates[:, :4], candidates[:, 5:6]
    if class_offset is not None:
        return boxes + classes * class_offset
    # A thousand classes lie millions of pixels apart, where float32 has steps of half a pixel.
    exact = torch.float32 if boxes.device.type == "mps" else torch.float64
    boxes = boxes.to(exact)
    return boxes + classes.to(exact) * (boxes.amax() - boxes.amin() + 1)
