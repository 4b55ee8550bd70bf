"""Step 8: the loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.callbacks.eval_while_train import save_networks
from yoloflow.data.loader import BatchExtent
from yoloflow.data.loading_time import LoadingTime
from yoloflow.files import write_atomically
from yoloflow.run.checkpoint import newest_step
from yoloflow.run.signals import TrainingStopped
from yoloflow.runtime.ranks import sum_over_ranks
from yoloflow.structures import Batch, YoloflowError
from yoloflow.trainer.guards.memory import forecast_memory
from yoloflow.trainer.guards.non_finite import NonFiniteGuard
from yoloflow.trainer.guards.stall import StallWatchdog
from yoloflow.trainer.states import RunStates
from yoloflow.trainer.summary import TrainingTime, run_summary

logger = logging.getLogger("yoloflow")


class BatchStream(Protocol):
    """What the trainer asks of its loader (`ConcatLoader`).

    Attributes:
        loading_time: what loading took.
    """

    loading_time: LoadingTime

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        ...

    @property
    def largest_batch(self) -> BatchExtent:
        """What bounds the batches of all stages."""
        ...

    @property
    def cache_memory(self) -> int:
        """Bytes that its caches take when they are full."""
        ...

    def stage_of(self, step: int) -> int:
        """The 0-based stage of a 0-based step."""
        ...

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """All batches of the training from a step on."""
        ...

    def names_of(self, batch: Batch) -> list[str]:
        """The files of a batch's images."""
        ...


