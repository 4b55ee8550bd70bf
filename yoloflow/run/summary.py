"""The summary of a finished run, `summary.json`."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from yoloflow.files import write_atomically
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.device import device_name
from yoloflow.runtime.memory import peak_memory
from yoloflow.runtime.ranks import Ranks


def write_summary(
    run: RunFolder,
    ranks: Ranks,
    device: torch.device,
    counts: Mapping[str, Any],
    figures: Mapping[str, Any],
    best: Mapping[str, Any],
    speed: Mapping[str, float],
) -> dict[str, Any]:
    """Writes `summary.json` (main rank only) and returns its content.

    Args:
        run: the run folder.
        ranks: this process among its peers.
        device: of this rank.
        counts: epochs, steps and skipped updates; why it stopped early.
        figures: of the last evaluation; empty without one.
        best: epoch and figures of the best evaluation; empty without one.
        speed: wall seconds and images per second.
    """
    nothing = dict.fromkeys(("map", "map50", "stats", "per_class"))
    summary = {
        **counts,
        **(figures or nothing),
        "best": dict(best) or None,
        **speed,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "yoloflow": _installed_version(),
        },
        "device": device_name(device),
        **_device_peak(device),
        "ranks": ranks.world_size,
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }
    if ranks.is_main:
        write_atomically(run.summary, json.dumps(summary, indent=1).encode())
    return summary


def _device_peak(device: torch.device) -> dict[str, float]:
    """Returns the most memory that tensors held on an accelerator (of rank 0) since the memory forecast."""
    peak = None if device.type == "cpu" else peak_memory(device)
    return {} if peak is None else {"device_peak_memory_mb": round(peak / 2**20, 1)}


def _installed_version() -> str | None:
    try:
        return metadata.version("yoloflow")
    except metadata.PackageNotFoundError:  # run from a folder, without being installed
        return None


def _git_commit() -> str | None:
    """Returns the commit of the folder the training was started in, if it is a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path.cwd()
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
