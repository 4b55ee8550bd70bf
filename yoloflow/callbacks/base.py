"""The hooks of a callback, and the state of the training that it may read.

Callbacks watch: they read the context and write files or lines. Evaluation, the choice of the best weights
and saving are the training loop's; EMA, warm-up and accumulation are the train step's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from yoloflow.evaluation.result import EvaluationResult
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import Batch, YoloflowError, nearest_names
from yoloflow.train_step.step import TrainStep

TestFunction = Callable[[torch.nn.Module], EvaluationResult]


@dataclass(slots=True)
class RunContext:
    """The state of a training as callbacks see it.

    Attributes:
        run: the run folder.
        ranks: this process among its peers.
        train_step: the step object with network, EMA, optimizer and schedule.
        test_fn: evaluates a network, or None where the run has no evaluation.
        class_names: in class order.
        loss_item_names: of `loss_items`.
        weights_facts: what the weights files say of themselves, see `WeightsFile.facts`.
        epochs, steps_per_epoch: the plan, from the trainer's loader.
        epoch: 0-based epoch in progress (after an epoch's end: the one that ended); -1 in the evaluation
            before the first step, which is that of "epoch 0" in all that is shown.
        step: steps done since the training began, over all epochs.
        stage: 0-based stage of `epoch`.
        epoch_open: the steps of `epoch` are done, what happens at its end is not.
        batch: the batch of the last step.
        is_log_step: whether the step just done is one to report.
        loss_items: (K,) on the device, of the last step, this rank's, and at a logged step
            the mean over the ranks.
        images_per_second: over the last logging interval, evaluation not counted.
        waited_share: part of the last epoch's training time that was spent waiting for batches.
        loading_seconds: of all loading processes in the last epoch, by what they did.
        spent: seconds of this process so far, by what it did: preparation, wait for data, steps, callbacks,
            evaluation, states.
        evaluation: the newest result of this process, or None.
        figures: the newest evaluation's figures as in `summary.json`, kept over a resume.
        best: the best evaluation's figures so far, empty before the first.
    """

    run: RunFolder
    ranks: Ranks
    train_step: TrainStep
    test_fn: TestFunction | None
    class_names: list[str]
    loss_item_names: list[str]
    weights_facts: Mapping[str, Any] | None = None
    epochs: int = 0
    steps_per_epoch: int = 0
    epoch: int = 0
    step: int = 0
    stage: int = 0
    epoch_open: bool = False
    batch: Batch | None = None
    is_log_step: bool = False
    loss_items: torch.Tensor | None = None
    images_per_second: float = 0.0
    waited_share: float = 0.0
    loading_seconds: dict[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    evaluation: EvaluationResult | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def evaluated_network(self) -> torch.nn.Module:
        """Returns the network that is evaluated and kept as best: the EMA where there is one."""
        ema = self.train_step.ema
        return ema.network if ema is not None else self.train_step.network


class BaseCallback:
    """A watcher of the training: all hooks, each doing nothing; override what you need.

    On several ranks every callback is called on every rank; write files only where `context.ranks.is_main`.

    Attributes:
        hooks: names of the methods that are called; `check_hooks` refuses others that begin with "on_".
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_begin",
        "on_stage_begin",
        "on_epoch_begin",
        "on_step_begin",
        "on_step_end",
        "on_epoch_end",
        "on_evaluation",
        "on_train_end",
        "on_exception",
    )

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
        """After the last step of an epoch, before an evaluation."""

    def on_evaluation(self, context: RunContext) -> None:
        """After an evaluation, also that before the first step; the result is `context.evaluation`."""

    def on_train_end(self, context: RunContext) -> None:
        """After the last epoch."""

    def on_exception(self, context: RunContext) -> None:
        """After an error or an interrupt that ends the training, before it is raised on."""

    def state_dict(self) -> dict[str, Any]:
        """Returns plain numbers to restore after a resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""


def check_hooks(callback: object) -> None:
    """Refuses a callback with a method that looks like a hook and would never be called.

    Raises:
        YoloflowError: it has such a method, or is no `BaseCallback`.
    """
    name = type(callback).__name__
    if not isinstance(callback, BaseCallback):
        raise YoloflowError(f"callback {name}: derive it from yoloflow.BaseCallback")
    for method in dir(callback):
        if method.startswith("on_") and method not in callback.hooks and callable(getattr(callback, method)):
            ours = method.replace("on_train_", "on_")
            hint = nearest_names(method, callback.hooks)
            if ours in callback.hooks:
                hint = f"here it is {ours} (yoloflow.mindyolo.BaseCallback has MindYOLO's names)"
            raise YoloflowError(f"callback {name}: {method} is no hook and would never be called; {hint}")
