"""The end of a training: last weights, summary, and the state to go on from."""

from __future__ import annotations

from typing import Any

from yoloflow.callbacks import RunContext
from yoloflow.run.summary import write_summary
from yoloflow.trainer.evaluation_plan import EvaluationPlan
from yoloflow.trainer.kept_weights import KeptWeights
from yoloflow.trainer.states import TrainingStates
from yoloflow.trainer.training_time import TrainingTime


def conclude(
    context: RunContext,
    states: TrainingStates,
    weights: KeptWeights,
    time: TrainingTime,
    plan: EvaluationPlan,
) -> dict[str, Any]:
    """Writes the last weights and the summary, and keeps of the states what goes on to more epochs.

    Returns:
        the content of `summary.json`.
    """
    states.wait()
    weights.save("last")
    states.conclude()
    counts = {
        "epochs": context.step // context.steps_per_epoch,
        "steps": context.step,
        "skipped_updates": int(context.train_step.skipped_updates),
        **plan.early_end(context),
    }
    results = (counts, context.figures, context.best, time.to_json())
    return write_summary(context.run, context.ranks, context.train_step.device, *results)
