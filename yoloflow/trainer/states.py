"""The states of a training: when one is due, what is in it, and how a run goes on from one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.run.checkpoint import (
    StateWriter,
    TrainingState,
    load_newest_state,
    remove_leftovers,
    set_aside_newer,
)
from yoloflow.runtime.random_generators import rng_state, set_rng_state
from yoloflow.runtime.ranks import gather_over_ranks
from yoloflow.structures import YoloflowError
from yoloflow.trainer.guards.non_finite import NonFiniteGuard
from yoloflow.trainer.summary import TrainingTime

logger = logging.getLogger("yoloflow")

_RNG = "rng."


class RunStates:
    """Writes a training's states and takes up the newest."""

    def __init__(
        self,
        context: RunContext,
        callbacks: Sequence[BaseCallback],
        sentinel: NonFiniteGuard,
        taken: TrainingTime,
    ) -> None:
        """Look at the training's parts; nothing is written or read yet.

        Args:
            context: of the training.
            callbacks: have states of their own.
            sentinel: refuses weights that are not finite.
            taken: the time of the run.
        """
        self._context, self._callbacks, self._sentinel = context, callbacks, sentinel
        self._taken = taken
        self._writer = StateWriter(context.run.weights, context.keep_latest)
        self._saved = time.monotonic()

    @property
    def written(self) -> int | None:
        """Step of the newest state that this process has brought to the disk."""
        return self._writer.written

    def is_due(self) -> bool:
        """Whether `save_steps` or `save_minutes` ask for one now; ranks may differ about the minutes."""
        context = self._context
        by_step = context.save_steps is not None and context.step % context.save_steps == 0
        minutes = (time.monotonic() - self._saved) / 60
        return by_step or (context.save_minutes is not None and minutes >= context.save_minutes)

    def save(self) -> None:
        """Begin to write the state after this step (rank 0; all must call at the same step).

        Raises:
            NonFiniteError: a weight is not finite.
        """
        context = self._context
        self._saved = time.monotonic()
        self._sentinel.check_weights()
        tensors, counters = context.train_step.state_dict()
        if not context.ranks.is_main:
            return
        drawn = rng_state(context.train_step.device)
        tensors |= {f"{_RNG}{name}": tensor for name, tensor in drawn.items()}
        trainer = {
            "step": context.step,
            "stage": context.stage,
            "epoch_open": context.epoch_open,
            "has_spoken": self._sentinel.has_spoken,
            "best": context.best,
            "figures": context.figures,
            "identity": self._identity(),
            "taken": self._taken.state_dict(),
            "callbacks": [[type(callback).__name__, callback.state_dict()] for callback in self._callbacks],
        }
        self._writer.write(context.step, TrainingState(tensors, {**counters, "trainer": trainer}))

    def wait(self) -> None:
        """Return when nothing is left to write."""
        self._writer.wait()

    def restore(self) -> None:
        """Take up the newest state of the run, if there is one; all ranks must call.

        Raises:
            YoloflowError: no state is good, or it is of a training that this one cannot go on from.
        """
        context = self._context
        state = load_newest_state(context.run.weights)
        if state is None:
            logger.info("%s: no state yet, starting afresh", context.run.path)
        else:
            self._take_up(state)
        self._require_one_step()
        if not context.ranks.is_main:
            return
        if removed := remove_leftovers(context.run.path, context.run.weights):
            logger.info("%s: %d unfinished files of a killed process removed", context.run.path, removed)
        if state is not None:
            set_aside_newer(context.run.weights, context.step)
            logger.info("resumed %s at step %d", context.run.path, context.step)

    def _take_up(self, state: TrainingState) -> None:
        context = self._context
        trainer = state.numbers["trainer"]
        self._require_same_training(trainer)
        tensors = dict(state.tensors)
        drawn = {name: tensors.pop(name) for name in state.tensors if name.startswith(_RNG)}
        context.train_step.load_state_dict(tensors, state.numbers)
        set_rng_state(
            {name.removeprefix(_RNG): tensor for name, tensor in drawn.items()}, context.train_step.device
        )
        context.step, context.stage, context.best = trainer["step"], trainer["stage"], trainer["best"]
        context.figures, context.epoch_open = trainer["figures"], trainer["epoch_open"]
        self._sentinel.has_spoken = trainer["has_spoken"]
        self._taken.load_state_dict(trainer["taken"])
        self._restore_callbacks(trainer["callbacks"])

    def _identity(self) -> dict[str, Any]:
        """What a training that goes on from a state must have in common with the one that wrote it."""
        context = self._context
        return {
            "steps of an epoch": context.steps_per_epoch,
            "accumulate": context.train_step.micro_batches_per_update,
            **context.identity,
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
        """To each callback the state of the one of its kind; callbacks may come and go."""
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
        """Refuse to go on from states of different steps, as machines with folders of their own would."""
        steps = gather_over_ranks(self._context.step)
        if len(set(steps)) > 1:
            raise YoloflowError(
                f"{self._context.run.path}: the ranks would go on from different steps ({steps}); all "
                "machines must see the same folder: share save_dir, or copy the run to each"
            )
