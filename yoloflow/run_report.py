"""The report flow: runs in, one HTML file that needs no network out."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from yoloflow.evaluate import evaluate_run
from yoloflow.evaluation.run_diagnostics import diagnostics_of_run, read_sha256, stale_reason
from yoloflow.files import write_atomically
from yoloflow.report.page.document import render_page
from yoloflow.report.page.run_content import RunContent, read_run
from yoloflow.run import file_names
from yoloflow.run.folder import find_weights
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")


def write_report(runs: Sequence[str | Path], out: str | Path | None = None, *, evaluate: bool = True) -> Path:
    """Writes the page of a run, or of several side by side.

    Args:
        runs: run folders, finished or not.
        out: the file; None for `report.html` in the run, or of several `compare.html` in the first, whose own
            page stays.
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
    # 1. The content of each run folder
    contents = [read_run(run) for run in runs]

    # 2. Diagnostics, where a run has none of its weights
    for run in contents:
        if run.diagnostics is not None:
            run.stale_reason = stale_reason(run.diagnostics, run.path)
        if evaluate and (run.diagnostics is None or run.stale_reason):
            _diagnose(run)
        elif run.stale_reason:
            logger.warning("%s: %s; without --no-evaluate it is evaluated again", run.path, run.stale_reason)

    # 3. The page
    name = file_names.REPORT if len(runs) == 1 else file_names.COMPARISON
    path = Path(runs[0]) / name if out is None else Path(out)
    page = render_page(contents).encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    logger.info("report    %s (%.1f MB)", path, len(page) / 1e6)
    return path


def _diagnose(run: RunContent) -> None:
    """Evaluates a run's best weights, and keeps the diagnostics."""
    try:
        weights = find_weights(run.path)
        # Before the evaluation: if a training replaces the file meanwhile, the next report tells.
        sha256 = read_sha256(weights)
        if run.stale_reason:
            logger.info("%s: %s; evaluated again", run.path, run.stale_reason)
        result = evaluate_run(str(run.path), weight=str(weights))
    except YoloflowError as error:
        reason = f"; {run.stale_reason}" if run.stale_reason else ""
        logger.warning("%s is not evaluated: %s%s", run.path, error, reason)
        run.not_evaluated = f"This run was not evaluated: {error}"
        return
    run.diagnostics, run.stale_reason = diagnostics_of_run(result, weights, sha256), None
    try:
        write_atomically(run.path / file_names.DIAGNOSTICS, json.dumps(run.diagnostics).encode())
    except OSError as error:
        logger.warning("%s: %s cannot be written (%s)", run.path, file_names.DIAGNOSTICS, error.strerror)
