"""Guards: they stop a training with a clear message where it cannot go on well."""

from __future__ import annotations

from yoloflow.callbacks.base import RunContext
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.run.signals import StopRequest
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.guards.assignment import AssignmentGuard
from yoloflow.trainer.guards.batch_norm import BatchNormGuard
from yoloflow.trainer.guards.disk import DiskGuard
from yoloflow.trainer.guards.guard import Guard, Guards
from yoloflow.trainer.guards.memory import MemoryGuard
from yoloflow.trainer.guards.non_finite import NonFiniteGuard
from yoloflow.trainer.guards.signals import SignalGuard
from yoloflow.trainer.guards.stall import StallWatchdog
from yoloflow.trainer.settings import TrainerSettings
from yoloflow.trainer.states import TrainingStates

__all__ = ["Guard", "Guards", "create_guards"]


def create_guards(
    context: RunContext,
    loader: ConcatLoader,
    states: TrainingStates,
    settings: TrainerSettings,
    activity: Activity,
    stop: StopRequest,
) -> Guards:
    """Returns the guards of a training, in the order in which they begin."""
    guards: list[Guard] = [
        SignalGuard(context, states, activity, stop),
        NonFiniteGuard(context, loader, states, settings.non_finite),
        StallWatchdog(activity),
        DiskGuard(context.run.path),
        BatchNormGuard(context.train_step, loader),
    ]
    if settings.max_unassigned is not None:
        guards.append(AssignmentGuard(context, settings.max_unassigned))
    if settings.memory_forecast:
        guards.append(MemoryGuard(context.train_step, loader, activity))
    return Guards(guards)
