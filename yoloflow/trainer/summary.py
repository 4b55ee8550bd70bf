"""The summary of a finished run."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from yoloflow.callbacks import RunContext
from yoloflow.runtime.device import device_name


@dataclass(slots=True)
class TrainingTime:
    """What a run has taken, over all its processes.

    Attributes:
        seconds_before: seconds of processes before this one.
        started: when this one began to train, by the monotonic clock.
        step_seconds: seconds spent in steps.
        step_images: images of those steps, of all ranks.
    """

    seconds_before: float = 0.0
    started: float = field(default_factory=time.monotonic)
    step_seconds: float = 0.0
    step_images: int = 0

    @property
    def seconds(self) -> float:
        """Of this and all earlier processes of the run."""
        return time.monotonic() - self.started + self.seconds_before

    def state_dict(self) -> dict[str, float]:
        """Plain numbers to go on from after a resume."""
        return {
            "seconds": self.seconds,
            "step_seconds": self.step_seconds,
            "step_images": self.step_images,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what `state_dict` gave."""
        self.seconds_before, self.step_seconds = state["seconds"], state["step_seconds"]
        self.step_images = int(state["step_images"])


def run_summary(context: RunContext, taken: TrainingTime) -> dict[str, Any]:
    """What `summary.json` says.

    Args:
        context: of the training, which is at its end.
        taken: by the run.
    """
    nothing = dict.fromkeys(("map", "map50", "stats", "per_class"))
    return {
        "epochs": context.epochs,
        "steps": context.step,
        "skipped_updates": int(context.train_step.skipped_updates),
        **(context.figures or nothing),
        "best": context.best or None,
        "wall_seconds": round(taken.seconds, 1),
        "images_per_second": round(taken.step_images / max(taken.step_seconds, 1e-9), 2),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "yoloflow": _installed_version(),
        },
        "device": device_name(context.train_step.device),
        "ranks": context.ranks.world_size,
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _installed_version() -> str | None:
    try:
        return metadata.version("yoloflow")
    except metadata.PackageNotFoundError:  # run from a folder, without being installed
        return None


def _git_commit() -> str | None:
    """The commit of the folder the training was started in, if it is a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path.cwd()
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