class Trainer:
    """Runs the train step over the loader's batches and calls the callbacks."""

    def __init__(self, context: RunContext, loader: BatchStream, callbacks: Sequence[BaseCallback]) -> None:
        """Put the parts together; `create_trainer` does so for the flow.

        Args:
            context: the state that callbacks see, with the train step in it.
            loader: the batches of all stages.
            callbacks: called in this order.
        """
        context.epochs, context.steps_per_epoch = loader.epochs, loader.steps_per_epoch
        self.context = context
        self.loader = loader
        self.callbacks = list(callbacks)
        self.sentinel = NonFiniteGuard(context, loader)
        self.watch = StallWatchdog(context.ranks)
        self._taken = TrainingTime()
        self._states = RunStates(context, self.callbacks, self.sentinel, self._taken)
        self._batches: Iterator[Batch] = iter(())
        self._sink_size = 1
        self._logged = self._epoch_started = time.monotonic()
        self._images = 0
        self._entered_stage: int | None = None

    def resume(self) -> None:
        """Go to the newest state of the run, if there is one; nothing is written.

        Raises:
            YoloflowError: no state is good, or it is of a training that this one cannot go on from.
        """
        self.watch.begins("reading the newest state")
        self._states.restore()

    def train(self) -> dict[str, Any]:
        """Train to the last epoch.

        Returns:
            the run's summary, as written to `summary.json`.

        Raises:
            YoloflowError: a file of the run cannot be written, other ranks do not answer, or memory is too
                small for the largest batch.
            NonFiniteError: a loss, gradient or weight is not finite, and `non_finite` is "stop".
            TrainingStopped: somebody asked for it by a signal; the state is saved.
        """
        return self.train_with_datasink(1)

    def train_with_datasink(self, sink_size: int) -> dict[str, Any]:
        """Likewise, where the host looks at the device after so many steps only.

        The numbers are those of `train`. A sink also ends where somebody wants to look: at a logged step, a
        state to write, the end of a stage or an epoch. Signals are answered at its end.

        Args:
            sink_size: steps that are fed to the device before the host waits for it.

        Returns:
            as `train`.

        Raises:
            YoloflowError: as `train`; or a sink of no step.
            TrainingStopped: as `train`.
        """
        if sink_size < 1:
            raise YoloflowError(f"sink_size={sink_size}: must be at least 1")
        self._sink_size = sink_size
        context = self.context
        self.sentinel.watch()
        self._taken.started = time.monotonic()
        first_epoch = context.step // context.steps_per_epoch
        context.epoch = min(first_epoch, context.epochs - 1)
        try:
            with context.stop.listen():
                self._train_from(first_epoch)
            summary = self._finish()
            self._notify("on_train_end")
        except BaseException as error:
            explained = self.watch.explain(error)
            try:
                self._notify("on_exception")
            finally:
                self._states.wait()
            if explained is not None:
                raise explained from error
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):
                raise _cannot_write(error, context.run.path) from error
            raise
        return summary

    def _train_from(self, first_epoch: int) -> None:
        """All epochs from one on; if somebody asks it to stop, the state is on the disk afterwards."""
        context = self.context
        try:
            with self.watch.running():
                if context.memory_forecast:
                    self.watch.begins("trying the largest batch")
                    forecast_memory(context.train_step, self.loader, context.ranks)
                self._notify("on_train_begin")
                self._run(first_epoch)
        except TrainingStopped as stopped:
            self.watch.begins(f"writing the state of step {context.step}")
            self._states.wait()
            if context.ranks.is_main:
                self._tell_of_stop(stopped)
            # Who leaves first takes the others with it: a launcher ends them all.
            context.stop.wait_for_all()
            raise

    def _tell_of_stop(self, stopped: TrainingStopped) -> None:
        step = self.context.step
        if self._states.written == step:
            logger.info("%s: the state of step %d is saved, resume=auto goes on", stopped, step)
        else:
            newest = newest_step(self.context.run.weights)
            found = "there is none before" if newest is None else f"the newest is that of step {newest}"
            logger.warning("%s: the state of step %d is not saved; %s", stopped, step, found)

    def _run(self, first_epoch: int) -> None:
        context = self.context
        if context.epoch_open:
            context.epoch = first_epoch - 1
            self._end_epoch()
        self._batches = self.loader.batches(context.step)
        for epoch in range(first_epoch, context.epochs):
            self._begin_epoch(epoch)
            self._run_epoch()
            self._report_loading()
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Evaluation and what else callbacks do; a resumed run does again what was not done to its end."""
        context = self.context
        context.epoch_open = True
        if context.ranks.world_size > 1 and context.test_fn is not None:
            # Ranks cannot break off an evaluation, and who asks them to stop may not wait for its end.
            self._save()
        try:
            self._notify("on_epoch_end")
        except TrainingStopped:
            self._save()
            raise
        context.epoch_open = False
        self._save()
        if context.step < context.epochs * context.steps_per_epoch:
            number, _ = context.stop.agree()
            if number is not None:
                raise TrainingStopped(number)

    def _begin_epoch(self, epoch: int) -> None:
        context = self.context
        context.epoch = epoch
        self._epoch_started = time.monotonic()
        self._enter_stage()
        self._notify("on_epoch_begin")

    def _enter_stage(self) -> None:
        """Switch to the stage of the coming step where it is another; a stage may begin within an epoch."""
        context = self.context
        stage = self.loader.stage_of(context.step)
        if stage == self._entered_stage:
            return
        self._entered_stage = stage
        context.train_step.begin_stage(stage)
        # A resumed run is in the middle of its stage.
        if stage != context.stage or context.step == 0:
            context.stage = stage
            self._notify("on_stage_begin")

    def _run_epoch(self) -> None:
        context = self.context
        self._logged, self._images = time.monotonic(), 0
        while True:
            self._enter_stage()
            self._run_sink(self._steps_until_a_look())
            if context.step % context.steps_per_epoch == 0:
                return
            number, is_due = context.stop.agree(self._states.is_due())
            if number is not None or is_due:
                self._save()
            if number is not None:
                raise TrainingStopped(number)

    def _steps_until_a_look(self) -> int:
        """Length of the coming sink."""
        context, step = self.context, self.context.step
        intervals = [context.steps_per_epoch, context.log_interval, context.save_steps]
        ends = [step + self._sink_size, *(step - step % every + every for every in intervals if every)]
        steps = range(step + 1, min(ends))
        stage = self.loader.stage_of(step)
        return 1 + next(
            (n for n, later in enumerate(steps) if self.loader.stage_of(later) != stage), len(steps)
        )

    def _run_sink(self, steps: int) -> None:
        """Take steps and look only after the last one; less are taken where one of them is faulty."""
        context = self.context
        last = context.step + steps
        while True:
            self.watch.begins(f"loading the batch of step {context.step + 1}")
            context.batch = next(self._batches)
            self._notify("on_step_begin")
            self.watch.begins(f"taking step {context.step + 1}")
            context.loss_items = context.train_step(context.batch.images, context.batch.labels).loss_items
            context.step += 1
            self._images += len(context.batch.images) * context.ranks.world_size
            if context.step == last:
                break
            self._notify("on_step_end")
        if not self.sentinel.is_all_well():
            self._meet_fault()
        if context.step == last:
            self._measure()
            self._notify("on_step_end")

    def _meet_fault(self) -> None:
        """Stop before the faulty update, or go on after it."""
        context = self.context
        last = context.step
        self._states.wait()  # the message tells what is on the disk
        error = self.sentinel.examine()
        if context.non_finite == "stop":
            self._save()
            raise error
        logger.warning("%s; the update is skipped, further ones are only counted", error)
        self.sentinel.skip()
        if context.step != last:
            self._batches = self.loader.batches(context.step)

    def _measure(self) -> None:
        """At a logged step: the speed, and the losses of all ranks together."""
        context = self.context
        if context.is_log_step:
            assert context.loss_items is not None
            context.loss_items = sum_over_ranks(context.loss_items) / context.ranks.world_size
            seconds = time.monotonic() - self._logged
            context.images_per_second = self._images / seconds
            self._taken.step_seconds += seconds
            self._taken.step_images += self._images
            self._logged, self._images = time.monotonic(), 0

    def _report_loading(self) -> None:
        context = self.context
        waited, context.loading_seconds = self.loader.loading_time.take()
        context.waited_share = waited / max(time.monotonic() - self._epoch_started, 1e-9)

    def _notify(self, hook: str) -> None:
        self.watch.begins(f"{hook} of the callbacks (after step {self.context.step})")
        for callback in self.callbacks:
            before = self.context.evaluation
            getattr(callback, hook)(self.context)
            if self.context.evaluation is not before:
                self._keep_figures()
                self._notify("on_evaluation")

    def _keep_figures(self) -> None:
        result = self.context.evaluation
        assert result is not None
        self.context.figures = {
            "map": result.map,
            "map50": result.map50,
            "stats": list(result.stats),
            "per_class": result.per_class,
        }

    def _save(self) -> None:
        self.watch.begins(f"saving the state of step {self.context.step}")
        self._states.save()

    def _finish(self) -> dict[str, Any]:
        context = self.context
        self._states.wait()
        summary = run_summary(context, self._taken)
        if context.ranks.is_main:
            save_networks(context, "last")
            write_atomically(context.run.summary, json.dumps(summary, indent=1).encode())
        return summary


def _cannot_write(error: OSError, run: Path) -> YoloflowError:
    if not run.exists():
        return YoloflowError(
            f"{run}: the folder of this run is gone; if it was moved, put it back and go on with resume=auto"
        )
    return YoloflowError(
        f"{error.filename or run}: cannot be written ({error.strerror}); the newest good state is untouched: "
        "see to it that there is room and that the folder may be written, and go on with resume=auto"
    )


def create_trainer(context: RunContext, loader: BatchStream, callbacks: Sequence[BaseCallback]) -> Trainer:
    """The trainer of the flow (see `Trainer`), at the newest state of a run that is resumed.

    Raises:
        YoloflowError: as `Trainer.resume`.
    """
    trainer = Trainer(context, loader, callbacks)
    if context.run.resumed:
        trainer.resume()
    return trainer
