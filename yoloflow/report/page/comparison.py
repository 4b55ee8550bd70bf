"""Several runs side by side: the settings in which they differ, and the best figures of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from yoloflow.data.stages import fit_stages
from yoloflow.report.metrics import NO_OBJECTS, has_ap
from yoloflow.report.page.run_content import RunContent

# Settings of the place of a run say nothing of how it was trained.
_PLACE_SETTINGS = {"name", "save_dir", "resume"}
_STAGES = "data.train_transforms.stage_epochs"
_MOST_LETTERS = 120


def differing_settings(settings: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Returns the settings that are not the same in all runs, in the order of the files.

    Args:
        settings: dotted keys and values as text, of each run.

    Returns:
        rows of `key` and `values` (a text for each run; None where a run has no such setting).
    """
    keys = dict.fromkeys(key for run in settings for key in run)
    rows = []
    for key in keys:
        values = [_as_trained(run) if key == _STAGES else run.get(key) for run in settings]
        if key not in _PLACE_SETTINGS and len(set(values)) > 1:
            rows.append({"key": key, "values": [_short(value) for value in values]})
    return rows


def best_figures(run: RunContent) -> dict[str, Any]:
    """Returns the head figures of a run: of its diagnostics, else of its summary, else of its metrics.

    Diagnostics that may be of other weights than the best epoch's do not stand beside it.

    Returns:
        `map`, `map50`, `epoch` (of the best evaluation), `intervals`; None for what is not known. `why` is a
        reason why there is no AP.
    """
    best: Mapping[str, Any] = (run.summary or {}).get("best") or run.metrics.best_evaluation or {}
    diagnostics = None if run.stale_reason else run.diagnostics
    figures = dict(zip(("map", "map50"), diagnostics["stats"], strict=False)) if diagnostics else best
    if not has_ap(figures):
        figures = {}
    is_empty = diagnostics["stats"][0] < 0 if diagnostics else run.metrics.has_no_objects
    return {
        "map": figures.get("map"),
        "map50": figures.get("map50"),
        "epoch": best.get("epoch"),
        "intervals": diagnostics.get("intervals") if diagnostics else None,
        "why": NO_OBJECTS if is_empty else None,
    }


def _as_trained(run: Mapping[str, str]) -> str | None:
    """Returns the lengths of the stages as they were fitted to the epochs of the training."""
    planned, epochs = run.get(_STAGES), run.get("epochs", "")
    try:
        lengths = json.loads(planned or "")
        if not epochs.isdecimal() or len(lengths) > int(epochs) or sum(lengths) == int(epochs):
            return planned
        return f"{fit_stages(lengths, int(epochs))} (of {planned})"
    except (TypeError, ValueError):  # the settings of another version
        return planned


def _short(value: str | None) -> str | None:
    if value is None or len(value) <= _MOST_LETTERS:
        return value
    return f"{value[:_MOST_LETTERS]} … ({len(value)} letters)"
