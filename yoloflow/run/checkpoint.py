"""Training states on disk: complete, checked, and never half written.

A state is two files, `state-<step>.safetensors` (tensors) and `state-<step>.json` (numbers, the tensors
file's SHA-256 and one of all this). The JSON file is written last, so a state without it, or with a wrong
sum, does not count; the newest good one is continued. No pickle is ever read or written. A training writes
them in a thread (`StateWriter`) and waits for a copy of the tensors, not for the disk.

A finished run keeps one state, from which more epochs can go on. Its tensors file is
`state-<step>-rest.safetensors` and lacks the weights, which lie in files of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from yoloflow.files import sha256_of, write_atomically
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import save_weights

logger = logging.getLogger("yoloflow")

SCHEMA = 4


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state that a killed run goes on from: tensors by name, and plain numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save_state(folder: Path, step: int, state: TrainingState, keep_latest: int = 2) -> Path:
    """Writes a state and removes all but the newest.

    Args:
        folder: where states lie (`weights/` of the run).
        step: steps done, part of the file's name.
        state: what to write.
        keep_latest: how many stay; 2 at least leave a good one where the newest is damaged.

    Returns:
        the JSON file, the last to be written.
    """
    tensors_path = folder / f"state-{step:08d}.safetensors"
    save_weights(tensors_path, state.tensors)
    manifest = {"schema": SCHEMA, "step": step, "sha256": sha256_of(tensors_path), "numbers": state.numbers}
    manifest_path = tensors_path.with_suffix(".json")
    _write_manifest(manifest_path, manifest)
    upto = [path for path in _manifests(folder) if path <= manifest_path]
    for old in upto[keep_latest:]:
        _remove(old)
    return manifest_path


def keep_last_state(folder: Path, step: int, weights: Mapping[str, Path]) -> None:
    """Keeps of the states of a finished run the newest, without the weights that lie in other files.

    A process that is killed meanwhile leaves a good state.

    Args:
        folder: where states lie.
        step: the last of the run; a state of another one keeps its weights.
        weights: by the beginning of tensors' names, the file in `folder` that has them by the rest of it.
    """
    manifests = _manifests(folder)
    if not manifests:
        return
    newest = manifests[0]
    try:
        if _step_of(newest) == step:
            _leave_out(newest, weights)
    except (OSError, ValueError) as error:
        logger.warning("%s: stays as large as it is (%s)", newest, error)
    for old in manifests[1:]:
        _remove(old)


def _leave_out(manifest_path: Path, weights: Mapping[str, Path]) -> None:
    """Writes a state anew without the weights that lie in other files, if that is not done."""
    manifest = json.loads(manifest_path.read_bytes())
    if "weights" not in manifest:
        tensors, prefixes = _load(manifest_path).tensors, tuple(weights)
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
        rest_path = _tensor_files(manifest_path)[1]
        save_weights(rest_path, rest)
        del manifest["sum"]
        manifest["weights"] = {prefix: [path.name, sha256_of(path)] for prefix, path in weights.items()}
        _write_manifest(manifest_path, {**manifest, "sha256": sha256_of(rest_path)})
    _tensor_files(manifest_path)[0].unlink(missing_ok=True)


def newest_tensors(folder: Path) -> Path | None:
    """Returns the file with the tensors of the newest state that holds its weights; None without one."""
    files = (_tensor_files(path)[0] for path in _manifests(folder))
    return next((path for path in files if path.is_file()), None)


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    write_atomically(path, json.dumps({**manifest, "sum": _sum(manifest)}, indent=1).encode())


def _tensor_files(manifest_path: Path) -> tuple[Path, Path]:
    """Returns the file of all tensors of a state, and that of those that are no weights."""
    rest = manifest_path.with_name(f"{manifest_path.stem}-rest.safetensors")
    return manifest_path.with_suffix(".safetensors"), rest


def _remove(manifest_path: Path) -> None:
    for path in (manifest_path, *_tensor_files(manifest_path)):
        path.unlink(missing_ok=True)


class StateWriter:
    """Writes states while the training goes on, one after the other.

    Attributes:
        written: step of the newest state that is on the disk; None before the first.
    """

    def __init__(self, folder: Path, keep_latest: int = 2) -> None:
        """Prepares; nothing is written yet.

        Args:
            folder: where states lie (`weights/` of the run).
            keep_latest: see `save_state`.
        """
        self._folder, self._keep_latest = folder, keep_latest
        self._begun: Future[None] | None = None
        self.written: int | None = None

    def write(self, step: int, state: TrainingState) -> None:
        """Copies the tensors, which may change afterwards, and begins to write; waits for an earlier state.

        A state that cannot be written is a warning: the training goes on.

        Args:
            step: steps done.
            state: what to write.
        """
        self.wait()
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.tensors.items()}
        copied = TrainingState(copies, json.loads(json.dumps(state.numbers)))
        # A thread that lived on would keep the OpenMP threads that torch gave it. Where those are more than
        # the cores, all of them sleep whenever they wait: a step would take a quarter longer.
        thread = ThreadPoolExecutor(1, "yoloflow-state")
        self._begun = thread.submit(self._save, step, copied)
        thread.shutdown(wait=False)

    def wait(self) -> None:
        """Waits until nothing is left to write; errors other than the disk's are raised here."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()

    def _save(self, step: int, state: TrainingState) -> None:
        try:
            save_state(self._folder, step, state, self._keep_latest)
            self.written = step
        except OSError as error:
            logger.warning(
                "%s: the state of step %d cannot be written (%s); the training goes on, "
                "and a resumed one would begin at an older state",
                self._folder,
                step,
                error.strerror,
            )


