"""What a callback may see and when it is called.

A callback watches: it reads the context and writes files or lines. What changes the training (EMA, warm-up,
accumulation, stages) lives in the train step and in the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from yoloflow.run.folder import RunFolder
from yoloflow.run.signals import StopRequest
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import Batch

if TYPE_CHECKING:
    from yoloflow.evaluation.test_function import EvaluationResult
    from yoloflow.train_step.step import TrainStep

TestFunction = Callable[[torch.nn.Module], "EvaluationResult"]


@dataclass(slots=True)
class RunContext:
    """The state of a training as callbacks see it.

    Attributes:
        run: the run folder; ranks: this process among its peers.
        train_step: the step object with network, EMA, optimizer and schedule.
        test_fn: evaluates a network, or None where the run has no evaluation.
        class_names: in class order.
        epochs, steps_per_epoch: the plan, from the trainer's loader.
        log_interval: steps between two logged ones.
        epoch: 0-based epoch in progress (after an epoch's end: the one that ended).
        step: steps done since the training began, over all epochs.
        stage: 0-based stage of `epoch`.
        batch: the batch of the last step.
        loss_items: (K,) on the device, of the last step, this rank's, and at a logged step
            the mean over the ranks; names in `loss_item_names`.
        images_per_second: over the last logging interval, evaluation not counted.
        waited_share: part of the last epoch's training time that was spent waiting for batches.
        loading_seconds: of all loading processes in the last epoch, by what they did.
        evaluation: the newest result of this process, or None.
        figures: the newest evaluation's figures as in `summary.json`, kept over a resume.
        best: the best evaluation's figures so far, empty before the first.
        keep_latest: newest training states kept.
        save_steps: write a state every so many steps too; None for epoch ends only.
        save_minutes: likewise after so many minutes without one.
        non_finite: "stop" at the first loss, gradient or weight that is not finite, or "skip" the update.
        memory_forecast: try the largest batch that there can be before the first step.
        stop: whether somebody asked the training to stop.
        identity: what must be the same where a resumed run goes on, by name; the trainer adds its own.
        epoch_open: the steps of `epoch` are done, what happens at its end is not.
    """

    run: RunFolder
    ranks: Ranks
    train_step: TrainStep
    test_fn: TestFunction | None
    class_names: list[str]
    loss_item_names: list[str]
    log_interval: int = 100
    keep_latest: int = 2
    save_steps: int | None = None
    save_minutes: float | None = None
    non_finite: Literal["stop", "skip"] = "stop"
    memory_forecast: bool = False
    stop: StopRequest = field(default_factory=StopRequest)
    identity: Mapping[str, Any] = field(default_factory=dict)
    epoch_open: bool = False
    epochs: int = 0
    steps_per_epoch: int = 0
    epoch: int = 0
    step: int = 0
    stage: int = 0
    batch: Batch | None = None
    loss_items: torch.Tensor | None = None
    images_per_second: float = 0.0
    waited_share: float = 0.0
    loading_seconds: dict[str, float] = field(default_factory=dict)
    evaluation: EvaluationResult | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def is_log_step(self) -> bool:
        """Whether the step just done is one to report."""
        return self.step % self.log_interval == 0 or self.step % self.steps_per_epoch == 0

    def evaluated_network(self) -> torch.nn.Module:
        """The network that is evaluated and kept as best: the EMA where there is one."""
        ema = self.train_step.ema
        return ema.network if ema is not None else self.train_step.network


class BaseCallback:
    """All hooks, each doing nothing; override what you need.

    On several ranks every callback is called on every rank; write files only where `context.ranks.is_main`.
    """

    def on_train_begin(self, context: RunContext) -> None:
        """Before the first step (of a resumed run: before its first new step)."""

    def on_stage_begin(self, context: RunContext) -> None:
        """Before the first step of a stage."""

    def on_epoch_begin(self, context: RunContext) -> None:
        """Before the first step of an epoch."""

    def on_step_begin(self, context: RunContext) -> None:
        """Before a step; `context.batch` is the batch to come."""

    def on_step_end(self, context: RunContext) -> None:
        """After a step."""

    def on_epoch_end(self, context: RunContext) -> None:
        """After the last step of an epoch; evaluation happens here."""

    def on_evaluation(self, context: RunContext) -> None:
        """After an evaluation; the result is `context.evaluation`."""

    def on_train_end(self, context: RunContext) -> None:
        """After the last epoch."""

    def on_exception(self, context: RunContext) -> None:
        """When the training ends by an error or an interrupt, before it is raised on."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers to restore after a resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
