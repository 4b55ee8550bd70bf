"""Training states on disk: complete, checked, and never half written.

A state is two files, `state-<step>.safetensors` (tensors) and `state-<step>.json` (numbers, and the
tensors file's SHA-256). The JSON file is written last, so a state without it, or with a wrong sum, does not
count; the newest good one is continued. No pickle is ever read or written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from yoloflow.weights.files import load_weights, save_weights, write_atomically

logger = logging.getLogger("yoloflow")

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What a killed run needs to go on: tensors by name, and plain numbers."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save_state(folder: Path, step: int, state: TrainingState, keep_latest: int = 2) -> Path:
    """Write a state and remove all but the newest.

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
    manifest = {"schema": SCHEMA, "step": step, "sha256": _sha256(tensors_path), "numbers": state.numbers}
    manifest_path = tensors_path.with_suffix(".json")
    write_atomically(manifest_path, json.dumps(manifest, indent=1).encode())
    for old in _manifests(folder)[keep_latest:]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    return manifest_path


def load_newest_state(folder: Path) -> TrainingState | None:
    """The newest state in `folder` whose sum is right, or None; damaged ones are named in the log."""
    for manifest_path in _manifests(folder):
        fault = "its tensors file is missing or has changed"
        try:
            manifest = json.loads(manifest_path.read_text())
            tensors_path = manifest_path.with_suffix(".safetensors")
            if manifest["schema"] > SCHEMA:
                fault = f"it was written by a newer version (schema {manifest['schema']})"
            elif tensors_path.exists() and _sha256(tensors_path) == manifest["sha256"]:
                return TrainingState(load_weights(tensors_path), manifest["numbers"])
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError):
            fault = "it is not a readable state"
        logger.warning("%s: skipped, %s; trying the one before", manifest_path, fault)
    return None


def _manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*.json"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
