"""Step 8 in MindYOLO's words: the trainer and its two ways to train."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from yoloflow.callbacks import (
    BaseCallback,
    ConsoleCallback,
    EvalWhileTrain,
    MetricsFileCallback,
    ProfilerCallback,
    TestFunction,
)
from yoloflow.callbacks.base import RunContext
from yoloflow.config.run_files import begun_run, weights_facts
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.loader import StageLoader
from yoloflow.losses import Loss
from yoloflow.mindyolo.network import class_names_of, origin_of
from yoloflow.mindyolo.optimizer import Optimizer
from yoloflow.mindyolo.refusal import refuse, refuse_difference, refuse_other_task
from yoloflow.mindyolo.run_config import run_config
from yoloflow.mindyolo.step import TrainStepFn
from yoloflow.optim.ema import EMA
from yoloflow.run.folder import RunFolder, choose_run
from yoloflow.run.lock import release_run_lock
from yoloflow.runtime.messages import shown_messages
from yoloflow.runtime.rank_failures import explain_rank_timeout
from yoloflow.runtime.ranks import Ranks, init_ranks
from yoloflow.train_step.grad_reducer import GradReducer
from yoloflow.train_step.loss_scaler import LossScaler
from yoloflow.trainer import create as ours
from yoloflow.trainer.settings import TrainerSettings

logger = logging.getLogger("yoloflow")


@dataclass(frozen=True, slots=True)
class _Wishes:
    """The arguments that both ways of training have in common."""

    epochs: int
    main_device: bool
    warmup_momentum: Sequence[float] | None
    warmup_step: int
    keep_checkpoint_max: int
    log_interval: int
    loss_item_name: Sequence[str]
    save_dir: str
    run_eval: bool
    run_eval_interval: int
    test_fn: TestFunction | None
    overflow_still_update: bool | None
    ms_jit: bool | None
    rank_size: int | None
    profiler_step_num: int


def _refuse_platform(enable_modelarts: bool, train_url: str) -> None:
    refuse(enable_modelarts, "enable_modelarts=True", "there is no ModelArts here; copy the run folder")
    refuse(
        bool(train_url), f"train_url={train_url}", "nothing is copied to a cloud here; copy the run folder"
    )


@dataclass(eq=False, repr=False)
class Trainer:
    """Trains as `yoloflow.Trainer` does, told in MindYOLO's words.

    `create_trainer` makes one, and describes its parts; `loader` is of all stages.
    """

    model_name: str
    train_step_fn: TrainStepFn
    loader: ConcatLoader
    callback: list[BaseCallback]
    data_sink: bool
    profiler: bool

    def train(
        self,
        epochs: int,
        main_device: bool = True,
        warmup_step: int = 0,
        warmup_momentum: Sequence[float] | None = None,
        accumulate: int = 1,
        overflow_still_update: bool | None = None,
        keep_checkpoint_max: int = 10,
        log_interval: int = 1,
        loss_item_name: Sequence[str] = (),
        save_dir: str = "",
        enable_modelarts: bool = False,
        train_url: str = "",
        run_eval: bool = False,
        run_eval_interval: int = 1,
        test_fn: TestFunction | None = None,
        rank_size: int | None = None,
        ms_jit: bool | None = None,
        profiler_step_num: int = 1,
    ) -> dict[str, Any]:
        """Trains step by step and returns the content of `summary.json`.

        Args:
            epochs: of the training; the loader has as many.
            main_device: whether this process writes files, which its rank says.
            warmup_step: steps of the momentum's warm-up.
            warmup_momentum: of `create_warmup_momentum_scheduler`.
            accumulate: micro-batches of an update; the optimizer has the same.
            overflow_still_update: as the train step has it; None: not said.
            keep_checkpoint_max: newest training states that are kept.
            log_interval: steps between log lines.
            loss_item_name: of the loss items; empty: the loss's own.
            save_dir: the run folder; "": a new one in `runs`.
            enable_modelarts: False alone.
            train_url: "" alone.
            run_eval: evaluate while training; False takes an `EvalWhileTrain` out.
            run_eval_interval: epochs between evaluations, where no `EvalWhileTrain` says when.
            test_fn: evaluates a network; a `functools.partial` of `test`.
            rank_size: number of processes; None: not said.
            ms_jit: as the train step has it; None: not said.
            profiler_step_num: steps that a profile records; the training goes on after them.

        Raises:
            YoloflowError: an argument contradicts what was made before, or as `yoloflow.Trainer.train`.
        """
        refuse(self.data_sink, "data_sink=True", "call train_with_datasink, or create the trainer without")
        _refuse_platform(enable_modelarts, train_url)
        known = self.train_step_fn.settings.accumulate
        refuse_difference("accumulate", accumulate, known, "args.optimizer, of which the optimizer was made,")
        files = (keep_checkpoint_max, log_interval, loss_item_name, save_dir)
        evaluation = (run_eval, run_eval_interval, test_fn)
        step = (overflow_still_update, ms_jit, rank_size, profiler_step_num)
        further = (*files, *evaluation, *step)
        wishes = _Wishes(epochs, main_device, warmup_momentum, warmup_step, *further)
        return self._train(wishes, sink_size=1)

    def train_with_datasink(
        self,
        epochs: int,
        main_device: bool = True,
        warmup_epoch: float = 0,
        warmup_momentum: Sequence[float] | None = None,
        keep_checkpoint_max: int = 10,
        log_interval: int = 1,
        loss_item_name: Sequence[str] = (),
        save_dir: str = "",
        enable_modelarts: bool = False,
        train_url: str = "",
        run_eval: bool = False,
        run_eval_interval: int = 1,
        test_fn: TestFunction | None = None,
        overflow_still_update: bool | None = None,
        ms_jit: bool | None = None,
        rank_size: int | None = None,
        profiler_step_num: int = 1,
        *,
        task: str = "detect",
    ) -> dict[str, Any]:
        """Does as `train`, but the host looks at the device once an epoch, or at a logged step.

        `warmup_epoch` has the epochs of the momentum's warm-up, which goes on within them step by step;
        `task` is "detect", or "segment" with a loss that takes masks.

        Raises:
            YoloflowError: as `train`.
        """
        refuse(not self.data_sink, "data_sink=False", "call train, or create the trainer with data_sink=True")
        refuse_other_task(task, self.train_step_fn.loss_fn.takes_masks, "the train step's loss")
        _refuse_platform(enable_modelarts, train_url)
        # MindYOLO rounds the warm-up down to whole epochs where it is given in steps.
        warmup_step = (math.floor(warmup_epoch) + 1) * self.loader.steps_per_epoch
        files = (keep_checkpoint_max, log_interval, loss_item_name, save_dir)
        evaluation = (run_eval, run_eval_interval, test_fn)
        step = (overflow_still_update, ms_jit, rank_size, profiler_step_num)
        further = (*files, *evaluation, *step)
        wishes = _Wishes(epochs, main_device, warmup_momentum, warmup_step, *further)
        return self._train(wishes, sink_size=self.loader.steps_per_epoch)

    @shown_messages()
    @release_run_lock()
    @explain_rank_timeout("preparing to train")
    def _train(self, wishes: _Wishes, sink_size: int) -> dict[str, Any]:
        step_fn, step = self.train_step_fn, self.train_step_fn.train_step
        first = self.loader.loaders[0]
        ranks, _ = init_ranks(str(step.device))
        self._check(wishes, ranks)
        step.schedule = step_fn.optimizer.schedule(wishes.warmup_momentum, wishes.warmup_step)
        callbacks = self._callbacks(wishes)
        settings = TrainerSettings(
            log_interval=wishes.log_interval,
            keep_latest=wishes.keep_checkpoint_max,
            datasink=self.data_sink,
            sink_size=sink_size,
        )
        names = class_names_of(step.network, first.dataset.index.names)
        config = run_config(step_fn, self.loader, wishes.test_fn, settings)
        origin = origin_of(step.network)
        run = _choose_run(wishes.save_dir, self.model_name, ranks)
        items = list(wishes.loss_item_name) or step_fn.loss_fn.loss_item_name
        test_fn = wishes.test_fn if wishes.run_eval else None
        facts = weights_facts(config, names, origin)
        context = RunContext(run, ranks, step, test_fn, names, items, facts)
        trainer = ours.create_trainer(context, self.loader, callbacks, settings)
        with begun_run(context, config, {"train_set": replace(first.dataset.index, names=names)}, origin):
            return trainer.train_with_datasink(sink_size)

    def _check(self, wishes: _Wishes, ranks: Ranks) -> None:
        """Refuses what contradicts the parts."""
        settings, loss = self.train_step_fn.settings, self.train_step_fn.loss_fn
        first = self.loader.loaders[0]
        refuse_difference("epochs", wishes.epochs, self.loader.epochs, "the loader")
        refuse_difference("rank of the loader", first.rank, ranks.rank, "torchrun")
        refuse_difference("rank_size of the loader", first.world_size, ranks.world_size, "torchrun")
        refuse_difference("main_device", bool(wishes.main_device), ranks.is_main, "the rank of this process")
        for name, given, known in (
            ("overflow_still_update", wishes.overflow_still_update, settings.overflow_still_update),
            ("ms_jit", wishes.ms_jit, settings.jit is True),
        ):
            if given is not None:
                refuse_difference(name, given, known, "the train step")
        if wishes.rank_size is not None:
            refuse_difference("rank_size", wishes.rank_size, ranks.world_size, "the loader")
        count = len(wishes.loss_item_name)
        refuse(
            count not in (0, len(loss.loss_item_name)),
            f"loss_item_name has {count} names",
            f"the loss has {len(loss.loss_item_name)} items: {', '.join(loss.loss_item_name)}",
        )
        refuse(wishes.run_eval and wishes.test_fn is None, "run_eval=True", "needs test_fn")

    def _callbacks(self, wishes: _Wishes) -> list[BaseCallback]:
        """Returns the callbacks with those that MindYOLO's trainer stands for itself."""
        found = [
            callback
            for callback in self.callback
            if wishes.run_eval or not isinstance(callback, EvalWhileTrain)
        ]
        if len(found) < len(self.callback):
            logger.info("run_eval=False: EvalWhileTrain is left out")
        if wishes.run_eval and not any(isinstance(callback, EvalWhileTrain) for callback in found):
            found.append(EvalWhileTrain(stage_intervals=wishes.run_eval_interval))
        if self.profiler and not any(isinstance(callback, ProfilerCallback) for callback in found):
            found.append(ProfilerCallback(wishes.profiler_step_num))
        return [ConsoleCallback(), MetricsFileCallback(), *found]


