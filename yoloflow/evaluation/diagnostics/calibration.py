"""Calibration: a score of 0.8 should be right in 80 % of cases.

Guo et al. 2017, "On Calibration of Modern Neural Networks", equations 3 and 5: expected and largest gap
between mean score and share of true positives, over ten bins of equal width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yoloflow.evaluation.diagnostics.matching import Matches, Tables

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """The detections with scores from `lower` up to `upper`, the last bin's `upper` included.

    Attributes:
        confidence: their mean score; accuracy: their share of true positives; None in an empty bin.
        count: how many there are; ignored ones do not count.
    """

    lower: float
    upper: float
    confidence: float | None
    accuracy: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Bins by rising score; `ece`: mean gap of a detection, `mce`: largest gap of a bin; 0 without any."""

    bins: tuple[CalibrationBin, ...]
    ece: float
    mce: float


def calibrate(tables: Tables, matches: Matches) -> Calibration:
    """Puts all detections that are not ignored in bins; scores outside of 0..1 count to the nearest bin."""
    scores, is_right = tables.scores[~matches.is_ignored], matches.is_right[~matches.is_ignored]
    places = np.floor(scores * NUM_BINS).clip(0, NUM_BINS - 1).astype(np.int64)
    counts = np.bincount(places, minlength=NUM_BINS)
    filled = np.maximum(counts, 1)
    confidences = np.bincount(places, scores, NUM_BINS) / filled
    accuracies = np.bincount(places, is_right, NUM_BINS) / filled
    gaps = np.abs(confidences - accuracies)
    bins = [
        CalibrationBin(
            i / NUM_BINS,
            (i + 1) / NUM_BINS,
            float(confidences[i]) if counts[i] else None,
            float(accuracies[i]) if counts[i] else None,
            int(counts[i]),
        )
        for i in range(NUM_BINS)
    ]
    return Calibration(tuple(bins), float((gaps * counts).sum() / max(len(scores), 1)), float(gaps.max()))
