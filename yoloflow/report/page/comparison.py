"""Several runs side by side: in which settings they differ, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Where a run lies says nothing of how it was trained.
_OF_THE_FOLDER = {"name", "save_dir", "resume"}
_MOST_LETTERS = 120


def differing_settings(settings: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs, in the order of the files.

    Args:
        settings: dotted keys and values as text, of each run.

    Returns:
        rows of `key` and `values` (a text for each run; None where a run has no such setting).
    """
    keys = dict.fromkeys(key for run in settings for key in run)
    rows = []
    for key in keys:
        values = [run.get(key) for run in settings]
        if key not in _OF_THE_FOLDER and len(set(values)) > 1:
            rows.append({"key": key, "values": [_short(value) for value in values]})
    return rows


def best_figures(run: Mapping[str, Any]) -> dict[str, Any]:
    """The head figures of a run: of its diagnostics, else of its summary, else of its curves.

    Args:
        run: of `read_run`.

    Returns:
        `map`, `map50`, `epoch` (of the best evaluation), `intervals`; None for what is not known.
    """
    evaluations = run["curves"]["evaluations"]
    best: Mapping[str, Any] = (run["summary"] or {}).get("best") or _best_evaluation(evaluations)
    diagnostics = run["diagnostics"]
    stats = diagnostics.get("stats") if diagnostics else None
    return {
        "map": stats[0] if stats else best.get("map"),
        "map50": stats[1] if stats else best.get("map50"),
        # Of diagnostics of other weights nobody knows the epoch.
        "epoch": None if run.get("remark") else best.get("epoch"),
        "intervals": diagnostics.get("intervals") if diagnostics else None,
    }


def _best_evaluation(evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """The first of the highest AP, as training chooses its best weights."""
    known = [k for k, value in enumerate(evaluations["map"]) if value is not None]
    if not known:
        return {}
    best = max(known, key=lambda k: (evaluations["map"][k], -k))
    found = {key: evaluations[key][best] for key in ("map", "map50")}
    return {"epoch": round(evaluations["epoch"][best]), **found}


def _short(value: str | None) -> str | None:
    if value is None or len(value) <= _MOST_LETTERS:
        return value
    return f"{value[:_MOST_LETTERS]} … ({len(value)} letters)"
