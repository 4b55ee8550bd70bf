"""Settings of the callbacks, and the rows that they stand for."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from yoloflow.settings import Count, Row, Section


class CallbackRow(Section):
    """A callback by name, with its arguments as further keys."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any]

    name: str = Field(description="class name, such as EvalWhileTrain; its arguments are further keys")


class CallbackSettings(Section):
    """Settings of evaluation during training and of what is written about it."""

    run_eval: bool = Field(True, description="evaluate on val_set while training")
    run_eval_interval: Count = Field(1, description="epochs between evaluations")
    eval_last_epochs: int = Field(0, ge=0, description="evaluate each of the last so many epochs too")
    keep_checkpoint_max: int = Field(0, ge=0, description="best weights kept beside `best` itself")
    summary: bool = Field(False, description="write TensorBoard files (metrics.jsonl is always written)")
    wandb: bool = Field(False, description="write Weights & Biases files (sent if WANDB_MODE=online)")
    mlflow: bool = Field(False, description="log to MLflow: MLFLOW_TRACKING_URI, or its local store")
    report: bool = Field(
        True, description="write diagnostics.json and report.html when the training has finished"
    )
    profiler: bool = Field(False, description="record some steps; say at the end where the time went")
    profiler_step_num: Count = Field(3, description="how many steps it records")
    callback: list[CallbackRow] = Field(default_factory=list, description="further callbacks")


def callback_rows(settings: CallbackSettings, epochs: int) -> list[Row]:
    """Returns the rows for `create_callback`, in the order of their calls."""
    own = [row.model_dump() for row in settings.callback]
    rows: list[Row] = [{"name": "ConsoleCallback"}, {"name": "MetricsFileCallback"}]
    if settings.run_eval:
        last = range(epochs - settings.eval_last_epochs + 1, epochs + 1)
        rows.append(
            {
                "name": "EvalWhileTrain",
                "stage_intervals": [settings.run_eval_interval],
                "isolated_epochs": list(last),
                "keep_top_k": settings.keep_checkpoint_max,
            }
        )
    rows.append({"name": "PicturesCallback"})
    if settings.summary:
        rows.append({"name": "SummaryCallback"})
    if settings.profiler:
        rows.append({"name": "ProfilerCallback", "profiler_step_num": settings.profiler_step_num})
    named = {row["name"] for row in own}
    rows = [row for row in rows if row["name"] not in named] + own
    # After the others, as it tells what the others have written.
    if settings.report and "ReportCallback" not in named:
        rows.append({"name": "ReportCallback"})
    # They attach the report too.
    trackers = {"WandbCallback": settings.wandb, "MlflowCallback": settings.mlflow}
    rows += [{"name": name} for name, is_on in trackers.items() if is_on and name not in named]
    return rows
