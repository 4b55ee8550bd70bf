"""A profile of some steps."""

from __future__ import annotations

import logging

from torch.profiler import ProfilerActivity, profile, supported_activities

from yoloflow.callbacks.base import BaseCallback, RunContext

logger = logging.getLogger("yoloflow")


class ProfilerCallback(BaseCallback):
    """Profiles some steps into `<run>/profile/` (a table and a Chrome trace); the training goes on."""

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

    def on_step_begin(self, context: RunContext) -> None:
        """Starts at the first step to record."""
        if self._seen == self.warmup_steps and context.ranks.is_main:
            self._profile = profile(activities=_activities())
            self._profile.start()
        self._seen += 1

    def on_step_end(self, context: RunContext) -> None:
        """Stops and writes after the last step to record."""
        if self._profile is not None and self._seen == self.warmup_steps + self.profiler_step_num:
            self._finish(context)

    def on_train_end(self, context: RunContext) -> None:
        """Writes also where the training was shorter than that."""
        if self._profile is not None:
            self._finish(context)

    def _finish(self, context: RunContext) -> None:
        assert self._profile is not None
        self._profile.stop()
        folder = context.run.path / "profile"
        folder.mkdir(exist_ok=True)
        self._profile.export_chrome_trace(str(folder / "trace.json"))
        on_device = len(_activities()) > 1
        key = "self_device_time_total" if on_device else "self_cpu_time_total"
        table = self._profile.key_averages().table(sort_by=key, row_limit=40)
        (folder / "operators.txt").write_text(table)
        self._profile = None
        logger.info("profile of %d steps: %s", self.profiler_step_num, folder)


def _activities() -> list[ProfilerActivity]:
    """Returns the activities to record: the CPU, and the accelerator where there is one."""
    return list(supported_activities())  # type: ignore[no-untyped-call]
