"""The moments at which the loop evaluates, which one is the best, and the end of a training that stalls."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from yoloflow.callbacks import BaseCallback, EvalWhileTrain, RunContext
from yoloflow.structures import plural
from yoloflow.trainer.settings import BestBy

logger = logging.getLogger("yoloflow")


class EvaluationPlan:
    """The plans of all `EvalWhileTrain` as one, `patience` and `best_by`.

    Attributes:
        keep_top_k: epochs whose weights are kept.
    """

    def __init__(
        self, callbacks: Sequence[BaseCallback], patience: int | None, best_by: BestBy = "masks"
    ) -> None:
        """Takes the callbacks of the training, and the settings of the same names."""
        self._plans = [callback for callback in callbacks if isinstance(callback, EvalWhileTrain)]
        self._patience = patience
        self._best_by = best_by
        self.keep_top_k = max((plan.keep_top_k for plan in self._plans), default=0)

    def is_due(self, context: RunContext, epoch: int) -> bool:
        """Returns whether the network is evaluated after an epoch (from 1) of the present stage."""
        if context.test_fn is None:
            return False
        return any(plan.is_due(epoch, context.epochs, context.stage) for plan in self._plans)

    def score(self, figures: Mapping[str, Any]) -> float:
        """Returns the AP that decides which evaluation is the best; -1 without figures."""
        boxes = float(figures.get("map", -1.0))
        if "mask_map" not in figures or self._best_by == "boxes":
            return boxes
        masks = float(figures["mask_map"])
        return masks if self._best_by == "masks" else boxes + masks

    def is_due_at_start(self, context: RunContext) -> bool:
        """Returns whether the network is evaluated before its first step: it begins with trained weights.

        The figures, as of epoch 0, show whether they came in; a resumed run that has them does not repeat it.
        """
        has_weights = "origin" in (context.weights_facts or {})
        is_fresh = context.step == 0 and not context.figures
        return has_weights and is_fresh and bool(self._plans) and context.test_fn is not None

    def has_stalled(self, context: RunContext, epochs_done: int) -> bool:
        """Returns whether the newest evaluation came `patience` epochs or more after the best one."""
        patience, best = self._patience, context.best
        if patience is None or not best:
            return False
        if epochs_done - best["epoch"] < patience or not self.is_due(context, epochs_done):
            return False
        if context.ranks.is_main:
            logger.info(
                "%s has not risen for %s (patience=%d; best %.4f after epoch %d): the training ends "
                "after epoch %d of %d",
                *(self._words(best), plural(epochs_done - best["epoch"], "epoch"), patience),
                *(self.score(best), best["epoch"]),
                *(epochs_done, context.epochs),
            )
        return True

    def _words(self, best: Mapping[str, Any]) -> str:
        """Returns what `score` is the AP of."""
        if "mask_map" not in best:
            return "AP"
        return {"masks": "mask AP", "boxes": "box AP", "sum": "the sum of box and mask AP"}[self._best_by]

    def early_end(self, context: RunContext) -> dict[str, Any]:
        """Returns the summary's entry of a training that ended before its last epoch; none of another."""
        if context.step >= context.epochs * context.steps_per_epoch:
            return {}
        return {"stopped_early": {"patience": self._patience, "planned": context.epochs}}


def best_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of the best evaluation that are kept."""
    return {name: figures[name] for name in ("map", "map50", "mask_map", "mask_map50") if name in figures}
