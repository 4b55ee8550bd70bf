"""MLflow: a run there for each run here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import time
from typing import Any

from yoloflow.callbacks.tracker import TrackerCallback, import_service
from yoloflow.settings import flatten
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

_LONGEST_VALUE = 250
"""Characters of a setting that is a parameter in MLflow; the attached config.yaml has the longer ones."""

_PARAMS_OF_A_CALL = 100

_NOT_IN_NAMES = re.compile(r"[^\w./ -]")


class MlflowCallback(TrackerCallback):
    """Logs to MLflow: by default to its local store in the current folder, `mlflow.db` and `mlruns`."""

    def __init__(self, experiment: str | None = None, tracking_uri: str | None = None) -> None:
        """Checks that the package is installed.

        Args:
            experiment: made where it is not there; None takes MLFLOW_EXPERIMENT_NAME, else "yoloflow".
            tracking_uri: server, database or folder; None takes MLFLOW_TRACKING_URI, else MLflow's default.

        Raises:
            YoloflowError: the package is not installed.
        """
        super().__init__()
        import_service("mlflow", "MLflow")
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "yoloflow"
        self.tracking_uri = tracking_uri
        self._client: Any = None

    def _open(self, run: Path, entry: str | None, settings: Mapping[str, Any]) -> str:
        import mlflow

        uri = self.tracking_uri or mlflow.get_tracking_uri()
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            if entry is None:
                entry = self._begin(run, settings)
            else:
                self._client.update_run(entry, status="RUNNING")
        except (mlflow.MlflowException, ImportError) as error:
            # ImportError: a database is asked for, and mlflow-skinny brings none.
            raise YoloflowError(
                f"MlflowCallback: {uri} cannot be used ({error}); give another tracking_uri or experiment, "
                "pip install 'yoloflow[mlflow]', or set mlflow=false"
            ) from error
        return entry

    def _begin(self, run: Path, settings: Mapping[str, Any]) -> str:
        """Makes a run with the settings as its parameters; returns its id."""
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self._client.create_experiment(self.experiment)
        entry = str(self._client.create_run(number, run_name=run.name).info.run_id)
        texts = {_NOT_IN_NAMES.sub("_", key): str(value) for key, value in flatten(settings).items()}
        params = [Param(key, value) for key, value in texts.items() if len(value) <= _LONGEST_VALUE]
        for first in range(0, len(params), _PARAMS_OF_A_CALL):
            self._client.log_batch(entry, params=params[first : first + _PARAMS_OF_A_CALL])
        return entry

    def _log(self, scalars: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time() * 1000)
        metrics = [Metric(_NOT_IN_NAMES.sub("_", name), value, now, step) for name, value in scalars.items()]
        self._try(lambda: self._client.log_batch(self._id, metrics=metrics))

    def _attach(self, images: Sequence[Path], files: Sequence[Path]) -> None:
        for path in (*images, *files):
            folder = "plots" if path in images else None
            self._try(partial(self._client.log_artifact, self._id, path, folder))

    def _close(self, succeeded: bool) -> None:
        status = "FINISHED" if succeeded else "FAILED"
        self._try(lambda: self._client.set_terminated(self._id, status))

    def _try(self, call: Callable[[], object]) -> None:
        """Calls; where the service fails, warns once and sends no more, so that the training goes on."""
        import mlflow

        if self._client is None:
            return
        try:
            call()
        except mlflow.MlflowException as error:
            self._client = None
            logger.warning("MLflow gets no more figures of this run; the training goes on: %s", error)
