"""Training states: when one is due, what it holds, and how a run goes on from one."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.run.checkpoint import (
    StateWriter,
    TrainingState,
    keep_last_state,
    load_newest_state,
    newest_step,
    remove_leftovers,
    set_aside_newer,
)
from yoloflow.run.signals import StopRequest, TrainingStopped
from yoloflow.runtime.random_generators import rng_state, set_rng_state
from yoloflow.runtime.ranks import gather_over_ranks
from yoloflow.structures import YoloflowError
from yoloflow.train_step.non_finite import NonFiniteError, first_not_finite
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.kept_weights import KeptWeights
from yoloflow.trainer.settings import TrainerSettings
from yoloflow.trainer.training_time import TrainingTime

logger = logging.getLogger("yoloflow")

_RNG = "rng."


class TrainingStates:
    """Writes the states of a training, and restores the newest.

    Attributes:
        skips_faults: whether the training goes on after a non-finite update, which further ones only repeat.
    """

    def __init__(
        self,
        context: RunContext,
        callbacks: Sequence[BaseCallback],
        weights: KeptWeights,
        taken: TrainingTime,
        settings: TrainerSettings,
        identity: Mapping[str, Any],
        activity: Activity,
    ) -> None:
        """Takes the parts whose state is kept; nothing is written or read yet."""
        self._context, self._callbacks, self._weights = context, callbacks, weights
        self._time, self._settings, self._extra_identity = taken, settings, identity
        self._activity = activity
        self._writer = StateWriter(context.run.weights, settings.keep_latest)
        self._saved = time.monotonic()
        self.skips_faults = False

    @property
    def written(self) -> int | None:
        """Step of the newest state that this process has brought to the disk."""
        return self._writer.written

    def is_due(self) -> bool:
        """Returns whether the settings ask for one now; ranks may differ about the minutes."""
        settings = self._settings
        by_step = settings.save_steps is not None and self._context.step % settings.save_steps == 0
        minutes = (time.monotonic() - self._saved) / 60
        return by_step or (settings.save_minutes is not None and minutes >= settings.save_minutes)

    def save_if_due(self, stop: StopRequest) -> None:
        """Saves the state within an epoch where the settings or a signal ask for it; a signal stops."""
        if self._context.step % self._context.steps_per_epoch == 0:
            return
        signal_number, is_due = stop.agree(self.is_due())
        if is_due or signal_number is not None:
            self.save()
        if signal_number is not None:
            raise TrainingStopped.by(signal_number)

    def save(self) -> None:
        """Begins to write the state after this step (rank 0; all must call at the same step).

        Raises:
            NonFiniteError: a weight is not finite.
        """
        context = self._context
        self._activity.begin(f"saving the state of step {context.step}", "states")
        self._saved = time.monotonic()
        self.check_weights()
        tensors, counters = context.train_step.state_dict()
        if not context.ranks.is_main:
            return
        drawn = rng_state(context.train_step.device)
        tensors |= {f"{_RNG}{name}": tensor for name, tensor in drawn.items()}
        trainer = {
            "step": context.step,
            "stage": context.stage,
            "epoch_open": context.epoch_open,
            "has_spoken": self.skips_faults,
            "best": context.best,
            "figures": context.figures,
            "identity": self._identity(),
            "taken": self._time.state_dict(),
            **self._weights.state_dict(),
            "callbacks": [[type(callback).__name__, callback.state_dict()] for callback in self._callbacks],
        }
        self._writer.write(context.step, TrainingState(tensors, {**counters, "trainer": trainer}))

    def check_weights(self) -> None:
        """Refuses weights that are not finite, before they are written (waits for the device).

        Raises:
            NonFiniteError: a weight is not finite.
        """
        name = first_not_finite(self._context.train_step.network)
        if name is not None:
            raise NonFiniteError(
                f"after step {self._context.step}: weight {name} is not finite; {self.advice_to_go_on()}"
            )

    def advice_to_go_on(self) -> str:
        """Returns how a training whose weights are lost can go on."""
        folder = self._context.run.weights
        step = newest_step(folder)
        advice = "best with a lower optimizer.lr_init, clip_grad=true or overflow_still_update=false"
        if step is None:
            return f"no state was written before: begin again, {advice}"
        return (
            f"the newest state in {folder} is that of step {step}: resume=auto goes on from there, {advice}"
        )

    def wait(self) -> None:
        """Returns when nothing is left to write."""
        self._writer.wait()

    def conclude(self) -> None:
        """Keeps of the states of a finished run what goes on to more epochs (rank 0)."""
        self.wait()
        if self._context.ranks.is_main:
            keep_last_state(self._context.run.weights, self._context.step, self._weights.by_prefix("last"))

    def restore(self) -> None:
        """Restores the newest state of the run, if there is one; all ranks must call. Nothing is written.

        Raises:
            YoloflowError: no state is good, or it is of a training that this one cannot go on from.
        """
        context = self._context
        self._activity.begin("reading the newest state", "states")
        state = load_newest_state(context.run.weights)
        if state is None:
            logger.info("%s: no state yet, starting afresh", context.run.path)
        else:
            self._restore(state)
        self._require_one_step()
        if not context.ranks.is_main:
            return
        if removed := remove_leftovers(context.run.path, context.run.weights):
            logger.info("%s: %d unfinished files of a killed process removed", context.run.path, removed)
        if state is not None:
            set_aside_newer(context.run.weights, context.step)
            logger.info("resumed %s at step %d", context.run.path, context.step)

    def _restore(self, state: TrainingState) -> None:
        context = self._context
        trainer = state.numbers["trainer"]
        self._require_same_training(trainer)
        tensors = dict(state.tensors)
        drawn = [name for name in state.tensors if name.startswith(_RNG)]
        generators = {name.removeprefix(_RNG): tensors.pop(name) for name in drawn}
        context.train_step.load_state_dict(tensors, state.numbers)
        set_rng_state(generators, context.train_step.device)
        context.step, context.stage, context.best = trainer["step"], trainer["stage"], trainer["best"]
        context.figures, context.epoch_open = trainer["figures"], trainer["epoch_open"]
        self.skips_faults = trainer["has_spoken"]
        self._time.load_state_dict(trainer["taken"])
        self._weights.load_state_dict(trainer)
        self._restore_callbacks(trainer["callbacks"])

    def _identity(self) -> dict[str, Any]:
        """Returns what the training that goes on from a state has in common with the one that wrote it."""
        context = self._context
        return {
            "steps of an epoch": context.steps_per_epoch,
            "accumulate": context.train_step.micro_batches_per_update,
            **self._extra_identity,
        }

    def _require_same_training(self, trainer: dict[str, Any]) -> None:
        context, before, now = self._context, trainer["identity"], self._identity()
        changed = [
            f"{name}: {before.get(name)} when the state was written, {now.get(name)} now"
            for name in before | now
            if before.get(name) != now.get(name)
        ]
        length = context.epochs * context.steps_per_epoch
        if trainer["step"] > length:
            changed.append(f"epochs: the state is that of step {trainer['step']}, this training has {length}")
        if changed:
            raise YoloflowError(
                f"{context.run.path}: cannot go on: its state is of another training ({'; '.join(changed)}). "
                "Put the settings, ranks or data back, or begin a new run with another name=... (weight=FILE "
                f"starts it with weights from {context.run.weights})"
            )

    def _restore_callbacks(self, saved: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Gives each callback the state of the one of its kind; callbacks may come and go."""
        left = list(saved)
        for callback in self._callbacks:
            found = next((entry for entry in left if entry[0] == type(callback).__name__), None)
            if found is not None:
                left.remove(found)
                callback.load_state_dict(found[1])
        if lost := [name for name, state in left if state]:
            logger.warning(
                "%s: the state has figures of %s, which this training does not have among its callbacks; "
                "they are left out",
                *(self._context.run.path, ", ".join(lost)),
            )

    def _require_one_step(self) -> None:
        """Refuses to go on from states of different steps, as machines with folders of their own would."""
        steps = gather_over_ranks(self._context.step)
        if len(set(steps)) > 1:
            raise YoloflowError(
                f"{self._context.run.path}: the ranks would go on from different steps ({steps}); all "
                "machines must see the same folder: share save_dir, or copy the run to each"
            )
