"""The progress of a run, from its files alone: running, killed or finished. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import yaml

from yoloflow.files import read_checked, similar_paths
from yoloflow.report.metrics import Metrics, TrainingCurves, curves_of, finite, read_metrics
from yoloflow.run import file_names
from yoloflow.run.lock import is_training
from yoloflow.structures import YoloflowError

State = Literal["waiting", "running", "silent", "interrupted", "finished"]

_SILENT_SECONDS = 120.0
"""So long without a line is worth a word, if lines used to come much quicker."""

_NEWEST = 200
"""Records that the pace is measured on."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a run as its files show it.

    Attributes:
        run: the folder.
        state: "waiting" before the first logged step; "silent" where nothing was written for long;
            "interrupted" where its process has stopped before the end.
        metrics: its records.
        curves: of these records.
        epochs: planned; None where config.yaml does not say.
        epochs_done: also parts of one.
        seconds_left: at the pace of the newest records; None where it is not known.
        silent_seconds: since the last line.
        summary: of a finished run.
    """

    run: Path
    state: State
    metrics: Metrics
    curves: TrainingCurves
    epochs: int | None
    epochs_done: float
    seconds_left: float | None
    silent_seconds: float
    summary: dict[str, Any] | None

    @property
    def is_finished(self) -> bool:
        """True if there is nothing more to come."""
        return self.state == "finished"


class ProgressReader:
    """A reader of a run that may still grow; it reads the metrics again only when they have changed."""

    def __init__(self, run: str | Path) -> None:
        """Looks for the run.

        Raises:
            YoloflowError: the folder is not there, or holds no run.
        """
        self.run = Path(run)
        if not (self.run / file_names.CONFIG).is_file():
            raise YoloflowError(f"{self.run}: {_what_instead(self.run)}")
        self._seen: tuple[int, int] | None = None
        self._metrics = Metrics()
        self._curves = curves_of(self._metrics)

    def read(self, now: float | None = None) -> Progress:
        """Returns how far the run is.

        Args:
            now: seconds since the epoch; the clock's by default.

        Raises:
            YoloflowError: a file of the run cannot be read.
        """
        try:
            return self._read(time.time() if now is None else now)
        except OSError as error:
            raise YoloflowError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def _read(self, now: float) -> Progress:
        self._update_metrics()
        metrics = self._metrics
        epochs = _planned_epochs(self.run / file_names.CONFIG)
        summary: dict[str, Any] | None = read_checked(self.run / file_names.SUMMARY, dict)
        records = sorted(
            [*metrics.stages, *metrics.steps, *metrics.evaluations],
            key=lambda record: (record["step"], record.get("time", 0)),
        )
        silent_seconds = max(now - self._last_write(), 0.0)
        longest = max((seconds for seconds, _ in _intervals(records)), default=0.0)
        state: State = "running"
        if summary is not None:
            state = "finished"
        elif self._is_interrupted():
            state = "interrupted"
        elif not metrics.steps and not metrics.evaluations:
            state = "waiting"  # reading a large data set takes its time
        elif silent_seconds > max(_SILENT_SECONDS, 5 * longest):
            state = "silent"
        step, steps_per_epoch = records[-1]["step"] if records else 0, metrics.steps_per_epoch
        left = None
        if epochs is not None and steps_per_epoch and state == "running":
            left = _seconds_left(records, epochs * steps_per_epoch - step, now)
        return Progress(
            run=self.run,
            state=state,
            metrics=metrics,
            curves=self._curves,
            epochs=epochs,
            epochs_done=step / steps_per_epoch if steps_per_epoch else 0.0,
            seconds_left=left,
            silent_seconds=silent_seconds,
            summary=summary,
        )

    def _update_metrics(self) -> None:
        path = self.run / file_names.METRICS
        status = path.stat() if path.exists() else None
        seen = None if status is None else (status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._metrics = Metrics() if seen is None else read_metrics(path, is_growing=True)
            self._curves = curves_of(self._metrics)
            self._seen = seen

    def _is_interrupted(self) -> bool:
        """Returns whether the training has said that it stopped, or its process is gone."""
        is_alive = is_training(self.run)
        return is_alive is False or (is_alive is None and bool(self._metrics.stopped))

    def _last_write(self) -> float:
        """When the run last wrote; a run that goes on writes its settings anew."""
        paths = (self.run / name for name in (file_names.METRICS, file_names.CONFIG))
        return max(path.stat().st_mtime for path in paths if path.exists())


def _what_instead(folder: Path) -> str:
    """What is at a place where no run is, and where one may be."""
    if not folder.exists():
        return f"there is no such run folder{similar_paths(folder)}"
    if not folder.is_dir():
        return "is a file; give the folder of a run, such as runs/NAME"
    configs = folder.glob(f"*/{file_names.CONFIG}")
    runs = sorted((path.parent for path in configs), key=lambda path: -path.stat().st_mtime)
    hint = f"; did you mean {' or '.join(map(str, runs[:3]))}?" if runs else ""
    return f"holds no run (a run has a {file_names.CONFIG}){hint}"


def _planned_epochs(path: Path) -> int | None:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YoloflowError(f"{path}: is not YAML; it should hold the settings of the run") from error
    epochs = settings.get("epochs") if isinstance(settings, dict) else None
    return epochs if isinstance(epochs, int) and epochs > 0 else None


def _intervals(records: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """Seconds and steps between newest records that follow each other, without pauses of the run.

    An evaluation takes its time (no steps are done meanwhile); steps that took many times longer than usual
    are those over which the run was killed and went on.
    """
    timed = [record for record in records[-_NEWEST:] if finite(record.get("time")) is not None]
    pairs = zip(timed, timed[1:], strict=False)
    intervals = [(later["time"] - record["time"], later["step"] - record["step"]) for record, later in pairs]
    usual = median([seconds for seconds, steps in intervals if steps] or [0.0])
    return [(seconds, steps) for seconds, steps in intervals if not steps or seconds < 20 * usual + 60]


def _seconds_left(records: Sequence[dict[str, Any]], steps_left: float, now: float) -> float | None:
    """At the pace of the newest records, evaluations included."""
    intervals = _intervals(records)
    steps_done = sum(steps for _, steps in intervals)
    if not steps_done:
        return None
    pace = sum(seconds for seconds, _ in intervals) / steps_done
    return max(steps_left * pace - (now - float(records[-1].get("time", now))), 0.0)
