"""The content of a run folder as its page needs it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from yoloflow.files import read_checked, read_names, similar_paths, wrong_places
from yoloflow.report.metrics import Column, Metrics, curves_of, read_metrics
from yoloflow.report.page.diagnostics import read_diagnostics
from yoloflow.run import file_names
from yoloflow.structures import YoloflowError

MOST_POINTS = 400
"""Points of a curve; a longer one is drawn from means over equally many logged steps."""
MOST_PROBLEMS = 50
"""Problems of a data set that the page names one by one."""
_PNG, _LARGEST_PLOT = b"\x89PNG", 300_000
_SUMMARY = {"best?": dict, "versions?": dict}
_ACCOUNT = {
    "images": {"used": int, "dropped?": dict},
    "boxes": {"dropped?": dict, "clipped?": dict},
    "problems?": [{"kind": str, "action": str}],
}


@dataclass(slots=True)
class RunContent:
    """Everything that a run folder tells, of a finished run or not; None for what is not there.

    Attributes:
        path: the folder.
        ended: when the run last wrote, UTC in ISO format.
        names: class names in class order.
        config: text of the resolved settings.
        settings: the same under dotted keys, values as text.
        summary: content of `summary.json`, which only a finished run has.
        metrics: records of the training.
        data: `data_problems.json` by data set, with the first problems only.
        diagnostics: content of `diagnostics.json`.
        labels_plot: the PNG of the training set's labels.
        stale_reason: why the diagnostics may be of other weights; whoever can compare them fills it in.
        not_evaluated: why an evaluation that was asked for did not take place.
    """

    path: Path
    ended: str
    names: list[str] | None
    config: str
    settings: dict[str, str]
    summary: dict[str, Any] | None
    metrics: Metrics
    data: dict[str, Any] | None
    diagnostics: dict[str, Any] | None
    labels_plot: bytes | None = None
    stale_reason: str | None = None
    not_evaluated: str | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name


def read_run(folder: str | Path) -> RunContent:
    """Reads a run folder.

    Raises:
        YoloflowError: it is no run folder, or a file in it is damaged.
    """
    path = Path(folder)
    config = path / file_names.CONFIG
    if not path.exists():
        raise YoloflowError(f"{path}: there is no such run folder{similar_paths(path)}")
    if not config.is_file():
        raise YoloflowError(f"{path}: no run folder (config.yaml is missing); give the folder of a training")
    metrics = path / file_names.METRICS
    has_metrics = metrics.is_file()
    text = config.read_text(encoding="utf-8", errors="replace")
    last_write = (metrics if has_metrics else config).stat().st_mtime
    return RunContent(
        path=path,
        ended=datetime.fromtimestamp(last_write, UTC).isoformat(timespec="seconds"),
        names=read_names(path / file_names.NAMES),
        config=text,
        settings=flat_settings(_parse_yaml(text, config)),
        summary=read_checked(path / file_names.SUMMARY, _SUMMARY),
        metrics=read_metrics(metrics) if has_metrics else Metrics(),
        data=data_of(_read_accounts(path / file_names.DATA_PROBLEMS)),
        diagnostics=read_diagnostics(path / file_names.DIAGNOSTICS),
        labels_plot=_read_plot(path / "plots" / file_names.LABELS_PLOT),
    )


def page_curves(metrics: Metrics) -> dict[str, Any]:
    """Returns losses, rates and AP of a training as plain columns over epochs done.

    Returns:
        `steps` (`epoch`, `losses` by name, `rates` by groups, `mean_of`: logged steps in a point),
        `evaluations` (`epoch`, `losses` by name, `map`, `map50`, and `mask_map`, `mask_map50` of masks)
        and `stages` (`number`, `epoch`).
    """
    curves = curves_of(metrics)
    size = max(1, math.ceil(len(curves.epochs) / MOST_POINTS))
    return {
        "steps": {
            "epoch": _means(curves.epochs, size),
            "losses": {name: _means(column, size) for name, column in curves.losses.items()},
            "rates": {groups: _means(column, size) for groups, column in curves.rates.items()},
            "mean_of": size,
        },
        "evaluations": {
            "epoch": curves.evaluated,
            "losses": curves.val_losses,
            "map": curves.ap,
            "map50": curves.ap50,
            "mask_map": curves.mask_ap,
            "mask_map50": curves.mask_ap50,
        },
        "stages": [{"number": number, "epoch": epoch} for number, epoch in curves.stages],
    }


def _means(column: Sequence[float | None], size: int) -> Column:
    """Returns the means over every `size` values; gaps are left out of a mean."""
    if size == 1:
        return list(column)
    values = np.array(column, np.float64)  # None becomes NaN
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    found = [part[np.isfinite(part)] for part in parts]
    return [float(part.mean()) if len(part) else None for part in found]


def data_of(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Shortens the account of the data sets to counts and the first problems.

    Args:
        report: content of `data_problems.json`.

    Returns:
        by set: `images`, `boxes`, `kinds` (kind and action to count), `problems` (the first ones),
        `num_problems`; None without an account.
    """
    sets = {}
    for key, account in (report or {}).items():
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
    """Returns settings under dotted keys, each as the text of its value; lists stay whole."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree if isinstance(tree, str) else json.dumps(tree, default=str)} if prefix else {}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= flat_settings(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _read_plot(path: Path) -> bytes | None:
    content = path.read_bytes() if path.is_file() else b""
    return content if content.startswith(_PNG) and len(content) <= _LARGEST_PLOT else None


def _read_accounts(path: Path) -> dict[str, Any] | None:
    report: dict[str, Any] | None = read_checked(path, dict)
    for key, account in (report or {}).items():
        if not isinstance(account, dict) or "images" in account:
            for place in wrong_places(account, _ACCOUNT, key):
                raise YoloflowError(f"{path}: {place}; restore the file, or remove it")
    return report


def _parse_yaml(text: str, path: Path) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise YoloflowError(f"{path}: no valid YAML ({reason}); restore the file") from error
