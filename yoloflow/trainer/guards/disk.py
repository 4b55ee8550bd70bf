"""The guard against a disk that cannot be written."""

from __future__ import annotations

from pathlib import Path

from yoloflow.structures import YoloflowError
from yoloflow.trainer.guards.guard import Guard


class DiskGuard(Guard):
    """Explains errors of files of the run folder."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def explain(self, error: BaseException) -> YoloflowError | None:
        """Says which file cannot be written, and how to go on."""
        if not isinstance(error, OSError) or isinstance(error, ConnectionError):
            return None
        if not self._run.exists():
            return YoloflowError(
                f"{self._run}: the folder of this run is gone; if it was moved, put it back and go on with "
                "resume=auto"
            )
        return YoloflowError(
            f"{error.filename or self._run}: cannot be written ({error.strerror}); the newest good state is "
            "untouched: see to it that there is room and that the folder may be written, and go on with "
            "resume=auto"
        )
