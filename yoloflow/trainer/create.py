"""Puts the trainer of the flow together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yoloflow.callbacks import BaseCallback, RunContext, check_hooks
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.run.signals import StopRequest
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.evaluation_plan import EvaluationPlan
from yoloflow.trainer.guards import create_guards
from yoloflow.trainer.kept_weights import KeptWeights
from yoloflow.trainer.settings import TrainerSettings
from yoloflow.trainer.states import TrainingStates
from yoloflow.trainer.trainer import Trainer
from yoloflow.trainer.training_time import TrainingTime


def create_trainer(
    context: RunContext,
    loader: ConcatLoader,
    callbacks: Sequence[BaseCallback],
    settings: TrainerSettings | None = None,
    *,
    identity: Mapping[str, Any] | None = None,
) -> Trainer:
    """Returns the trainer of the flow, at the newest state of a run that is resumed.

    Args:
        context: the state that callbacks see, with the train step in it.
        loader: the batches of all stages.
        callbacks: called in this order.
        settings: None: the defaults.
        identity: what must be the same where a resumed run goes on, by name.

    Raises:
        YoloflowError: a callback has a method that would never be called; no state is good, or it is of a
            training that this one cannot go on from.
    """
    for callback in callbacks:
        check_hooks(callback)
    settings = settings or TrainerSettings()
    context.epochs, context.steps_per_epoch = loader.epochs, loader.steps_per_epoch
    stop = StopRequest(context.ranks)
    activity, time, weights = Activity(context.ranks), TrainingTime(), KeptWeights(context)
    context.spent = activity.spent
    states = TrainingStates(context, callbacks, weights, time, settings, identity or {}, activity)
    if context.run.resumed:
        states.restore()
    return Trainer(
        context=context,
        loader=loader,
        callbacks=list(callbacks),
        settings=settings,
        states=states,
        weights=weights,
        guards=create_guards(context, loader, states, settings, activity, stop),
        time=time,
        plan=EvaluationPlan(callbacks, settings.patience, settings.best_by),
        activity=activity,
        stop=stop,
    )
