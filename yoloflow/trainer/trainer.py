"""Step 8: the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.run.signals import StopRequest, TrainingStopped
from yoloflow.runtime.ranks import sum_over_ranks
from yoloflow.structures import Batch, YoloflowError
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.conclusion import conclude
from yoloflow.trainer.evaluation_plan import EvaluationPlan, best_figures
from yoloflow.trainer.guards import Guards
from yoloflow.trainer.kept_weights import KeptWeights
from yoloflow.trainer.settings import TrainerSettings
from yoloflow.trainer.sink import is_log_step, steps_until_look
from yoloflow.trainer.states import TrainingStates
from yoloflow.trainer.training_time import TrainingTime


@dataclass
class Trainer:
    """Takes steps, evaluates, keeps the best weights and saves states; `create_trainer` makes one."""

    context: RunContext
    loader: ConcatLoader
    callbacks: list[BaseCallback]
    settings: TrainerSettings
    states: TrainingStates
    weights: KeptWeights
    guards: Guards
    time: TrainingTime
    activity: Activity
    plan: EvaluationPlan
    stop: StopRequest
    _batches: Iterator[Batch] = field(default_factory=lambda: iter(()))
    _entered_stage: int | None = None

    def train(self) -> dict[str, Any]:
        """Trains to the last epoch and returns the content of `summary.json`.

        Raises:
            YoloflowError: a file of the run cannot be written, other ranks do not answer, or memory is too
                small for the largest batch.
            NonFiniteError: a loss, gradient or weight is not finite, and `non_finite` is "stop".
            TrainingStopped: a signal asked for it; the state is saved.
        """
        return self.train_with_datasink(1)

    def train_with_datasink(self, sink_size: int) -> dict[str, Any]:
        """Does as `train`, but the host looks at the device, and for signals, after `sink_size` steps only.

        A sink also ends at a logged step, a state to write, the end of a stage or an epoch.
        """
        if sink_size < 1:
            raise YoloflowError(f"sink_size={sink_size}: must be at least 1")
        context, steps_per_epoch = self.context, self.context.steps_per_epoch
        self.time.begin()
        context.epoch = min(context.step // steps_per_epoch, context.epochs - 1)
        with self.guards.explaining(partial(self._notify, "on_exception"), self.states.wait):
            self.guards.before_training()
            with self.guards.running():
                self._notify("on_train_begin")
                if self.plan.is_due_at_start(context):
                    context.epoch = -1
                    self._evaluate()
                if context.epoch_open:  # the run was stopped in an evaluation
                    context.epoch = context.step // steps_per_epoch - 1
                    self._end_epoch()
                self._batches = self.loader.batches(context.step)
                for epoch in range(context.step // steps_per_epoch, context.epochs):
                    if self.plan.has_stalled(context, epoch):
                        break
                    context.epoch = epoch
                    self.time.begin_epoch()
                    self._enter_stage()
                    self._notify("on_epoch_begin")
                    while context.step < (epoch + 1) * steps_per_epoch:
                        self._take_steps(sink_size)
                        self.states.save_if_due(self.stop)
                    self._end_epoch()
            summary = conclude(context, self.states, self.weights, self.time, self.plan)
            self._notify("on_train_end")
        return summary

    def _take_steps(self, sink_size: int) -> None:
        """Takes a sink of steps and looks at the device only after the last one."""
        context = self.context
        self._enter_stage()
        first = context.step
        last = first + steps_until_look(first, sink_size, self.loader, self.settings)
        while context.step < last:
            context.batch = batch = self._load(first)
            self._notify("on_step_begin")
            self.activity.begin(f"taking step {context.step + 1}", "steps")
            context.loss_items = loss_items = context.train_step(batch.images, *batch.targets).loss_items
            context.step += 1
            self.time.add_images(len(batch.images) * context.ranks.world_size)
            context.is_log_step = is_log_step(context.step, context.steps_per_epoch, self.settings)
            if context.step < last:
                self._notify("on_step_end")
        self.guards.after_steps()
        if context.step < last:  # a guard has gone back and skips an update
            self._batches = self.loader.batches(context.step)
            return
        if context.is_log_step:
            context.loss_items = sum_over_ranks(loss_items) / context.ranks.world_size
            context.images_per_second = self.time.end_lap()
        self._notify("on_step_end")

    def _load(self, sink_begin: int) -> Batch:
        """Waits for the next batch; a signal ends the wait, and the state before that batch is saved."""
        self.activity.begin(f"loading the batch of step {self.context.step + 1}", "wait for data")
        try:
            with self.stop.at_once():
                return next(self._batches)
        except TrainingStopped:
            if self.context.step > sink_begin:  # the host has not looked at the device since
                self.guards.after_steps()
            # A stage that begins with the awaited batch begins again.
            self.context.stage = self.loader.stage_of(max(self.context.step - 1, 0))
            self.states.save()
            raise

    def _enter_stage(self) -> None:
        """Switches to the stage of the coming step where it is another; a stage may begin within an epoch."""
        context, stage = self.context, self.loader.stage_of(self.context.step)
        if stage == self._entered_stage:
            return
        self._entered_stage = stage
        context.train_step.begin_stage(stage)
        # A resumed run is in the middle of its stage.
        if stage != context.stage or context.step == 0:
            context.stage = stage
            self._notify("on_stage_begin")

    def _end_epoch(self) -> None:
        """Evaluates where it is due and saves the state; a resumed run repeats what was not finished."""
        context = self.context
        waited, context.loading_seconds = self.loader.loading_time.take()
        context.waited_share = waited / self.time.epoch_seconds
        context.epoch_open = True
        if context.ranks.world_size > 1 and context.test_fn is not None:
            # Ranks cannot break off an evaluation, and who asks them to stop may not wait for its end.
            self.states.save()
        try:
            self._notify("on_epoch_end")
            if self.plan.is_due(context, context.epoch + 1):
                self._evaluate()
        except TrainingStopped:
            self.states.save()
            raise
        context.epoch_open = False
        self.states.save()
        if context.step < context.epochs * context.steps_per_epoch:
            self.stop.raise_if_asked()

    def _evaluate(self) -> None:
        """Evaluates the network, and keeps its weights if it is the best so far."""
        context = self.context
        assert context.test_fn is not None
        self.activity.begin(f"evaluating after step {context.step}", "evaluation")
        with self.stop.at_once():
            result = context.test_fn(context.evaluated_network())
        context.evaluation, context.figures = result, result.figures()
        if (score := self.plan.score(context.figures)) > self.plan.score(context.best):
            context.best = {"epoch": context.epoch + 1, **best_figures(context.figures)}
            self.weights.save("best")
        self.weights.keep(score, self.plan.keep_top_k)
        self._notify("on_evaluation")

    def _notify(self, hook: str) -> None:
        self.activity.begin(f"{hook} of the callbacks (after step {self.context.step})", "callbacks")
        for callback in self.callbacks:
            getattr(callback, hook)(self.context)
