"""A profile of some steps, and where the time of a training went."""

from __future__ import annotations

import json
import logging
import os
from collections import defaultdict
from typing import Any

from torch import nn
from torch.profiler import profile, record_function, supported_activities
from torch.utils.hooks import RemovableHandle

from yoloflow.callbacks.base import BaseCallback, RunContext
from yoloflow.callbacks.profile_table import StepProfile, advice, table
from yoloflow.train_step.step import TrainStep

logger = logging.getLogger("yoloflow")

_ROW, _LOSS = "row: ", "loss"
_PARTS = ("forward and loss", _LOSS, "backward", "update", "EMA")


class ProfilerCallback(BaseCallback):
    """Profiles some steps into `<run>/profile/`; the training goes on, and ends with a table.

    `trace.json` is for chrome://tracing or ui.perfetto.dev, `operators.txt` has torch's operators,
    `profile.txt` the table and `profile.json` its figures.
    """

    def __init__(self, profiler_step_num: int = 3, warmup_steps: int = 2) -> None:
        """Sets the steps to record.

        Args:
            profiler_step_num: steps to record.
            warmup_steps: steps before them that are not recorded.
        """
        self.profiler_step_num = profiler_step_num
        self.warmup_steps = warmup_steps
        self._seen = 0
        self._profile: profile | None = None
        self._hooks: list[RemovableHandle] = []
        self._ran: set[str] = set()
        self._step: StepProfile | None = None

    def on_step_begin(self, context: RunContext) -> None:
        """Starts at the first step to record."""
        self._ran.clear()
        if self._seen == self.warmup_steps and context.ranks.is_main:
            self._hooks = _name_the_rows(context.train_step, self._ran)
            # torch's profiler prints lines of its own, an error among them where there is no accelerator.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            self._profile = profile(activities=supported_activities())
            self._profile.start()
        self._seen += 1

    def on_step_end(self, context: RunContext) -> None:
        """Stops and writes after the last step to record."""
        if self._profile is not None and self._seen == self.warmup_steps + self.profiler_step_num:
            self._finish(context)

    def on_train_end(self, context: RunContext) -> None:
        """Says where the time of the training went, also where it was shorter than the steps to record."""
        if self._profile is not None:
            self._finish(context)
        if self._step is None:
            return
        spent = {kind: round(seconds, 3) for kind, seconds in context.spent.items()}
        text = "\n".join([*table(self._step, spent, self._seen), *advice(self._step, spent, context)])
        folder = context.run.path / "profile"
        (folder / "profile.txt").write_text(text + "\n", encoding="utf-8")
        figures = {"steps": self._seen, "seconds": spent, "step": self._step.to_json()}
        (folder / "profile.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        logger.info("%s", text)

    def _finish(self, context: RunContext) -> None:
        assert self._profile is not None
        self._profile.stop()
        for hook in self._hooks:
            hook.remove()
        folder = context.run.path / "profile"
        folder.mkdir(exist_ok=True)
        self._profile.export_chrome_trace(str(folder / "trace.json"))
        on_device = len(supported_activities()) > 1  # beside the CPU
        key = "self_device_time_total" if on_device else "self_cpu_time_total"
        averages = self._profile.key_averages()
        (folder / "operators.txt").write_text(averages.table(sort_by=key, row_limit=40))
        recorded = min(self.profiler_step_num, self._seen - self.warmup_steps)
        self._step = _measure(self._profile, context, recorded, on_device)
        self._profile = None
        logger.info("profile of %d steps: %s", recorded, folder)


def _name_the_rows(step: TrainStep, ran: set[str]) -> list[RemovableHandle]:
    """Makes the rows of the network and the loss ranges of the profile; compiled code has none.

    Each is one range of a step: the backward pass may run a row again. `ran` holds those of the present step.
    """
    if step.settings.jit is True:
        return []
    named = [(step.forward_loss.loss_fn, _LOSS)]
    for name, layer in step.network.named_children():
        named.append((layer, f"{_ROW}{name} {type(layer).__name__}"))
    return [hook for module, name in named for hook in _range_hooks(module, name, ran)]


def _range_hooks(module: nn.Module, name: str, ran: set[str]) -> tuple[RemovableHandle, RemovableHandle]:
    opened: list[record_function] = []

    def begin(*_: Any) -> None:
        if name in ran:
            return
        ran.add(name)
        opened.append(record_function(name))
        opened[-1].__enter__()

    def end(*_: Any) -> None:
        if opened:
            opened.pop().__exit__(None, None, None)

    return module.register_forward_pre_hook(begin), module.register_forward_hook(end)


def _measure(recorded: profile, context: RunContext, steps: int, on_device: bool) -> StepProfile:
    """Sums the ranges of the recorded steps."""
    seconds: dict[str, float] = defaultdict(float)
    convolutions = 0.0
    for event in recorded.events() or ():
        taken = (event.device_time_total if on_device else event.cpu_time_total) / 1e6 / steps
        if event.name in _PARTS or event.name.startswith(_ROW):
            seconds[event.name] += taken
        elif event.name in ("aten::convolution", "aten::convolution_backward"):
            convolutions += taken
    both = seconds.pop("forward and loss")
    rows = {name.removeprefix(_ROW): seconds.pop(name) for name in list(seconds) if name.startswith(_ROW)}
    loss = seconds.pop(_LOSS, None)
    parts = {"forward and loss, compiled": both} if loss is None else {"forward": both - loss, _LOSS: loss}
    ema = seconds.pop("EMA", 0.0)
    parts |= {"backward": seconds["backward"], "update": seconds.get("update", 0.0) - ema, "EMA": ema}
    images = 0 if context.batch is None else len(context.batch.images)
    return StepProfile(parts, rows, convolutions, images, on_device)
