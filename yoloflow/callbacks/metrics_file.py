"""The file `metrics.jsonl`, with a JSON object for each logged step, stage, epoch and evaluation."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any

from yoloflow.callbacks.base import BaseCallback, RunContext

_OF_EPOCH_ENDS = ("loading", "evaluation")


class MetricsFileCallback(BaseCallback):
    """Appends to the run's `metrics.jsonl`; a resumed run first cuts off what lies after its state."""

    def on_train_begin(self, context: RunContext) -> None:
        """Cuts off lines of steps that will be done again."""
        path = context.run.metrics
        if not context.ranks.is_main or not path.exists():
            return
        kept_bytes = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                record = json.loads(line)
            except ValueError:
                break  # the line that a killed run was writing
            if self._comes_after(record, context):
                break
            kept_bytes += len(line)
        os.truncate(path, kept_bytes)  # never half done, as a file written anew could be

    @staticmethod
    def _comes_after(record: dict[str, Any], context: RunContext) -> bool:
        """Returns whether a line was written after the state that the run goes on from."""
        if record["step"] != context.step:
            return bool(record["step"] > context.step)
        if context.step == 0 and record["kind"] == "evaluation":
            return not context.figures  # the one of epoch 0, which a state at step 0 may hold
        if record["kind"] in _OF_EPOCH_ENDS:
            return context.epoch_open
        return record["kind"] in ("stage", "stopped")  # a stage begins with the step to come

    def on_stage_begin(self, context: RunContext) -> None:
        """Writes a line for the stage."""
        record = {"kind": "stage", "epoch": context.epoch + 1, "stage": context.stage}
        self._append(context, {**record, "steps_per_epoch": context.steps_per_epoch})

    def on_step_end(self, context: RunContext) -> None:
        """Writes a line for a logged step."""
        if context.is_log_step and context.ranks.is_main:
            self._append(context, step_record(context))

    def on_epoch_end(self, context: RunContext) -> None:
        """Writes a line for the time of loading."""
        record = {
            "kind": "loading",
            "epoch": context.epoch + 1,
            "waited_share": round(context.waited_share, 4),
            "seconds": {name: round(value, 3) for name, value in context.loading_seconds.items()},
        }
        self._append(context, record)

    def on_evaluation(self, context: RunContext) -> None:
        """Writes a line for an evaluation."""
        result = context.evaluation
        if result is None:
            return
        epoch = context.epoch + 1
        record = {"kind": "evaluation", "epoch": epoch, "is_best": context.best.get("epoch") == epoch}
        self._append(context, {**record, **result.figures()})

    def on_exception(self, context: RunContext) -> None:
        """Writes a line that the training has ended before its time; a resumed one cuts it off."""
        with suppress(OSError):  # which may be why it ends
            self._append(context, {"kind": "stopped", "epoch": context.epoch + 1})

    def _append(self, context: RunContext, record: dict[str, Any]) -> None:
        if not context.ranks.is_main:
            return
        record.setdefault("step", context.step)
        record["time"] = round(time.time(), 2)
        with context.run.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def step_record(context: RunContext) -> dict[str, Any]:
    """Returns the figures of the step just done (reading the losses waits for the device)."""
    assert context.loss_items is not None
    items = dict(zip(context.loss_item_names, context.loss_items.tolist(), strict=True))
    groups = context.train_step.optimizer.param_groups
    return {
        "kind": "step",
        "epoch": context.epoch + 1,
        "step": context.step,
        "update": context.train_step.updates,
        **items,
        "lr": [group["lr"] for group in groups],
        "momentum": groups[0].get("momentum", groups[0].get("betas", (None,))[0]),
        "images_per_second": round(context.images_per_second, 2),
    }
