"""Step 6 in MindYOLO's words: callbacks with its names of hooks, and the state that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ClassVar

from torch import Tensor, nn

from yoloflow import callbacks
from yoloflow.callbacks import CALLBACKS
from yoloflow.callbacks import base as ours
from yoloflow.mindyolo.refusal import refuse
from yoloflow.optim.ema import EMA
from yoloflow.structures import YoloflowError

Hook = Callable[[Any, Any], None]


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The parts of a training, by MindYOLO's names.

    Attributes:
        network: that is trained.
        ema: its average, or None.
        optimizer: torch's.
        steps_per_epoch: batches of an epoch.
        loss_item_name: of `RunContext.loss`.
        main_device: whether this process writes files.
    """

    network: nn.Module
    ema: EMA | None
    optimizer: Any
    steps_per_epoch: int
    loss_item_name: list[str]
    main_device: bool


class RunContext:
    """The state of a training by MindYOLO's names; numbers of epochs and steps count from 1.

    What it does not name itself is our `yoloflow.RunContext`'s.
    """

    def __init__(self, context: ours.RunContext, is_in_step: bool = False) -> None:
        """Looks at our context.

        Args:
            context: of the trainer.
            is_in_step: whether the step that `cur_step_index` names is still to be taken.
        """
        self.context = context
        step = context.step + 1 if is_in_step else max(context.step, 1)
        self.cur_step_index = (step - 1) % max(context.steps_per_epoch, 1) + 1
        self.cur_epoch_index = context.epoch + 1
        self.enable_modelarts, self.train_url = False, ""

    @classmethod
    def of(cls, context: ours.RunContext | RunContext, is_in_step: bool = False) -> RunContext:
        """Returns the view of a context; a view stays as it is."""
        return context if isinstance(context, RunContext) else cls(context, is_in_step)

    @property
    def epoch_num(self) -> int:
        """Returns the epochs of the training."""
        return self.context.epochs

    @property
    def total_steps(self) -> int:
        """Returns the steps of the training."""
        return self.context.epochs * self.context.steps_per_epoch

    @property
    def loss(self) -> list[Tensor]:
        """Returns the loss items of the last step, shape () each, on the device; none before the first."""
        items = self.context.loss_items
        return [] if items is None else list(items.unbind())

    @property
    def lr(self) -> float:
        """Returns the learning rate of the first group at the last update."""
        return float(self.context.train_step.optimizer.param_groups[0]["lr"])

    @property
    def save_dir(self) -> str:
        """Returns the run folder."""
        return str(self.context.run.path)

    @property
    def ckpt_save_dir(self) -> str:
        """Returns the folder of the run's weights."""
        return str(self.context.run.weights)

    @property
    def rank_size(self) -> int:
        """Returns the number of processes."""
        return self.context.ranks.world_size

    @property
    def trainer(self) -> TrainerState:
        """Returns the parts of the training."""
        context, step = self.context, self.context.train_step
        further = (context.steps_per_epoch, context.loss_item_names, context.ranks.is_main)
        return TrainerState(step.network, step.ema, step.optimizer, *further)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)


class BaseCallback(ours.BaseCallback):
    """A watcher with MindYOLO's hooks, called at the same moments; ours (`on_evaluation`, ...) work as well.

    The hooks of a step and an epoch get a `RunContext` of this module, as do the first and the last one.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        *ours.BaseCallback.hooks,
        "on_train_epoch_begin",
        "on_train_epoch_end",
        "on_train_step_begin",
        "on_train_step_end",
    )

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name in ("on_train_begin", "on_train_end"):
            if name in vars(cls):
                setattr(cls, name, _with_view(vars(cls)[name]))
        for name in ("on_epoch_begin", "on_epoch_end", "on_step_begin", "on_step_end"):
            old = name.replace("on_", "on_train_")
            if name in vars(cls) and getattr(cls, old) is not getattr(BaseCallback, old):
                raise YoloflowError(
                    f"callback {cls.__name__}: has {name} and {old}, which are one hook; keep one"
                )

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        """Before the first step of an epoch."""

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        """After the last step of an epoch, before an evaluation."""

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """Before a step."""

    def on_train_step_end(self, run_context: RunContext) -> None:
        """After a step."""

    def on_epoch_begin(self, context: ours.RunContext) -> None:
        """Calls `on_train_epoch_begin`."""
        self.on_train_epoch_begin(RunContext.of(context, is_in_step=True))

    def on_epoch_end(self, context: ours.RunContext) -> None:
        """Calls `on_train_epoch_end`."""
        self.on_train_epoch_end(RunContext.of(context))

    def on_step_begin(self, context: ours.RunContext) -> None:
        """Calls `on_train_step_begin`."""
        self.on_train_step_begin(RunContext.of(context, is_in_step=True))

    def on_step_end(self, context: ours.RunContext) -> None:
        """Calls `on_train_step_end`."""
        self.on_train_step_end(RunContext.of(context))


def _with_view(hook: Hook) -> Hook:
    """Returns a hook that is called with MindYOLO's view of the context."""

    @wraps(hook)
    def call(callback: Any, context: Any) -> None:
        hook(callback, RunContext.of(context))

    return call


class _Registry:
    """The table of callbacks, as MindYOLO's decorator fills it."""

    def registry_module(self) -> Callable[[type[ours.BaseCallback]], type[ours.BaseCallback]]:
        """Returns a decorator that makes a class known to `create_callback` and to recipes by its name."""

        def register(cls: type[ours.BaseCallback]) -> type[ours.BaseCallback]:
            refuse(
                cls.__name__ in CALLBACKS and CALLBACKS[cls.__name__] is not cls,
                f"callback {cls.__name__}",
                "another one has this name; rename it",
            )
            CALLBACKS[cls.__name__] = cls
            return cls

        return register


CALLBACK_REGISTRY = _Registry()


def create_callback(arg_callback: Sequence[Mapping[str, Any]]) -> list[ours.BaseCallback]:
    """Creates callbacks.

    Args:
        arg_callback: mappings with `name` and that callback's arguments.

    Raises:
        YoloflowError: an unknown name or argument; YoloxSwitchTrain, whose place is the loss's section.
    """
    for row in arg_callback:
        refuse(
            row.get("name") == "YoloxSwitchTrain",
            "callback YoloxSwitchTrain",
            "a loss changes with the stage here: give create_loss stages=[{}, {use_l1: true}]",
        )
    return callbacks.create_callback(arg_callback)
