"""Step 6: callbacks watch the training.

To add one, write a file in this folder and a line in `CALLBACKS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from yoloflow.callbacks.base import BaseCallback, RunContext, TestFunction, check_hooks
from yoloflow.callbacks.console import ConsoleCallback
from yoloflow.callbacks.eval_while_train import EvalWhileTrain
from yoloflow.callbacks.metrics_file import MetricsFileCallback
from yoloflow.callbacks.mlflow_run import MlflowCallback
from yoloflow.callbacks.plots import PicturesCallback
from yoloflow.callbacks.profiler import ProfilerCallback
from yoloflow.callbacks.report import ReportCallback
from yoloflow.callbacks.summary import SummaryCallback
from yoloflow.callbacks.wandb_run import WandbCallback
from yoloflow.structures import YoloflowError, nearest_names

__all__ = [
    "CALLBACKS",
    "BaseCallback",
    "ConsoleCallback",
    "EvalWhileTrain",
    "MetricsFileCallback",
    "MlflowCallback",
    "PicturesCallback",
    "ProfilerCallback",
    "ReportCallback",
    "RunContext",
    "SummaryCallback",
    "TestFunction",
    "WandbCallback",
    "check_callback",
    "check_hooks",
    "create_callback",
]

CALLBACKS: dict[str, type[BaseCallback]] = {
    "ConsoleCallback": ConsoleCallback,
    "EvalWhileTrain": EvalWhileTrain,
    "MetricsFileCallback": MetricsFileCallback,
    "MlflowCallback": MlflowCallback,
    "PicturesCallback": PicturesCallback,
    "ProfilerCallback": ProfilerCallback,
    "ReportCallback": ReportCallback,
    "SummaryCallback": SummaryCallback,
    "WandbCallback": WandbCallback,
}


def create_callback(rows: Iterable[Mapping[str, Any]]) -> list[BaseCallback]:
    """Creates callbacks from a recipe's rows.

    Args:
        rows: mappings with `name` (a key of `CALLBACKS`) and that class's own arguments.

    Raises:
        YoloflowError: unknown name or argument; the message gives the nearest known ones.
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        check_callback(row, f"callback[{number}]")
    return [
        CALLBACKS[row["name"]](**{key: value for key, value in row.items() if key != "name"}) for row in rows
    ]


def check_callback(row: Mapping[str, Any], where: str) -> None:
    """Refuses an unknown callback or argument before anything is built.

    Args:
        row: of a recipe.
        where: begins the message.

    Raises:
        YoloflowError: as `create_callback`.
    """
    if "name" not in row:
        raise YoloflowError(f"{where}: needs a `name`; known: {', '.join(sorted(CALLBACKS))}")
    name = row["name"]
    if name not in CALLBACKS:
        raise YoloflowError(f"{where}.name: unknown callback {name!r}; {nearest_names(str(name), CALLBACKS)}")
    known = list(inspect.signature(CALLBACKS[name]).parameters)
    for key in row:
        if key != "name" and key not in known:
            raise YoloflowError(f"{where}: {name} has no argument {key!r}; {nearest_names(key, known)}")
