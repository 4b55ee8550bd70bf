"""The part that callbacks for services of experiments have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.callbacks.scalars import MAX_CLASSES, evaluation_scalars, step_scalars
from yoloflow.run import file_names
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")


def import_service(package: str, name: str) -> Any:
    """Returns the package of a service, whose setting and extra have the package's name.

    Args:
        package: to import.
        name: of the service, for the message.

    Raises:
        YoloflowError: the package is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise YoloflowError(
            f"{name} is not installed: pip install 'yoloflow[{package}]', or set {package}=false"
        ) from error


class TrackerCallback(BaseCallback, ABC):
    """Gives a service of experiments the settings, the figures and, at the end, the files of a run.

    Figures of every logged step and evaluation have the names that TensorBoard gets and the step over all
    epochs. A resumed run goes on in the entry that it began. Rank 0 alone speaks to the service.
    """

    def __init__(self) -> None:
        self._id: str | None = None
        self._is_open = False

    def on_train_begin(self, context: RunContext) -> None:
        """Begins or continues the entry of the run.

        Raises:
            YoloflowError: the service cannot be used.
        """
        if not context.ranks.is_main:
            return
        settings = yaml.safe_load((context.run.path / file_names.CONFIG).read_text(encoding="utf-8"))
        self._id = self._open(context.run.path, self._id, settings)
        self._is_open = True
        if len(context.class_names) > MAX_CLASSES:
            logger.info("%s: AP of the first %d classes only", type(self).__name__, MAX_CLASSES)

    def on_step_end(self, context: RunContext) -> None:
        """Gives losses, learning rates, momentum and speed of a logged step."""
        if self._is_open and context.is_log_step:
            self._log(step_scalars(context), context.step)

    def on_evaluation(self, context: RunContext) -> None:
        """Gives AP and AP50, and AP of each class, of masks too."""
        if self._is_open and context.evaluation is not None:
            self._log(evaluation_scalars(context.evaluation), context.step)

    def on_train_end(self, context: RunContext) -> None:
        """Attaches images, settings, summary and report as far as they are written; closes the entry."""
        if self._is_open:
            run = context.run
            files = [run.path / file_names.CONFIG, run.summary, run.path / file_names.REPORT]
            plots = sorted(path for path in run.plots.glob("*") if path.suffix in (".png", ".jpg"))
            self._attach(plots, [path for path in files if path.is_file()])
            self._end(succeeded=True)

    def on_exception(self, context: RunContext) -> None:
        """Closes the entry as one that failed."""
        self._end(succeeded=False)

    def state_dict(self) -> dict[str, Any]:
        """Returns the service's name of the entry."""
        return {} if self._id is None else {"id": self._id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back the name of the entry to go on in."""
        self._id = state.get("id")

    def _end(self, *, succeeded: bool) -> None:
        if self._is_open:
            self._is_open = False
            self._close(succeeded)

    @abstractmethod
    def _open(self, run: Path, entry: str | None, settings: Mapping[str, Any]) -> str:
        """Begins an entry, or continues `entry`; returns the service's name of it."""

    @abstractmethod
    def _log(self, scalars: Mapping[str, float], step: int) -> None:
        """Gives figures of a step."""

    @abstractmethod
    def _attach(self, images: Sequence[Path], files: Sequence[Path]) -> None:
        """Gives files of the run folder."""

    @abstractmethod
    def _close(self, succeeded: bool) -> None:
        """Ends the entry."""