def load_newest_state(folder: Path) -> TrainingState | None:
    """Loads the newest state in `folder` whose sum is right; damaged ones are named in the log.

    Returns:
        None if there is no state at all.

    Raises:
        YoloflowError: there are states, but none is good.
    """
    manifests = _manifests(folder)
    for manifest_path in manifests:
        try:
            return _load(manifest_path)
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s: skipped, %s; trying the one before", manifest_path, error)
    if not manifests:
        return None
    raise YoloflowError(
        f"{folder}: none of its {len(manifests)} training states is good (the log says why), so there is "
        "nothing to go on from. Begin a run with another name=...; weight=FILE starts it with weights of here"
    )


def newest_step(folder: Path) -> int | None:
    """Returns the step of the newest state in `folder`, good or not; None without one."""
    return next((_step_of(path) for path in _manifests(folder)), None)


def remove_leftovers(run: Path, weights: Path) -> int:
    """Removes the unfinished files of killed processes.

    Args:
        run: the run folder, in which no other process writes.
        weights: its folder of states.

    Returns:
        how many files.
    """
    tensors = [
        path
        for path in weights.glob("state-*.safetensors")
        if not path.with_name(f"{path.stem.removesuffix('-rest')}.json").exists()
    ]
    # Not everywhere: `predict`, `test` and `report` may be writing in the folder, as long as they like.
    partial = [
        path for folder in (weights, run / "plots", run / "faults") for path in folder.glob(".*.partial")
    ]
    own = ("config.yaml", "names.json", "data_problems.json", "summary.json")
    leftovers = [*partial, *(path for name in own for path in run.glob(f".{name}.*.partial")), *tensors]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def set_aside_newer(folder: Path, step: int) -> None:
    """Renames the states after a step, which must not count, to `*.damaged`.

    Args:
        folder: where states lie.
        step: of the newest good one.
    """
    for manifest_path in _manifests(folder):
        if _step_of(manifest_path) > step:
            for path in (manifest_path, *_tensor_files(manifest_path)):
                with suppress(FileNotFoundError):
                    path.rename(path.with_name(f"{path.name}.damaged"))
            logger.warning("%s: is called %s.damaged now", manifest_path, manifest_path.name)


def _load(manifest_path: Path) -> TrainingState:
    """Loads a state; ValueError says why it does not count."""
    try:
        manifest = json.loads(manifest_path.read_bytes())
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("numbers"), dict):
        raise ValueError("it is not a readable state")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"it was written by another version (schema {manifest.get('schema')}, not {SCHEMA})")
    if manifest.pop("sum", None) != _sum(manifest):
        raise ValueError("it has changed since it was written")
    if manifest_path.stem != f"state-{manifest['step']:08d}":
        raise ValueError(f"it is the state of step {manifest['step']}")
    weights = manifest.get("weights", {})
    tensors = _load_checked(_tensor_files(manifest_path)[bool(weights)], manifest["sha256"])
    for prefix, (name, sha256) in weights.items():
        found = _load_checked(manifest_path.with_name(name), sha256)
        tensors |= {f"{prefix}{key}": tensor for key, tensor in found.items()}
    return TrainingState(tensors, manifest["numbers"])


def _load_checked(path: Path, sha256: str) -> dict[str, Tensor]:
    """Loads a file of tensors; ValueError says why it does not count."""
    if not path.exists() or sha256_of(path) != sha256:
        raise ValueError(f"its tensors file {path.name} is missing or has changed")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _sum(manifest: dict[str, Any]) -> str:
    """Returns the SHA-256 of a manifest's content, independent of its layout."""
    content = json.loads(json.dumps(manifest))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _manifests(folder: Path) -> list[Path]:
    """Returns the manifests in `folder`, the newest first."""
    return sorted(folder.glob("state-*.json"), reverse=True)


def _step_of(manifest_path: Path) -> int:
    digits = manifest_path.stem.removeprefix("state-")
    return int(digits) if digits.isdecimal() else 0
