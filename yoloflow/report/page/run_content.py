"""What a page tells of a run, read from its folder."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from yoloflow.files import read_checked, read_names, wrong_places
from yoloflow.report.curves import Metrics, has_ap, read_metrics
from yoloflow.report.page.diagnostics import read_diagnostics
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

MOST_POINTS = 400
"""Points of a curve; a longer one is drawn from means over equally many logged steps."""
MOST_PROBLEMS = 50
"""Problems of a data set that the page names one by one."""
_SUMMARY = {"best?": dict, "versions?": dict}
_ACCOUNT = {
    "images": {"used": int, "dropped?": dict},
    "boxes": {"dropped?": dict, "clipped?": dict},
    "problems?": [{"kind": str, "action": str}],
}


def read_run(folder: str | Path) -> dict[str, Any]:
    """Everything that a run folder tells, finished or not.

    Args:
        folder: a run folder.

    Returns:
        plain data: `name`, `path`, `finished`, `ended` (ISO time), `names`, `config` (text), `settings`
        (dotted keys), `summary`, `curves`, `data`, `diagnostics`; None for what is not there. `doubt` is
        None; who can compare the diagnostics with the weights says there why they may be of others.

    Raises:
        YoloflowError: it is no run folder, or a file in it is damaged.
    """
    path = Path(folder)
    config = path / "config.yaml"
    if not config.is_file():
        raise YoloflowError(f"{path}: no run folder (config.yaml is missing); give the folder of a training")
    summary = read_checked(path / "summary.json", _SUMMARY)
    metrics_file = path / "metrics.jsonl"
    metrics = read_metrics(metrics_file) if metrics_file.is_file() else Metrics()
    text = config.read_text(encoding="utf-8", errors="replace")
    ended = metrics_file if metrics_file.is_file() else config
    return {
        "name": path.resolve().name,
        "path": str(path),
        "finished": summary is not None,
        "ended": _time_of(ended),
        "names": read_names(path / "names.json"),
        "config": text,
        "settings": flat_settings(_parse_yaml(text, config)),
        "summary": summary,
        "curves": curves_of(metrics),
        "data": data_of(_read_accounts(path / "data_problems.json")),
        "diagnostics": read_diagnostics(path / "diagnostics.json"),
        "doubt": None,
    }


def curves_of(metrics: Metrics) -> dict[str, Any]:
    """Losses, rates and figures of a training as columns, over epochs done.

    Args:
        metrics: of `metrics.jsonl`.

    Returns:
        `steps` (`epoch`, `losses` by name, `lr` by group, `mean_of`: logged steps in a point), `evaluations`
        (`epoch` and columns of figures, `per_class` AP by name) and `stages` (`stage`, `epoch`).
    """
    steps = metrics.steps
    num_groups = len(steps[-1].get("lr") or ()) if steps else 0
    columns: dict[str, Sequence[float | None]] = {"epoch": metrics.epochs_at(steps)}
    columns |= {name: [_number(record.get(name)) for record in steps] for name in metrics.loss_names}
    for group in range(num_groups):
        columns[f"lr {group}"] = [_number(_item(record.get("lr"), group)) for record in steps]
    columns["images_per_second"] = [_number(record.get("images_per_second")) for record in steps]
    thin, mean_of = _thinned(columns)
    evaluations = metrics.evaluations
    return {
        "steps": {
            "epoch": thin["epoch"],
            "losses": {name: thin[name] for name in metrics.loss_names},
            "lr": [thin[f"lr {group}"] for group in range(num_groups)],
            "images_per_second": thin["images_per_second"],
            "mean_of": mean_of,
        },
        "evaluations": {
            "epoch": metrics.epochs_at(evaluations),
            **{
                key: [_number(record.get(key)) if has_ap(record) else None for record in evaluations]
                for key in ("map", "map50")
            },
            "has_no_objects": metrics.has_no_objects,
        },
        "stages": [
            {"stage": record["stage"], "epoch": begin}
            for record, begin in zip(metrics.stages, metrics.epochs_at(metrics.stages), strict=True)
        ],
    }


def data_of(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The account of the data sets, with the first problems only.

    Args:
        report: `data_problems.json`.

    Returns:
        by set: `images`, `boxes`, `kinds` (kind and action to count), `problems` (the first ones),
        `num_problems`; None without an account.
    """
    if not report:
        return None
    sets = {}
    for key, account in report.items():
        if "images" not in account:  # no account of `problems_report`
            continue
        problems = account.get("problems", [])
        counts = Counter((problem["kind"], problem["action"]) for problem in problems)
        sets[key] = {
            "images": account["images"],
            "boxes": account["boxes"],
            "kinds": [
                {"kind": kind, "action": action, "count": n} for (kind, action), n in counts.most_common()
            ],
            "problems": problems[:MOST_PROBLEMS],
            "num_problems": len(problems),
        }
    return sets or None


def flat_settings(tree: object, prefix: str = "") -> dict[str, str]:
    """Settings under dotted keys, each as the text of its value; lists stay whole."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree if isinstance(tree, str) else json.dumps(tree, default=str)} if prefix else {}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= flat_settings(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _thinned(columns: Mapping[str, Sequence[float | None]]) -> tuple[dict[str, list[float | None]], int]:
    """Columns of equal length as means over equally many rows, and how many; gaps are left out of a mean."""
    num_rows = len(columns["epoch"])
    size = max(1, math.ceil(num_rows / MOST_POINTS))
    if size == 1:
        return {name: list(column) for name, column in columns.items()}, 1
    thin: dict[str, list[float | None]] = {}
    for name, column in columns.items():
        values = np.array([math.nan if value is None else value for value in column])
        parts = [values[start : start + size] for start in range(0, num_rows, size)]
        found = [part[np.isfinite(part)] for part in parts]
        thin[name] = [float(part.mean()) if len(part) else None for part in found]
    return thin, size


def _item(values: object, place: int) -> object:
    return values[place] if isinstance(values, list) and place < len(values) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _read_accounts(path: Path) -> dict[str, Any] | None:
    """The accounts of the data sets."""
    report: dict[str, Any] | None = read_checked(path, dict)
    for key, account in (report or {}).items():
        if not isinstance(account, dict) or "images" in account:
            for place in wrong_places(account, _ACCOUNT, key):
                raise YoloflowError(f"{path}: {place}; restore the file, or remove it")
    return report


def _parse_yaml(text: str, path: Path) -> object:
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise YoloflowError(f"{path}: no valid YAML (nested too deeply); restore the file") from error
    except (yaml.YAMLError, ValueError) as error:
        raise YoloflowError(f"{path}: no valid YAML ({error}); restore the file") from error


def _time_of(path: Path) -> str:
    """When a file was last written, UTC."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
