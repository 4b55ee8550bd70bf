"""The plan of a training: what it will do at every step, before anything is trained.

The tables are those that the training uses: the same settings, lengths, stage fit and schedule functions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloflow.config.schema import Config
from yoloflow.data.sets import read_train_set
from yoloflow.data.stages import Stage
from yoloflow.optim.rules import RULES
from yoloflow.optim.schedule import Schedule, count_warmup_updates, create_schedule, ema_decay
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.structures import DatasetIndex, YoloflowError, plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_POINTS = 2000


@dataclass(frozen=True)
class Plan:
    """The course of a training. Updates, epochs and stages are counted from 0 here, from 1 in what is shown.

    Attributes:
        settings: the recipe's optimizer section.
        length: epochs, micro-batches, updates.
        schedule: learning rates and momentum of every update.
        stages: each with its length, fitted to the training.
        ema: decay and tau of the weight average, or None.
        first_ema_update: the average's count at the first update: 2, as the first copy counts; 1 if loaded.
        warmup_updates: updates in the warm-up (it may be longer than the training).
    """

    settings: OptimizerSettings
    length: RunLength
    schedule: Schedule
    stages: list[Stage]
    ema: tuple[float, float] | None
    first_ema_update: int
    warmup_updates: int

    @property
    def num_updates(self) -> int:
        """Optimizer updates of the whole training."""
        return self.schedule.num_updates

    @property
    def weight_decay(self) -> float:
        """Weight decay of the decayed group as the optimizer gets it."""
        decay = self.settings.gp_weight_decay or self.settings.weight_decay
        return decay * self.length.decay_factor if self.settings.strategy.is_decay_scaled else decay

    def epoch(self, update: int) -> int:
        """The epoch in which an update is made: that of its last micro-batch."""
        return ((update + 1) * self.length.accumulate - 1) // self.length.steps_per_epoch

    def stage(self, update: int) -> int:
        """The stage in which an update is made."""
        ends = np.cumsum([stage.steps for stage in self.stages])
        return int(np.searchsorted(ends, (update + 1) * self.length.accumulate - 1, side="right"))

    def ema_decay(self, update: int) -> float | None:
        """The decay with which an update enters the weight average."""
        return None if self.ema is None else ema_decay(update + self.first_ema_update, *self.ema)

    @cached_property
    def stage_starts(self) -> list[int]:
        """The first update of each stage."""
        ends = np.cumsum([0, *(stage.steps for stage in self.stages)])
        return [int(first) // self.length.accumulate for first in ends[:-1]]

    @property
    def stage_epochs(self) -> list[float]:
        """Length of each stage in epochs, whole unless it is given in steps."""
        lengths = [stage.steps / self.length.steps_per_epoch for stage in self.stages]
        return [int(length) if length.is_integer() else round(length, 3) for length in lengths]

    def describe_stages(self) -> list[str]:
        """A line for each stage: when, and what its images are."""
        lines, begin = [], 0
        for number, (stage, epochs) in enumerate(self._stage_lengths(), 1):
            end = begin + stage.steps
            when = f"{plural(epochs, 'epoch')}, steps {begin + 1} to {end}" if stage.steps else "not trained"
            lines.append(f"stage {number}: {when}: {stage.describe()}")
            begin = end
        return lines

    def interesting_updates(self) -> dict[int, str]:
        """Updates worth a line in a table, in order, each with the reason."""
        marks = {0: "start"}
        if 0 < self.warmup_updates < self.num_updates:
            marks[self.warmup_updates // 2] = "half warm-up"
            marks[self.warmup_updates - 1] = "end of warm-up"
            marks[self.warmup_updates] = "after warm-up"
        for number, (start, stage) in enumerate(zip(self.stage_starts, self.stages, strict=True)):
            if number and stage.steps:
                marks[start - 1] = f"end of stage {number}"
                marks[start] = f"stage {number + 1} begins"
        marks[self.num_updates - 1] = "last"
        return dict(sorted(marks.items()))

    def row(self, update: int) -> dict[str, Any]:
        """All that is set at an update."""
        return {
            "update": update + 1,
            "epoch": self.epoch(update) + 1,
            "stage": self.stage(update) + 1,
            "lr": self.schedule.lr(update),
            "momentum": float(self.schedule.momentum[update]),
            "ema_decay": self.ema_decay(update),
        }

    def describe(self) -> str:
        """A heading and a table, as plain text."""
        length = self.length
        stages = " + ".join(str(epochs) for epochs in self.stage_epochs)
        lines = [
            f"{plural(length.epochs, 'epoch')} ({stages}) x {length.steps_per_epoch} micro-batches"
            f" = {plural(self.num_updates, 'update')} of {plural(length.accumulate, 'micro-batch')},"
            f" {plural(length.total_batch_size * length.accumulate, 'image')} each",
            f"warm-up {plural(self.warmup_updates, 'update')}, weight decay {self.weight_decay:.6g}"
            f" on group {self.settings.strategy.decayed_group}, {self.settings.optimizer}"
            f"{' (Nesterov)' if self.settings.uses_nesterov else ''}, curve {self.settings.curve}",
        ]
        if self.warmup_updates >= self.num_updates:
            lines.append("the warm-up is as long as the training: set optimizer.max_warmup_fraction=0.1")
        if self.settings.lr_factors:
            factors = ", ".join(f"{factor} for {name}" for name, factor in self.settings.lr_factors.items())
            lines.append(f"the learning rates below times {factors}")
        lines += self.describe_stages()
        groups = list(self.schedule.lr_by_group)
        header = ["update", "epoch", "stage", *(f"lr {name}" for name in groups), "momentum", "EMA", ""]
        rows = [self._cells(update, reason) for update, reason in self.interesting_updates().items()]
        table = [header, *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(header))]
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
            lines.append(" ".join([*cells, "", row[-1]]).rstrip())
        return "\n".join(lines)

    def _cells(self, update: int, reason: str) -> list[str]:
        row = self.row(update)
        rates = [f"{rate:.6f}" for rate in row["lr"].values()]
        decay = "-" if row["ema_decay"] is None else f"{row['ema_decay']:.6f}"
        numbers = [str(row[key]) for key in ("update", "epoch", "stage")]
        return [*numbers, *rates, f"{row['momentum']:.4f}", decay, reason]

    def _stage_lengths(self) -> list[tuple[Stage, float]]:
        return list(zip(self.stages, self.stage_epochs, strict=True))

    def thinned_updates(self) -> list[int]:
        """At most `MAX_POINTS` updates spread over the training, and the interesting ones."""
        return sorted({*spread_updates(self.num_updates), *self.interesting_updates()})

    def to_json(self) -> dict[str, Any]:
        """The plan for other programs: lengths, and rows for the thinned updates."""
        return {
            "epochs": self.length.epochs,
            "stage_epochs": self.stage_epochs,
            "stages": [{**asdict(stage), "epochs": epochs} for stage, epochs in self._stage_lengths()],
            "steps_per_epoch": self.length.steps_per_epoch,
            "accumulate": self.length.accumulate,
            "total_batch_size": self.length.total_batch_size,
            "updates": self.num_updates,
            "warmup_updates": self.warmup_updates,
            "weight_decay": self.weight_decay,
            "rows": [self.row(update) for update in self.thinned_updates()],
        }


def spread_updates(end: int) -> list[int]:
    """At most `MAX_POINTS` updates from 0 to before `end`, evenly spread, first and last among them."""
    spread = np.linspace(0, end - 1, min(MAX_POINTS, end))
    return sorted({round(update) for update in spread.tolist()})


def make_plan(config: Config, steps_per_epoch: int, world_size: int = 1) -> Plan:
    """The course of the training that `config` describes.

    Args:
        config: the settings.
        steps_per_epoch: micro-batches an epoch on one device.
        world_size: devices that train together.

    Raises:
        YoloflowError: not one optimizer update.
    """
    settings = config.optimizer
    length = config.run_length(steps_per_epoch, world_size)
    return Plan(
        settings=settings,
        length=length,
        schedule=create_schedule(settings, length, config.variant),
        stages=config.stages(steps_per_epoch),
        ema=(config.ema_decay, config.ema_tau) if config.ema else None,
        first_ema_update=1 if config.ema_weight else 2,
        warmup_updates=count_warmup_updates(settings, RULES[config.variant].table_length(length)),
    )


def read_planned_set(config: Config) -> DatasetIndex:
    """Returns the training set of a plan, and logs its account.

    Raises:
        YoloflowError: no training set is named, or it cannot be read.
    """
    if config.data.train_set is None:
        raise YoloflowError(
            "data.train_set is not set; give data.train_set=..., data=FILE.yaml or --steps-per-epoch N"
        )
    return read_train_set(config.data, config.img_size, config.run_eval)


def count_steps_per_epoch(config: Config, index: DatasetIndex, world_size: int = 1) -> int:
    """Full micro-batches an epoch on one device.

    Args:
        config: the settings.
        index: the training set.
        world_size: devices that share it.

    Raises:
        YoloflowError: it does not fill one batch.
    """
    steps = len(index) // (config.per_batch_size * world_size)
    if steps < 1:
        raise YoloflowError(
            f"data.train_set has {len(index)} images, fewer than per_batch_size={config.per_batch_size}"
            f" on {world_size} device(s); lower per_batch_size"
        )
    return steps


def draw_plan(plan: Plan, path: Path) -> None:
    """An image of the plan: its warm-up on the left, all of it on the right, stages shaded in turn."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(3, 2, sharex="col", width_ratios=[1, 2], height_ratios=[2, 1, 1])
    warmup_end = min(plan.num_updates, max(2, plan.warmup_updates * 5 // 4))
    _draw_column(plan, grid[:, 0], spread_updates(warmup_end))
    _draw_column(plan, grid[:, 1], plan.thinned_updates())
    if 0 < plan.warmup_updates < plan.num_updates:
        # The bias group starts far above the curve; on the right the curve itself is to be seen.
        settled = [rates[plan.warmup_updates :].max() for rates in plan.schedule.lr_by_group.values()]
        grid[0, 1].set_ylim(0, 1.1 * float(max(settled)))
    for axes, label in zip(grid[:, 0], ("learning rate", "momentum", "EMA decay"), strict=True):
        axes.set_ylabel(label)
    grid[0, 0].legend(title="group")
    grid[0, 0].set_title(f"warm-up: {plan.warmup_updates:,} updates")
    stages = " + ".join(str(epochs) for epochs in plan.stage_epochs)
    grid[0, 1].set_title(f"whole training: {plan.num_updates:,} updates in {stages} epochs")
    for axes in grid[2]:
        axes.set_xlabel(
            f"optimizer update, {plan.length.total_batch_size * plan.length.accumulate} images each"
        )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.savefig(path, dpi=120)


def _draw_column(plan: Plan, column: NDArray[Any], updates: list[int]) -> None:
    rates_axes, momentum_axes, ema_axes = column
    shown = [update + 1 for update in updates]
    for number, (name, rates) in enumerate(plan.schedule.lr_by_group.items()):
        rates_axes.plot(shown, rates[updates], ("-", "--", ":")[number % 3], label=name)
    momentum_axes.plot(shown, plan.schedule.momentum[updates])
    if plan.ema is None:
        ema_axes.text(0.5, 0.5, "no weight average", ha="center", va="center", transform=ema_axes.transAxes)
    else:
        ema_axes.plot(shown, [plan.ema_decay(update) for update in updates])
    ends = [*plan.stage_starts[1:], plan.num_updates]
    for axes in column:
        for start, end in list(zip(plan.stage_starts, ends, strict=True))[1::2]:
            axes.axvspan(start + 0.5, end + 0.5, color="0.9", zorder=0)
        axes.set_xlim(0.5, shown[-1] + 0.5)
