"""The records of a training's `metrics.jsonl`, and its curves over epochs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.files import NUMBER, wrong_places

logger = logging.getLogger("yoloflow")

Column = list[float | None]
"""Values of a curve; None is a gap."""

NO_OBJECTS = "no objects in the validation set"
"""Shown where COCO's figures are -1: there is nothing that could be found."""

# The keys of a step record that are not loss items.
_STEP_KEYS = {"kind", "epoch", "step", "update", "lr", "momentum", "images_per_second", "time"}
# The form of each kind of record that is read; see `files.wrong_places`.
_FORMS: dict[str, dict[str, object]] = {
    "step": {"epoch": int, "step": int, "lr?": [NUMBER], "time?": NUMBER},
    "evaluation": {"epoch": int, "step": int, "time?": NUMBER, "val_losses?": {}},
    "stage": {"epoch": int, "stage": int, "step": int, "steps_per_epoch?": NUMBER, "time?": NUMBER},
    "loading": {"waited_share?": NUMBER},
    "stopped": {"step": int, "time?": NUMBER},
}


@dataclass(slots=True)
class Metrics:
    """The records of a metrics file by kind, in file order."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    loading: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def loss_names(self) -> list[str]:
        """Loss items of the step records, in order of first appearance."""
        return list(dict.fromkeys(key for record in self.steps for key in record if key not in _STEP_KEYS))

    @property
    def best_evaluation(self) -> dict[str, Any] | None:
        """The evaluation of the best weights: the newest that says so, else the first of the highest AP."""
        valued = [row for row in self.evaluations if has_ap(row)]
        said = [row for row in valued if row.get("is_best") is True]
        return said[-1] if said else max(valued, key=lambda row: float(row["map"]), default=None)

    @property
    def has_no_objects(self) -> bool:
        """True if the newest evaluation found no object that could be found."""
        newest = finite(self.evaluations[-1].get("map")) if self.evaluations else None
        return newest is not None and newest < 0

    @property
    def steps_per_epoch(self) -> float | None:
        """As the newest stage states them; else the last logged step of an epoch counts as its last."""
        if self.stages and (stated := self.stages[-1].get("steps_per_epoch")):
            return float(stated)
        records = [*self.steps, *self.evaluations]
        if not records:
            return None
        last_steps: dict[int, int] = {}
        for record in records:
            last_steps[record["epoch"]] = max(record["step"], last_steps.get(record["epoch"], 0))
        # The newest epoch may be in progress; an earlier one, or an evaluated one, is whole.
        whole = {record["epoch"] for record in self.evaluations} | set(sorted(last_steps)[:-1])
        epoch = max(whole or last_steps)
        return last_steps[epoch] / epoch or None if epoch > 0 else None


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """The curves of a training as columns over epochs done: 1.5 is the middle of the second epoch.

    Attributes:
        epochs: of the logged steps.
        losses: columns by loss item.
        rates: learning rates by the parameter groups that have them, such as "groups 0, 1".
        evaluated: epochs of the evaluations.
        val_losses: columns of the evaluations by loss item; none where they were not asked for.
        ap: AP of the evaluations; ap50: likewise.
        mask_ap: AP of masks; mask_ap50: likewise; all gaps where a network predicts none.
        stages: number (from 2) and begin of each stage but the first.
    """

    epochs: list[float]
    losses: dict[str, Column]
    rates: dict[str, Column]
    evaluated: list[float]
    val_losses: dict[str, Column]
    ap: Column
    ap50: Column
    mask_ap: Column
    mask_ap50: Column
    stages: list[tuple[int, float]]


def curves_of(metrics: Metrics) -> TrainingCurves:
    """Returns the curves of a training; what is not finite, or no AP, is a gap."""
    steps, per_epoch = metrics.steps, metrics.steps_per_epoch

    def epochs_of(records: Sequence[Mapping[str, Any]], offset: int = 0) -> list[float]:
        if per_epoch is None:
            return [float(record["epoch"] + offset) for record in records]
        return [record["step"] / per_epoch for record in records]

    def ap_column(key: str) -> Column:
        return [finite(row.get(key)) if has_ap(row) else None for row in metrics.evaluations]

    begins = zip(metrics.stages, epochs_of(metrics.stages, offset=-1), strict=True)
    return TrainingCurves(
        epochs=epochs_of(steps),
        losses={name: [finite(record.get(name)) for record in steps] for name in metrics.loss_names},
        rates=_rates(steps),
        evaluated=epochs_of(metrics.evaluations),
        val_losses=_val_losses(metrics),
        ap=ap_column("map"),
        ap50=ap_column("map50"),
        mask_ap=ap_column("mask_map"),
        mask_ap50=ap_column("mask_map50"),
        stages=[(record["stage"] + 1, begin) for record, begin in begins if record["stage"] > 0],
    )


def _val_losses(metrics: Metrics) -> dict[str, Column]:
    """Returns the losses of the evaluations by item; where none has any, nothing."""
    rows = [record.get("val_losses") or {} for record in metrics.evaluations]
    columns = {name: [finite(row.get(name)) for row in rows] for name in metrics.loss_names}
    return {name: column for name, column in columns.items() if any(value is not None for value in column)}


def _rates(steps: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Learning rates; groups often share one curve: equal ones are one column, named together."""
    rows = [record.get("lr") or [] for record in steps]
    groups: dict[tuple[float | None, ...], list[str]] = {}
    for group in range(len(rows[-1]) if rows else 0):
        column = tuple(finite(row[group]) if group < len(row) else None for row in rows)
        groups.setdefault(column, []).append(str(group))
    return {
        f"group{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}": list(column)
        for column, numbers in groups.items()
    }


def has_ap(figures: Mapping[str, Any]) -> bool:
    """True if `map` and `map50` are figures; COCO's -1 says that there was no object."""
    values = (finite(figures.get(key)) for key in ("map", "map50"))
    return all(value is not None and value >= 0 for value in values)


def finite(value: object) -> float | None:
    """The value as a float if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def known_points(epochs: Sequence[float], column: Column) -> tuple[list[float], NDArray[np.float64]]:
    """Returns epochs and values of a column, which may be empty, without its gaps."""
    known = [(x, value) for x, value in zip(epochs, column, strict=False) if value is not None]
    return [x for x, _ in known], np.array([value for _, value in known], np.float64)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a centred window of a twentieth of the curve, shorter at its ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def read_metrics(path: str | Path, *, is_growing: bool = False) -> Metrics:
    """Reads a metrics file.

    A line that is no JSON object (the last one of a killed run), or an object without what its kind has,
    is left out with a warning.

    Args:
        path: `metrics.jsonl` of a run folder.
        is_growing: somebody may be writing it, and a last line without an end is no fault.
    """
    metrics = Metrics()
    lists = {
        "step": metrics.steps,
        "evaluation": metrics.evaluations,
        "stage": metrics.stages,
        "loading": metrics.loading,
        "stopped": metrics.stopped,
    }
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                if is_growing and not line.endswith("\n"):
                    break
                logger.warning("%s:%d: not a JSON object, left out: %.40r", path, number, line)
                continue
            kind = record.get("kind")
            if not isinstance(kind, str) or kind not in lists:
                continue
            if wrong := next(wrong_places(record, _FORMS[kind]), None):
                logger.warning("%s:%d: a record of kind %r is left out: %s", path, number, kind, wrong)
                continue
            lists[kind].append(record)
    return metrics
