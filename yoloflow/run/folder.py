"""The run folder: one training, one folder, never overwritten."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from yoloflow.files import read_checked, read_names, write_atomically
from yoloflow.run import file_names
from yoloflow.run.checkpoint import newest_step, newest_tensors
from yoloflow.run.lock import AnotherProcessError, acquire_run_lock
from yoloflow.runtime.ranks import Ranks, from_main_rank
from yoloflow.structures import YoloflowError

# A process that was killed may need a moment to vanish before its run is continued.
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder that one training writes.

    Attributes:
        path: `<save_dir>/<name>`.
        resumed: whether the folder was there before and is continued.
        extends: whether its training had finished and more epochs are wanted.
    """

    path: Path
    resumed: bool
    extends: bool = False

    @property
    def weights(self) -> Path:
        """Weights and resume states."""
        return self.path / "weights"

    @property
    def plots(self) -> Path:
        """Images."""
        return self.path / "plots"

    @property
    def faults(self) -> Path:
        """Batches that gave numbers that are not finite."""
        return self.path / "faults"

    @property
    def metrics(self) -> Path:
        """One JSON object a logged step, stage switch or evaluation."""
        return self.path / file_names.METRICS

    @property
    def summary(self) -> Path:
        """Final figures; written when the training has finished."""
        return self.path / file_names.SUMMARY

    def create(
        self,
        config_text: str,
        names: Sequence[str],
        data_report: Mapping[str, Any],
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes the folders and writes what is known before the first step.

        Args:
            config_text: the resolved config, for `config.yaml`.
            names: class names, for `names.json`; they may come from the data and not from the config.
            data_report: what was found wrong with each data set, for `data_problems.json`.
            origin: of the weights that it starts from, for `weights.json`; None writes none.

        Raises:
            YoloflowError: the folder cannot be written.
        """
        try:
            for folder in (self.weights, self.plots):
                folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / file_names.NAMES, _json_bytes(list(names)))
            write_atomically(self.path / file_names.DATA_PROBLEMS, _json_bytes(data_report))
            if origin is not None:
                write_atomically(self.path / file_names.WEIGHTS_ORIGIN, _json_bytes(origin))
            write_atomically(self.path / file_names.CONFIG, config_text.encode())
        except OSError as error:
            raise YoloflowError(
                f"{self.path}: cannot be written ({error.strerror}); choose another save_dir=..."
            ) from error

    @property
    def finished_summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None; None too where that run is extended."""
        summary: dict[str, Any] | None = None if self.extends else read_checked(self.summary, {})
        return summary

    def contents(self) -> set[Path]:
        """Returns the files and folders that lie in it."""
        return set(self.path.iterdir()) if self.path.is_dir() else set()

    def withdraw(self, kept: set[Path]) -> None:
        """Removes what a training that took no step has left.

        Args:
            kept: `contents` before that training.
        """
        for path in self.contents() - kept:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()  # only if it is empty


def choose_run(
    save_dir: str,
    name: str | None,
    default_name: str,
    resume: str,
    ranks: Ranks,
    wants_more: Callable[[dict[str, Any]], bool] = lambda _: False,
) -> RunFolder:
    """Finds and locks the folder of a new run, or of a run to continue; nothing is written there yet.

    Args:
        save_dir: parent of all runs.
        name: the user's name for the run; None takes `default_name` and, where that is taken, numbers it.
        default_name: the recipe's name.
        resume: "never" refuses an existing `name`; "auto" continues it. Without a name the one that is not
            finished is continued.
        ranks: rank 0 looks and claims, the others hear what came of it.
        wants_more: whether a finished run is to be trained further, asked with its summary.

    Raises:
        YoloflowError: the name is taken and `resume` is "never"; several runs could be continued; or another
            process trains there.
    """
    outcome: RunFolder | YoloflowError | None = None
    if ranks.is_main:
        try:
            outcome = _choose(Path(save_dir), name, default_name, resume, wants_more)
        except YoloflowError as error:
            outcome = error
    answer = from_main_rank(outcome, ranks)
    if isinstance(answer, YoloflowError):
        raise answer
    assert answer is not None
    return answer


def run_to_continue(root: Path, name: str | None, default_name: str) -> Path:
    """Returns the folder in which `resume=auto` goes on; it need not exist.

    Args:
        root: parent of all runs.
        name: the user's name for the run; None takes the one that is not finished.
        default_name: the recipe's name.

    Raises:
        YoloflowError: several runs could be continued.
    """
    return root / name if name is not None else _unfinished(root, default_name)


def find_weights(path: Path) -> Path:
    """Returns the best weights of a run, else the last; averaged ones where there is an average.

    A run that was stopped before its first evaluation has a training state only: then it is that file, of
    which `load_weights` reads the weights.

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
    if (state := newest_tensors(path / "weights")) is not None:
        return state
    if _is_run(path):
        raise YoloflowError(f"{path}: this run has no weights yet: it was stopped before it saved a state")
    raise YoloflowError(f"{path}: no weights are there; give a run folder or a .safetensors file (--weight)")


def names_of_run(path: Path) -> list[str] | None:
    """Returns the class names of a run, in class order; None if there is no run.

    Args:
        path: a run folder, or a weights file in one.
    """
    place = path.absolute()
    return read_names((place.parents[1] if place.parent.name == "weights" else place) / file_names.NAMES)


def _json_bytes(content: object) -> bytes:
    # Names of files that are no UTF-8 become JSON's escapes, which are read as the same names.
    return json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _choose(
    root: Path, name: str | None, default_name: str, resume: str, wants_more: Callable[[dict[str, Any]], bool]
) -> RunFolder:
    if resume == "auto":
        return _to_continue(run_to_continue(root, name, default_name), wants_more)
    if name is not None:
        path = root / name
        if not _is_run(path):
            acquire_run_lock(path)
        if _is_run(path):  # before, or since
            raise YoloflowError(
                f"{path} exists already: a run is never overwritten; choose another name=..., "
                f"or continue it with resume=auto"
            )
        return RunFolder(path, resumed=False)
    for path in _candidates(root, default_name):
        # An empty folder made beforehand is welcome, unless it has a number.
        if _is_run(path) or (path.exists() and path.name != default_name):
            continue
        with suppress(AnotherProcessError):
            acquire_run_lock(path)
            if not _is_run(path):
                return RunFolder(path, resumed=False)
    raise AssertionError("the numbers do not end")


def _to_continue(path: Path, wants_more: Callable[[dict[str, Any]], bool]) -> RunFolder:
    run = RunFolder(path, resumed=True)
    summary = run.finished_summary
    if summary is not None and not wants_more(summary):
        return run
    acquire_run_lock(path, patience_s=_PATIENCE_SECONDS)
    summary = run.finished_summary  # the training that was waited for may have finished it
    if summary is None:
        return RunFolder(path, resumed=_is_run(path))
    if not wants_more(summary):
        return run
    if newest_step(run.weights) is None:
        raise YoloflowError(
            f"{path}: is finished, and no training state is left in {run.weights} to go on from: begin a new "
            f"run with another name=... and weight={path}"
        )
    return replace(run, extends=True)


def _unfinished(root: Path, default_name: str) -> Path:
    """Returns the unfinished run among those without a name of their own, or the newest finished one."""
    runs = _numbered_runs(root, default_name)
    open_runs = [path for path in runs if not RunFolder(path, resumed=True).summary.exists()]
    if len(open_runs) > 1:
        names = ", ".join(path.name for path in open_runs)
        raise YoloflowError(f"resume=auto: several runs in {root} are not finished ({names}); add name=...")
    return (open_runs or runs or [root / default_name])[-1]


def _candidates(root: Path, default_name: str) -> Iterator[Path]:
    """Yields the folders that a run without a name may have."""
    yield root / default_name
    for number in count(2):
        yield root / f"{default_name}-{number}"


def _numbered_runs(root: Path, default_name: str) -> list[Path]:
    """Returns the runs without a name of their own, by number; some in between may have been removed."""
    found = []
    for path in (file.parent for file in root.glob("*/config.yaml")):
        if match := re.fullmatch(rf"{re.escape(default_name)}(?:-(\d+))?", path.name):
            found.append((int(match[1] or 1), path))
    return [path for _, path in sorted(found)]


def _is_run(path: Path) -> bool:
    return (path / file_names.CONFIG).exists()
