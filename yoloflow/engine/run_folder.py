"""The run folder: one training, one folder, never overwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from yoloflow.report.json_files import read_checked, read_names
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
    def faults(self) -> Path:
        """Batches that gave numbers that are not finite."""
        return self.path / "faults"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step, stage switch or evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Final figures; written when the training has finished."""
        return self.path / "summary.json"

    def create(self, config_text: str, names: Sequence[str], data_report: Mapping[str, Any]) -> None:
        """Make the folders and write what is known before the first step.

        Args:
            config_text: the resolved config, for `config.yaml`.
            names: class names, for `names.json`; they may come from the data and not from the config.
            data_report: what was found wrong with each data set, for `data_problems.json`.

        Raises:
            YoloflowError: the folder cannot be written.
        """
        try:
            for folder in (self.weights, self.plots):
                folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "names.json", _json_bytes(list(names)))
            write_atomically(self.path / "data_problems.json", _json_bytes(data_report))
            write_atomically(self.path / "config.yaml", config_text.encode())
        except OSError as error:
            raise YoloflowError(
                f"{self.path}: cannot be written ({error.strerror}); choose another save_dir=..."
            ) from error

    @property
    def finished_summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None."""
        summary: dict[str, Any] | None = read_checked(self.summary, dict)
        return summary


def choose_run(save_dir: str, name: str | None, default_name: str, resume: str, ranks: Ranks) -> RunFolder:
    """Find the folder of a new run, or that of a run to continue; nothing is written yet.

    Args:
        save_dir: parent of all runs.
        name: the user's name for the run; None takes `default_name` and, where that is taken, numbers it.
        default_name: the recipe's name.
        resume: "never" refuses an existing `name`; "auto" continues it.
        ranks: rank 0 looks, the others are told.

    Raises:
        YoloflowError: the name is taken and `resume` is "never".
    """
    told: list[RunFolder | YoloflowError | None] = [None]
    if ranks.is_main:
        try:
            told = [_choose(Path(save_dir), name, default_name, resume)]
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
    """The weights to use of a run: the best, or else the last; averaged where there is an average.

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


def names_of_run(path: Path) -> list[str] | None:
    """The class names that a run was trained with, in class order; None if `path` is no run folder.

    Raises:
        YoloflowError: `names.json` is damaged.
    """
    return read_names(path / "names.json")


def _json_bytes(content: object) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def _choose(root: Path, name: str | None, default_name: str, resume: str) -> RunFolder:
    path = root / (name or default_name)
    # A folder without config.yaml holds no run: an empty one made beforehand is welcome.
    if not (path / "config.yaml").exists():
        return RunFolder(path, resumed=False)
    if resume == "auto":
        return RunFolder(path, resumed=True)
    if name is None:
        return RunFolder(_numbered(path), resumed=False)
    raise YoloflowError(
        f"{path} exists already: a run is never overwritten; choose another name=..., "
        f"or continue it with resume=auto"
    )


def _numbered(path: Path) -> Path:
    number = 2
    while (candidate := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return candidate