def _choose_run(save_dir: str, model_name: str, ranks: Ranks) -> RunFolder:
    """Returns the run folder: the one that is named, or a new one in `runs`."""
    if not save_dir:
        return choose_run("runs", None, model_name, "never", ranks)
    path = Path(save_dir)
    return choose_run(str(path.parent), path.name, model_name, "never", ranks)


def create_trainer(
    model_name: str,
    train_step_fn: TrainStepFn,
    scaler: LossScaler,
    dataloader: StageLoader | ConcatLoader,
    steps_per_epoch: int,
    network: nn.Module,
    loss_fn: Loss,
    ema: EMA | None,
    optimizer: Optimizer,
    callback: Sequence[BaseCallback] | None,
    reducer: GradReducer,
    data_sink: bool = False,
    profiler: bool = False,
) -> Trainer:
    """Creates the trainer.

    Args:
        model_name: names a run folder that `save_dir` does not name.
        train_step_fn: of `create_train_step_fn`; it was made of the parts that are named again below.
        scaler: the step's.
        dataloader: of `create_loader` or `ConcatDataset`.
        steps_per_epoch: `dataloader.get_dataset_size() // epochs`.
        network: the step's.
        loss_fn: the step's.
        ema: the step's.
        optimizer: the step's.
        callback: of `create_callback`; None for none.
        reducer: the step's.
        data_sink: whether `train_with_datasink` is to be called, not `train`.
        profiler: record a profile of some steps.

    Raises:
        YoloflowError: a part is not the one that the step was made of.
    """
    step = train_step_fn.train_step
    for name, given, own in (
        ("scaler", scaler, step.scaler),
        ("network", network, step.network),
        ("loss_fn", loss_fn, train_step_fn.loss_fn),
        ("ema", ema, step.ema),
        ("optimizer", optimizer, train_step_fn.optimizer),
        ("reducer", reducer, train_step_fn.reducer),
    ):
        refuse(given is not own, name, "is another one than the train step was made of")
    loader = dataloader if isinstance(dataloader, ConcatLoader) else ConcatLoader([dataloader])
    refuse_difference("steps_per_epoch", steps_per_epoch, loader.steps_per_epoch, "the loader")
    length = optimizer.length
    refuse_difference("steps_per_epoch", steps_per_epoch, length.steps_per_epoch, "args.optimizer")
    refuse(
        length.epochs != loader.epochs,
        f"args.optimizer.epochs={length.epochs}",
        f"the loader has {loader.epochs} epochs; both must be the same",
    )
    return Trainer(model_name, train_step_fn, loader, list(callback or ()), data_sink, profiler)
