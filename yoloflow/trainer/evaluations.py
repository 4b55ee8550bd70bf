"""The evaluations during a training: when one is due, the best weights, and early stopping."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from yoloflow.callbacks import BaseCallback, EvalWhileTrain, RunContext
from yoloflow.run.signals import StopRequest
from yoloflow.trainer.kept_weights import KeptWeights

logger = logging.getLogger("yoloflow")


class Evaluations:
    """Evaluates a training as its callbacks `EvalWhileTrain` plan it, and keeps the best weights."""

    def __init__(
        self,
        context: RunContext,
        callbacks: Sequence[BaseCallback],
        weights: KeptWeights,
        patience: int | None,
    ) -> None:
        """Takes the parts of the training.

        Args:
            context: figures are written there.
            callbacks: the plans are among them.
            weights: keeps the best.
            patience: epochs without a higher AP that end the training; None for no end.
        """
        self._context, self._weights, self._patience = context, weights, patience
        self._plans = [callback for callback in callbacks if isinstance(callback, EvalWhileTrain)]

    def are_due(self, epoch: int) -> bool:
        """Returns whether the network is evaluated after an epoch (from 1) of the present stage."""
        context = self._context
        if context.test_fn is None:
            return False
        return any(plan.is_due(epoch, context.epochs, context.stage) for plan in self._plans)

    def evaluate(self, stop: StopRequest) -> None:
        """Evaluates the network, and keeps its weights if it is the best so far.

        Args:
            stop: breaks it off.
        """
        context = self._context
        assert context.test_fn is not None
        with stop.at_once():
            result = context.test_fn(context.evaluated_network())
        context.evaluation, context.figures = result, result.figures()
        if result.map > context.best.get("map", -1.0):
            context.best = {"epoch": context.epoch + 1, "map": result.map, "map50": result.map50}
            self._weights.save("best")
        self._weights.keep(result.map, max(plan.keep_top_k for plan in self._plans))

    def have_stalled(self, epochs_done: int) -> bool:
        """Returns whether the newest one came `patience` epochs or more after the best one."""
        context, patience, best = self._context, self._patience, self._context.best
        if patience is None or not best or not self.are_due(epochs_done):
            return False
        waited = epochs_done - best["epoch"]
        if waited >= patience and context.ranks.is_main:
            logger.info(
                "AP has not risen for %d epochs (patience=%d; best %.4f after epoch %d): the training ends "
                "after epoch %d of %d",
                *(waited, patience, best["map"], best["epoch"], epochs_done, context.epochs),
            )
        return bool(waited >= patience)
