"""The report flow: runs in, one HTML file that needs no network out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yoloflow.engine.diagnose import write_diagnostics
from yoloflow.engine.run_folder import find_weights
from yoloflow.flow import evaluate_run
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_files import read_run
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import sha256_of, write_atomically

logger = logging.getLogger("yoloflow")

_OF_OTHER_WEIGHTS = (
    "the diagnostics are of other weights than its best ones of today; `yoloflow report` evaluates these "
    "where the validation set is there"
)


def write_report(runs: Sequence[str | Path], out: str | Path | None = None, *, evaluate: bool = True) -> Path:
    """Write the page of a run, or of several side by side.

    Args:
        runs: run folders, finished or not.
        out: the file; None for `report.html` in the first run.
        evaluate: evaluate the best weights of a run without diagnostics of them first, and keep these as its
            `diagnostics.json`; where that is not possible a warning says why, and so does the page.

    Returns:
        the file.

    Raises:
        YoloflowError: no run, no run folder, damaged files in it, or the page cannot be written.
    """
    if not runs:
        raise YoloflowError("report: give at least one run folder")
    # 1. What each run tells
    read = [read_run(run) for run in runs]

    # 2. Diagnostics, where a run has none of its weights
    for run in read:
        is_stale = run["diagnostics"] is not None and _is_of_other_weights(run)
        if evaluate and (is_stale or run["diagnostics"] is None):
            is_stale = not _diagnose(run) and is_stale
        if is_stale:
            run["remark"] = _OF_OTHER_WEIGHTS
            logger.warning("%s: %s", run["path"], _OF_OTHER_WEIGHTS)

    # 3. The page
    path = Path(runs[0]) / "report.html" if out is None else Path(out)
    page = render_page(read).encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    logger.info("report    %s (%.1f MB)", path, len(page) / 1e6)
    return path


def _is_of_other_weights(run: dict[str, Any]) -> bool:
    """Whether a run's diagnostics are not known to be of its best weights; False where these are gone."""
    try:
        weights = find_weights(Path(run["path"]))
    except YoloflowError:
        return False
    return bool(run["diagnostics"].get("weights_sha256") != sha256_of(weights))


def _diagnose(run: dict[str, Any]) -> bool:
    """Evaluate a run's best weights and keep what they are wrong in; False, with a reason, if it cannot."""
    folder = Path(run["path"])
    try:
        run["diagnostics"] = write_diagnostics(folder, evaluate_run(str(folder)))
    except YoloflowError as error:
        logger.warning("%s is not evaluated: %s", folder, error)
        run["absent"] = f"This run was not evaluated: {error}"
        return False
    return True
