"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from yoloflow.models.settings import ModelSettings
from yoloflow.optim.settings import AverageSettings
from yoloflow.run.settings import RunSettings
from yoloflow.settings import Count, Section

BestBy = Literal["masks", "boxes", "sum"]


class StartSettings(AverageSettings, ModelSettings, RunSettings):
    """The weights that a training starts from."""


class TrainerSettings(Section):
    """Settings of the training loop and its guards."""

    rank_timeout: float = Field(900.0, gt=0, description="seconds that a rank waits for the others at most")
    datasink: bool | Literal["auto"] = Field(
        "auto",
        description="look at the device once a sink of steps, not after each; auto does on accelerators",
    )
    sink_size: Count = Field(100, description="steps in a sink")
    log_interval: Count = Field(100, description="steps between log lines")
    keep_latest: int = Field(2, ge=1, description="newest training states kept, to resume from")
    save_steps: Count | None = Field(
        None, description="write a training state every so many steps, not only at the end of each epoch"
    )
    save_minutes: float | None = Field(
        10.0, gt=0, description="likewise after so many minutes without one (null: never)"
    )
    memory_forecast: bool = Field(
        True, description="try the largest batch that there can be before the first step"
    )
    non_finite: Literal["stop", "skip"] = Field(
        "stop", description="what to do at the first loss, gradient or weight that is not finite"
    )
    patience: Count | None = Field(
        None, description="end the training when AP has not risen for so many epochs (null: never)"
    )
    best_by: BestBy = Field(
        "masks",
        description="AP that chooses the best weights and that `patience` watches: of masks (of boxes where "
        "the network has none), of boxes, or the sum of both",
    )
    max_unassigned: Count | None = Field(
        50, description="stop when the loss assigned no object of so many batches in a row (null: never)"
    )
