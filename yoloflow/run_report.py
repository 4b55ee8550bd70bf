"""The report flow: runs in, one HTML file that needs no network out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yoloflow.evaluation.run_diagnostics import diagnostics_of_run, doubt_about, read_sha256
from yoloflow.files import write_atomically
from yoloflow.flow import evaluate_run
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_content import read_run
from yoloflow.run.folder import find_weights
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")


def write_report(runs: Sequence[str | Path], out: str | Path | None = None, *, evaluate: bool = True) -> Path:
    """Write the page of a run, or of several side by side.

    Args:
        runs: run folders, finished or not.
        out: the file; None for `report.html` in the first run.
        evaluate: evaluate the best weights of a run first if it has no diagnostics or those of other weights,
            and keep them as its `diagnostics.json`; where that is not possible a warning says why, and so
            does the page. Diagnostics of other weights are never shown without a word that they are.

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
        if run["diagnostics"] is not None:
            run["doubt"] = doubt_about(run["diagnostics"], Path(run["path"]))
        if evaluate and (run["diagnostics"] is None or run["doubt"]):
            _diagnose(run)
        elif run["doubt"]:
            logger.warning("%s: %s; without --no-evaluate it is evaluated again", run["path"], run["doubt"])

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


def _diagnose(run: dict[str, Any]) -> None:
    """Evaluate a run's best weights and keep what they are wrong in."""
    folder, doubt = Path(run["path"]), run["doubt"]
    try:
        weights = find_weights(folder)
        # Before the evaluation: if a training replaces the file meanwhile, the next report tells.
        sha256 = read_sha256(weights)
        if doubt:
            logger.info("%s: %s; evaluated again", folder, doubt)
        result = evaluate_run(str(folder), weight=str(weights))
    except YoloflowError as error:
        logger.warning("%s is not evaluated: %s%s", folder, error, f"; {doubt}" if doubt else "")
        run["absent"] = f"This run was not evaluated: {error}"
        return
    content = diagnostics_of_run(result, weights, sha256)
    try:
        write_atomically(folder / "diagnostics.json", json.dumps(content).encode())
    except OSError as error:
        logger.warning("%s: diagnostics.json cannot be written (%s)", folder, error.strerror)
    run["diagnostics"], run["doubt"] = content, None
