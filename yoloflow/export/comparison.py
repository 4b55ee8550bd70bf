"""An exported file compared with the network that it came from, on real and on made-up images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from yoloflow.data.decoder_messages import decode_named
from yoloflow.detector import Detector, DetectSettings
from yoloflow.evaluation.coco import evaluate_read
from yoloflow.evaluation.coco_arrays import ground_truth_of, result_array, result_masks
from yoloflow.evaluation.nms import non_max_suppression
from yoloflow.structures import DatasetIndex, Detections, Uint8Array, YoloflowError

logger = logging.getLogger("yoloflow")

Rows = NDArray[np.float64]
Pair = tuple[Rows, Rows]

TOLERANCE, TOLERANCE_HALF = 1e-4, 5e-2
"""Largest deviation of onnxruntime from torch that is accepted, see `Comparison.deviation`."""
AP_TOLERANCE = 0.01
"""Largest difference of the APs that is accepted."""
ROUNDING_FACTOR = 3
"""How many times torch's own rounding is accepted instead, where that is more."""

_NUM_MADE = 2
_CERTAIN = 1.02
"""Rows that score more than this times the last one are in both."""
_UNPAIRED_SHARE = 0.05
"""Detections of a file with suppression inside that may have no partner: ties that fall the other way."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of a comparison.

    Attributes:
        deviation: largest of onnxruntime from torch: of a score, of a box as a share of the input's longer
            side (or of its own size where it is larger), of a mask coefficient or a prototype as a share of
            the largest.
        num_images: real images among those compared.
        ap_torch: AP of torch on the real ones; None without any.
        ap_file: AP of the file on the same.
        mask_ap_torch: AP of the masks of torch; None where the network predicts none.
        mask_ap_file: AP of those of the file.
    """

    deviation: float
    num_images: int = 0
    ap_torch: float | None = None
    ap_file: float | None = None
    mask_ap_torch: float | None = None
    mask_ap_file: float | None = None

    @property
    def aps(self) -> list[tuple[str, float, float]]:
        """The name of each AP, torch's and the file's; empty without real images."""
        rows = (("AP", self.ap_torch, self.ap_file), ("mask AP", self.mask_ap_torch, self.mask_ap_file))
        return [(what, some, other) for what, some, other in rows if some is not None and other is not None]

    def is_too_far(self, half: bool) -> bool:
        """Returns whether the file cannot be taken without looking at torch's own rounding."""
        allowed = TOLERANCE_HALF if half else TOLERANCE
        return self.deviation > allowed or any(abs(one - other) > AP_TOLERANCE for _, one, other in self.aps)


def accept_as_rounding(path: Path, found: Comparison, rounding: Comparison, half: bool) -> None:
    """Warns of a deviation that torch's own rounding has too.

    In a network that was hardly trained, rounding grows from layer to layer. How much is seen where BatchNorm
    is folded into the convolutions and where it is not, which is the same function.

    Args:
        path: the file.
        found: the file compared with torch.
        rounding: torch with BatchNorm folded, compared with torch without.
        half: whether the file computes in half precision.

    Raises:
        YoloflowError: the file deviates by more than that.
    """
    allowed = max(TOLERANCE_HALF if half else TOLERANCE, ROUNDING_FACTOR * rounding.deviation)
    if found.deviation > allowed:
        cause = "; half precision is too coarse for these weights" if half else ""
        raise YoloflowError(
            f"{path}: onnxruntime deviates from torch by {found.deviation:.1e} (allowed: {allowed:.1e})"
            + cause
        )
    for (what, of_torch, of_file), (_, one, other) in zip(found.aps, rounding.aps, strict=True):
        if abs(of_file - of_torch) > max(AP_TOLERANCE, ROUNDING_FACTOR * abs(one - other)):
            raise YoloflowError(
                f"{path}: {what} is {of_file:.4f}, but torch's is {of_torch:.4f} (on {found.num_images} "
                f"images; allowed: {AP_TOLERANCE})"
            )
    logger.warning(
        "%s: deviates from torch by %.1e, and torch by %.1e from itself with BatchNorm folded: these weights "
        "are sensitive to rounding, as after a training that is too short",
        *(path, found.deviation, rounding.deviation),
    )


