"""The console during a training: a moving line in a terminal and in a notebook, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.live import Live
from rich.text import Text

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.callbacks.progress import Progress
from yoloflow.data.loading_time import describe_work
from yoloflow.report.metrics import NO_OBJECTS
from yoloflow.run.folder import find_weights
from yoloflow.runtime.messages import is_notebook, stderr_console
from yoloflow.structures import plural

logger = logging.getLogger("yoloflow")

_LOADER_BOUND = 0.1
"""Part of an epoch spent waiting for data that is worth a word."""


_PLAIN_SECONDS = 30.0
"""Between two plain lines at most, however rare logged steps are."""

_NOTEBOOK_SECONDS = 0.25
"""Between two drawings of the line in a notebook at least."""

_NOTEBOOK_WIDTH = 100


class ConsoleCallback(BaseCallback):
    """Shows how far the training is, and a line for each evaluation; main rank only."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._live: Live | None = None
        self._cell: Any = None  # a DisplayHandle; IPython has no types
        self._progress = Progress(0, 0, 0, 0)
        self._losses: list[tuple[str, float]] = []
        self._start_seconds = self._shown_seconds = 0.0
        self._start_step = 0
        self._said_loader_bound = False

    def on_train_begin(self, context: RunContext) -> None:
        """Logs the plan and opens the line of a terminal or notebook."""
        self._start_seconds = self._shown_seconds = time.monotonic()
        self._start_step = context.step
        if not context.ranks.is_main:
            return
        start = f", from step {context.step}" if context.step else ""
        logger.info(
            "training: %s x %s%s; run folder %s",
            plural(context.epochs, "epoch"),
            plural(context.steps_per_epoch, "step"),
            start,
            context.run.path,
        )
        self._progress = self._measure(context)
        if is_notebook():
            from IPython.display import display

            self._cell = display(self._text(), raw=True, display_id=True)
        elif sys.stderr.isatty() and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(get_renderable=self._render, console=self._console)
            self._live.start()

    def on_step_end(self, context: RunContext) -> None:
        """Moves the line; shows the losses of logged steps."""
        if not context.ranks.is_main:
            return
        if context.is_log_step:
            assert context.loss_items is not None
            self._losses = list(zip(context.loss_item_names, context.loss_items.tolist(), strict=True))
        self._progress = self._measure(context)
        if self._live is not None:  # it draws itself
            return
        now = time.monotonic()
        pause = _PLAIN_SECONDS if self._cell is None else _NOTEBOOK_SECONDS
        if context.is_log_step or now - self._shown_seconds >= pause:
            self._shown_seconds = now
            if self._cell is not None:
                self._cell.update(self._text(), raw=True)
            else:
                logger.info("%s", self._progress.line())

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
            found = ap_line(result.figures())
            if result.map < 0:  # COCO's word for it
                found = f"AP n/a: {NO_OBJECTS}"
            if result.losses:
                found += f"  val loss {next(iter(result.losses.values())):.3f}"
            seconds = time.monotonic() - self._start_seconds
            logger.info("epoch %s: %s  (%.0f s)%s", self._epoch(context), found, seconds, best)

    def on_train_end(self, context: RunContext) -> None:
        """Closes the line and logs the paths of all results."""
        self._close()
        if not context.ranks.is_main:
            return
        if context.best:
            logger.info("best: %s  (epoch %d)", ap_line(context.best), context.best["epoch"])
        run = context.run
        logger.info("weights   %s", find_weights(run.path))
        logger.info("curves    %s", run.plots / "curves.png")
        logger.info("plots     %s", run.plots)
        logger.info("figures   %s", run.summary)

    def on_exception(self, context: RunContext) -> None:
        """Closes the line so that the error is readable."""
        self._close()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _measure(self, context: RunContext) -> Progress:
        elapsed, done = time.monotonic() - self._start_seconds, context.step - self._start_step
        steps, rate, left = context.epochs * context.steps_per_epoch, context.images_per_second, None
        if done:
            left = (steps - context.step) * elapsed / done
            if not rate and context.batch is not None:  # no step was logged yet
                rate = done * len(context.batch.images) * context.ranks.world_size / elapsed
        return Progress(context.epoch + 1, context.epochs, context.step, steps, rate, left, self._losses)

    def _render(self) -> Text:
        return Text(self._progress.line(self._console.width), no_wrap=True, overflow="crop")

    def _text(self) -> dict[str, str]:
        return {"text/plain": self._progress.line(_NOTEBOOK_WIDTH)}

    @staticmethod
    def _epoch(context: RunContext) -> str:
        return f"{context.epoch + 1}/{context.epochs}"


def ap_line(figures: Mapping[str, Any]) -> str:
    """Returns AP and AP50 of an evaluation's figures, those of masks behind those of boxes."""
    line = f"AP {figures['map']:.4f}  AP50 {figures['map50']:.4f}"
    if "mask_map" not in figures:
        return line
    return f"box {line}  mask AP {figures['mask_map']:.4f}  AP50 {figures['mask_map50']:.4f}"
