"""The true positives, false positives and missed objects from a score on."""

from __future__ import annotations

from dataclasses import dataclass

from yoloflow.evaluation.diagnostics.matching import BoolArray, Matches, Tables


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The detections from a score on, and the objects that they miss.

    Attributes:
        tables: all detections, of any score.
        is_right, is_wrong: (N,) true and false positives; other detections are ignored, or none.
        is_missed: (M,) objects that no true positive finds; crowd regions are no objects.
    """

    tables: Tables
    is_right: BoolArray
    is_wrong: BoolArray
    is_missed: BoolArray


def operate(tables: Tables, matches: Matches, conf_thres: float) -> OperatingPoint:
    """Returns the operating point at this score."""
    is_counted = tables.scores >= conf_thres
    is_right = matches.is_right & is_counted
    is_missed = ~tables.is_crowd
    is_missed[matches.objects[is_right]] = False
    return OperatingPoint(tables, is_right, matches.is_wrong & is_counted, is_missed)
