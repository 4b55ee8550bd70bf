"""The run folder: one training, one folder, never overwritten."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from yoloflow.runtime import Ranks
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import write_atomically


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where one training writes.

    Attributes:
        path: `<save_dir>/<name>`.
        resumed: whether the folder was there before and is continued.
    """

    path: Path
    resumed: bool

    @property
    def weights(self) -> Path:
        """Weights and resume states."""
        return self.path / "weights"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step, stage switch or evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Final figures; written when the training has finished."""
        return self.path / "summary.json"

    @property
    def finished_summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        if not self.summary.exists():
            return None
        summary: dict[str, Any] = json.loads(self.summary.read_text())
        return summary


def open_run(
    save_dir: str, name: str | None, default_name: str, resume: str, config_text: str, ranks: Ranks
) -> RunFolder:
    """Make the folder of a new run, or find that of a run to continue.

    Args:
        save_dir: parent of all runs.
        name: the user's name for the run; None takes `default_name` and, where that is taken, numbers it.
        default_name: the recipe's name.
        resume: "never" refuses an existing `name`; "auto" continues it.
        config_text: the resolved config, written to `config.yaml` of a new run.
        ranks: rank 0 looks and writes, the others are told.

    Raises:
        YoloflowError: the name is taken and `resume` is "never", or the folder cannot be written.
    """
    told: list[RunFolder | YoloflowError | None] = [None]
    if ranks.is_main:
        try:
            told = [_open(Path(save_dir), name, default_name, resume, config_text)]
        except YoloflowError as error:
            told = [error]
    if ranks.rank_size > 1:
        dist.broadcast_object_list(told, src=0)
    (answer,) = told
    if isinstance(answer, YoloflowError):
        raise answer
    assert answer is not None
    return answer


def find_weights(path: Path) -> Path:
    """The weights to use of a run: the best if it was evaluated, else the last; averaged where there is an average.

    Args:
        path: a run folder, or a weights file.

    Raises:
        YoloflowError: neither, or a run without weights.
    """
    if path.is_file():
        return path
    for name in ("best_ema", "best", "last_ema", "last"):
        if (weights := path / "weights" / f"{name}.safetensors").is_file():
            return weights
    raise YoloflowError(f"{path}: no weights are there; give a run folder or a .safetensors file (--weight)")


def _open(root: Path, name: str | None, default_name: str, resume: str, config_text: str) -> RunFolder:
    path = root / (name or default_name)
    # A folder without config.yaml holds no run: an empty one made beforehand is welcome.
    exists = (path / "config.yaml").exists()
    if exists and resume == "never":
        if name is not None:
            raise YoloflowError(
                f"{path} exists already: a run is never overwritten; choose another name=..., "
                f"or continue it with resume=auto"
            )
        path = _numbered(path)
        exists = False
    run = RunFolder(path, resumed=exists)
    try:
        for folder in (run.weights, run.plots):
            folder.mkdir(parents=True, exist_ok=True)
        if not exists:
            write_atomically(path / "config.yaml", config_text.encode())
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be written ({error.strerror}); choose another save_dir=...") from error
    return run


def _numbered(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
