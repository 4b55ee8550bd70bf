"""The summary of a finished run."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from yoloflow.engine.callbacks import RunContext
from yoloflow.runtime import device_name


def run_summary(context: RunContext, seconds: float, images_per_second: float) -> dict[str, Any]:
    """What `summary.json` says.

    Args:
        context: of the training, which is at its end.
        seconds: of all processes of the run.
        images_per_second: of this process, all ranks together.
    """
    nothing = dict.fromkeys(("map", "map50", "stats", "per_class"))
    return {
        "epochs": context.epochs,
        "steps": context.step,
        "skipped_updates": int(context.train_step.skipped_updates),
        **(context.figures or nothing),
        "best": context.best or None,
        "wall_seconds": round(seconds, 1),
        "images_per_second": round(images_per_second, 2),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "yoloflow": _installed_version(),
        },
        "device": device_name(context.train_step.device),
        "ranks": context.ranks.rank_size,
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
