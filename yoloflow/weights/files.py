"""Weights on disk: safetensors, written atomically, equal bytes for equal weights."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from yoloflow.files import write_atomically
from yoloflow.structures import YoloflowError


def save_weights(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Writes tensors by name; equal tensors give equal bytes, and a reader never sees half a file.

    Args:
        path: a .safetensors file; its folder must exist.
        state: tensors of any device, as `Module.state_dict()` gives them. Two names may share memory: each is
            written in full.
    """
    # One metadata key at most: several are written in random order.
    write_atomically(path, save(_independent(state), metadata={"format": "pt"}))


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads tensors by name, onto the CPU.

    Args:
        path: a .safetensors file, or a .pt or .pth file that holds nothing but a flat mapping of names to
            tensors (read with `weights_only=True`, so no code of the file ever runs).

    Raises:
        YoloflowError: the file is missing, damaged, of another kind or holds something else than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise YoloflowError(f"{path}: there is no such weights file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise YoloflowError(
                f"{path}: not a readable safetensors file ({error}); copy it again"
            ) from error
    if path.suffix in {".pt", ".pth"}:
        return _load_torch(path)
    raise YoloflowError(
        f"{path}: weights are read from .safetensors, .pt and .pth files, not from {path.suffix!r}"
    )


def _independent(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors on the CPU, contiguous, none sharing memory with another."""
    copies: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        copy = tensor.detach().to("cpu").contiguous()
        storage = copy.untyped_storage().data_ptr()
        copies[name] = copy.clone() if storage in seen else copy
        seen.add(storage)
    return copies


def _load_torch(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise YoloflowError(
            f"{path}: damaged, or in the format before PyTorch 1.6; save its state_dict() anew"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise YoloflowError(
            f"{path}: holds Python objects beside tensors, and loading them could run any code; "
            "save its state_dict() alone, best as .safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise YoloflowError(f"{path}: not a readable PyTorch file ({error}); copy it again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise YoloflowError(
            f"{path}: expected a flat mapping of names to tensors; save the state_dict() alone"
        )
    return {str(name): value for name, value in content.items()}