def compare(
    torch: Detector, file: Detector, settings: DetectSettings, index: DatasetIndex | None, num_images: int
) -> Comparison:
    """Compares predictions and AP.

    Args:
        torch: the detector with the network.
        file: the one with the exported network, its pre-processing the same.
        settings: of the detections that AP is of.
        index: a data set; None for made-up images alone.
        num_images: images of it to take, spread over it.
    """
    made_up = _made_up_images(file.shape_hw or (file.img_size, file.img_size))
    deviations = [_deviation_of_batch(torch, file, settings, made_up)]
    if index is None or not len(index):
        return Comparison(deviations[0])
    real = np.unique(np.linspace(0, len(index) - 1, min(num_images, len(index)), dtype=int)).tolist()
    found: tuple[dict[int, Detections], dict[int, Detections]] = ({}, {})
    for position in real:
        image = decode_named(str(index.image_paths[position]))
        deviations.append(_deviation_of_batch(torch, file, settings, [image]))
        for detector, rows in zip((torch, file), found, strict=True):
            (rows[position],) = detector.detect([image], settings)
    ids, has_masks = index.image_ids[real].tolist(), torch.network.output_kind.mask_channels > 0
    truth = ground_truth_of(index, with_masks=has_masks)
    aps, mask_aps = [], []
    for rows in found:
        read = truth.coco.load_res(result_array(rows, index), segmentation=cast(Any, result_masks(rows)))
        aps.append(evaluate_read(truth, read, ids).map)
        if has_masks:
            mask_aps.append(evaluate_read(truth, read, ids, "segm").map)
    return Comparison(max(deviations), len(real), *aps, *mask_aps)


def _made_up_images(shape_hw: tuple[int, int]) -> list[Uint8Array]:
    """Returns images of coloured squares."""
    height, width = shape_hw
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8) for _ in range(_NUM_MADE)]
    return [image.repeat(8, axis=0).repeat(8, axis=1) for image in coarse]


def _deviation_of_batch(
    torch: Detector, file: Detector, settings: DetectSettings, images: list[Uint8Array]
) -> float:
    """Returns the largest deviation on images of one shape, see `Comparison`."""
    samples = [torch.prepare(image) for image in images]
    of_torch, of_file = torch.predict(samples), file.predict(samples)
    of_rows = _deviation_of_predictions(
        torch, file, settings, (of_file.rows, of_torch.rows), max(samples[0].image.shape)
    )
    if of_torch.prototypes is None or of_file.prototypes is None:
        return of_rows
    largest = of_torch.prototypes.abs().max().clamp(min=1e-9)
    return max(of_rows, float(((of_file.prototypes - of_torch.prototypes) / largest).abs().max()))


def _deviation_of_predictions(
    torch: Detector, file: Detector, settings: DetectSettings, rows: tuple[Tensor, Tensor], side: int
) -> float:
    """Returns the largest deviation of the file's rows, the first, from those of torch."""
    (found, expected), kind = rows, torch.network.output_kind
    num_masks = kind.mask_channels
    scale = np.ones(found.shape[-1])
    scale[:4] = 1 / side
    if num_masks:
        scale[-num_masks:] /= max(float(expected[..., -num_masks:].abs().max()), 1e-9)
    if file.network.output_kind.end_to_end and not kind.end_to_end:
        kept = non_max_suppression(
            expected,
            conf_thres=settings.conf_thres,
            iou_thres=settings.iou_thres,
            max_det=file.max_det,
            conf_free=not kind.has_objectness,
            multi_label=False,
            num_masks=num_masks,
        )
        pairs = [
            (some[some[:, 4] > 0].numpy() * scale, others.numpy() * scale)
            for some, others in zip(found, kept, strict=True)
        ]
        return max(_deviation_of_rows(pair, _UNPAIRED_SHARE) for pair in pairs)
    found_shares, expected_shares = found.numpy() * scale, expected.numpy() * scale
    if not kind.end_to_end:
        return float(_relative(found_shares, expected_shares).max())
    return max(_deviation_of_rows(pair) for pair in zip(found_shares, expected_shares, strict=True))


def _relative(found: Rows, expected: Rows) -> Rows:
    """Returns deviations, relative where a value is above 1."""
    deviations: Rows = abs(found - expected) / np.maximum(1.0, abs(expected))
    return deviations


def _deviation_of_rows(pair: Pair, share_apart: float = 0.0) -> float:
    """Returns the largest distance of (N, 6 + K) rows from the nearest other row; almost equal ones may swap.

    Rows that score like the last one are left out, for others may have come in their place; so is a share of
    those furthest apart.
    """
    found, expected = pair
    if not len(found) or not len(expected):
        return float(max(len(found), len(expected)) > 0)
    certain = expected[expected[:, 4] > expected[-1, 4] * _CERTAIN]
    distances = [float(_relative(found, row).max(1).min()) for row in certain]
    kept = sorted(distances)[: len(distances) - int(share_apart * len(distances))]
    return max(kept, default=0.0)
