"""The console during a training: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.data.loading_time import describe_work
from yoloflow.report.metrics import NO_OBJECTS
from yoloflow.run.folder import find_weights

logger = logging.getLogger("yoloflow")

_LOADER_BOUND = 0.1
"""Part of an epoch spent waiting for data that is worth a word."""


class ConsoleCallback(BaseCallback):
    """Shows a progress bar with the newest losses, and a line for each evaluation; main rank only."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._start_seconds = 0.0
        self._start_step = 0
        self._text = ""
        self._said_loader_bound = False

    def on_train_begin(self, context: RunContext) -> None:
        """Logs the plan and opens the bar."""
        self._start_seconds = time.monotonic()
        self._start_step = context.step
        if not context.ranks.is_main:
            return
        total = context.epochs * context.steps_per_epoch
        start = f", from step {context.step}" if context.step else ""
        logger.info(
            "training: %d epochs x %d steps%s; run folder %s",
            context.epochs,
            context.steps_per_epoch,
            start,
            context.run.path,
        )
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._progress.start()
            self._task = self._progress.add_task(
                "", total=total, completed=context.step, epoch=self._epoch(context), figures=""
            )

    def on_step_end(self, context: RunContext) -> None:
        """Moves the bar; shows the losses of logged steps."""
        if not context.ranks.is_main:
            return
        if context.is_log_step:
            assert context.loss_items is not None
            items = zip(context.loss_item_names, context.loss_items.tolist(), strict=True)
            losses = " ".join(f"{name} {value:.3f}" for name, value in items)
            self._text = f"{losses}  {context.images_per_second:.1f} img/s"
            if self._progress is None:
                self._print_line(context)
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=context.step, epoch=self._epoch(context), figures=self._text
            )

    def on_epoch_end(self, context: RunContext) -> None:
        """Logs once if the training waits for data; the first epoch fills caches and does not count."""
        is_first = context.step - self._start_step <= context.steps_per_epoch
        if is_first or self._said_loader_bound or context.waited_share < _LOADER_BOUND:
            return
        self._said_loader_bound = True
        if context.ranks.is_main:
            logger.info(
                "loader-bound: %.0f %% of epoch %s was spent waiting for data (loading: %s); more "
                "data.num_parallel_workers, data.cache or fewer transforms would help",
                100 * context.waited_share,
                self._epoch(context),
                describe_work(context.loading_seconds),
            )

    def on_evaluation(self, context: RunContext) -> None:
        """Logs a line with AP and AP50."""
        result = context.evaluation
        if result is not None and context.ranks.is_main:
            best = "  best so far" if context.best.get("epoch") == context.epoch + 1 else ""
            found = f"AP {result.map:.4f}  AP50 {result.map50:.4f}"
            if result.map < 0:  # COCO's word for it
                found = f"AP n/a: {NO_OBJECTS}"
            seconds = time.monotonic() - self._start_seconds
            logger.info("epoch %s: %s  (%.0f s)%s", self._epoch(context), found, seconds, best)

    def on_train_end(self, context: RunContext) -> None:
        """Closes the bar and logs the paths of all results."""
        self._close()
        if not context.ranks.is_main:
            return
        if context.best:
            logger.info(
                "best: AP %.4f  AP50 %.4f  (epoch %d)",
                context.best["map"],
                context.best["map50"],
                context.best["epoch"],
            )
        run = context.run
        logger.info("weights   %s", find_weights(run.path))
        logger.info("curves    %s", run.plots / "curves.png")
        logger.info("plots     %s", run.plots)
        logger.info("figures   %s", run.summary)

    def on_exception(self, context: RunContext) -> None:
        """Closes the bar so that the error is readable."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print_line(self, context: RunContext) -> None:
        done = context.step - self._start_step
        total = context.epochs * context.steps_per_epoch
        left = (total - context.step) * (time.monotonic() - self._start_seconds) / max(done, 1)
        logger.info(
            "epoch %s step %d/%d  %s  %.0f s left",
            self._epoch(context),
            context.step,
            total,
            self._text,
            left,
        )

    @staticmethod
    def _epoch(context: RunContext) -> str:
        return f"{context.epoch + 1}/{context.epochs}"
