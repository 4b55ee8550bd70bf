"""Step 8: the loop."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from yoloflow.data.clock import LoaderClock
from yoloflow.data.loader import BatchExtent
from yoloflow.engine.callbacks import BaseCallback, RunContext
from yoloflow.engine.callbacks.eval_while_train import save_networks
from yoloflow.engine.checkpoint import StateWriter, TrainingState, load_newest_state
from yoloflow.engine.memory_forecast import forecast_memory
from yoloflow.engine.run_summary import run_summary
from yoloflow.engine.sentinel import NonFiniteError, Sentinel
from yoloflow.engine.stop import TrainingStopped
from yoloflow.engine.watch import Watch
from yoloflow.runtime import gather_over_ranks, sum_over_ranks
from yoloflow.structures import Batch, YoloflowError
from yoloflow.weights.files import write_atomically

logger = logging.getLogger("yoloflow")


class BatchStream(Protocol):
    """What the trainer asks of its loader (`ConcatLoader`).

    Attributes:
        clock: what loading took.
    """

    clock: LoaderClock

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
        self.sentinel = Sentinel(context, loader)
        self.watch = Watch(context.ranks)
        self._states = StateWriter(context.run.weights, context.keep_latest)
        self._batches: Iterator[Batch] = iter(())
        self._sink_size = 1
        self._started = self._saved = self._logged = self._epoch_started = time.monotonic()
        self._seconds_before = 0.0
        self._step_seconds = 0.0
        self._step_images = self._images = 0
        self._entered_stage: int | None = None

    def train(self) -> dict[str, Any]:
        """Train to the last epoch, from the newest state where the run is a resumed one.

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
        if context.run.resumed:
            self._restore()
            self._require_one_step()
        self.sentinel.watch()
        self._started = self._saved = time.monotonic()
        first_epoch = context.step // context.steps_per_epoch
        context.epoch = min(first_epoch, context.epochs - 1)
        try:
            with context.stop.listen(), self.watch.running():
                if context.memory_forecast:
                    self.watch.begins("trying the largest batch")
                    forecast_memory(context.train_step, self.loader, context.ranks)
                self._notify("on_train_begin")
                self._run(first_epoch)
            summary = self._finish(self._seconds)
            self._notify("on_train_end")
        except BaseException as error:
            explained = self.watch.explain(error)
            self._notify("on_exception")
            self._states.wait()
            if isinstance(error, TrainingStopped) and context.ranks.is_main:
                logger.info("%s: the state of step %d is saved, resume=auto goes on", error, context.step)
            if explained is not None:
                raise explained from error
            if isinstance(error, OSError) and not isinstance(error, ConnectionError):
                raise _cannot_write(error, context.run.path) from error
            raise
        return summary

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
        try:
            self._notify("on_epoch_end")
        except TrainingStopped:
            self._save()
            raise
        context.epoch_open = False
        self._save()
        if context.step < context.epochs * context.steps_per_epoch:
            self._stop_if_asked(is_saved=True)

    def _stop_if_asked(self, is_saved: bool = False) -> None:
        number = self.context.stop.signal_of_any_rank()
        if number is not None:
            if not is_saved:
                self._save()
            raise TrainingStopped(number)

    @property
    def _seconds(self) -> float:
        """Of this and all earlier processes of the run."""
        return time.monotonic() - self._started + self._seconds_before

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
            self._stop_if_asked()
            if self._is_time_to_save():
                self._save()

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
            self._images += len(context.batch.images) * context.ranks.rank_size
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
        error = self.sentinel.examine()
        if context.non_finite == "stop":
            with suppress(NonFiniteError):  # a fault of the weights, which are not worth keeping
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
            context.loss_items = sum_over_ranks(context.loss_items) / context.ranks.rank_size
            seconds = time.monotonic() - self._logged
            context.images_per_second = self._images / seconds
            self._step_seconds += seconds
            self._step_images += self._images
            self._logged, self._images = time.monotonic(), 0

    def _is_time_to_save(self) -> bool:
        context = self.context
        by_step = context.save_steps is not None and context.step % context.save_steps == 0
        minutes = (time.monotonic() - self._saved) / 60
        return by_step or (context.save_minutes is not None and minutes >= context.save_minutes)

    def _report_loading(self) -> None:
        context = self.context
        waited, context.loading_seconds = self.loader.clock.take()
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
        """Begin to write the state after this step (rank 0; the others hold the same)."""
        context = self.context
        self._saved = time.monotonic()
        self.watch.begins(f"saving the state of step {context.step}")
        self.sentinel.check_weights()
        tensors, counters = context.train_step.state_dict()
        if not context.ranks.is_main:
            return
        tensors["rng.torch"] = torch.get_rng_state()
        trainer = {
            "step": context.step,
            "stage": context.stage,
            "epoch_open": context.epoch_open,
            "has_spoken": self.sentinel.has_spoken,
            "best": context.best,
            "figures": context.figures,
            "seconds": self._seconds,
            "callbacks": [callback.state_dict() for callback in self.callbacks],
        }
        self._states.write(context.step, TrainingState(tensors, {**counters, "trainer": trainer}))

    def _restore(self) -> None:
        context = self.context
        state = load_newest_state(context.run.weights)
        if state is None:
            logger.info("%s: no good state yet, starting afresh", context.run.path)
            return
        tensors, numbers = dict(state.tensors), state.numbers
        trainer = numbers["trainer"]
        if len(trainer["callbacks"]) != len(self.callbacks):
            raise YoloflowError(
                f"{context.run.path}: the run had other callbacks; resume it with the same config"
            )
        torch.set_rng_state(tensors.pop("rng.torch").cpu())
        context.train_step.load_state_dict(tensors, numbers)
        context.step, context.stage, context.best = trainer["step"], trainer["stage"], trainer["best"]
        context.figures, context.epoch_open = trainer["figures"], trainer["epoch_open"]
        self.sentinel.has_spoken = trainer["has_spoken"]
        self._seconds_before = trainer["seconds"]
        for callback, saved in zip(self.callbacks, trainer["callbacks"], strict=True):
            callback.load_state_dict(saved)
        logger.info("resumed %s at step %d", context.run.path, context.step)

    def _require_one_step(self) -> None:
        """Refuse to go on from states of different steps, as machines with folders of their own would."""
        steps = gather_over_ranks(self.context.step)
        if len(set(steps)) > 1:
            raise YoloflowError(
                f"{self.context.run.path}: the ranks would go on from different steps ({steps}); all "
                "machines must see the same folder: share save_dir, or copy the run to each"
            )

    def _finish(self, seconds: float) -> dict[str, Any]:
        context = self.context
        self._states.wait()
        summary = run_summary(context, seconds, self._step_images / max(self._step_seconds, 1e-9))
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
    """The trainer of the flow (see `Trainer`)."""
    return Trainer(context, loader, callbacks)
