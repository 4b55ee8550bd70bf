"""Weights on disk: safetensors, written atomically, equal bytes for equal weights; and reading any format."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor

from yoloflow.files import is_utf8, similar_paths, write_atomically
from yoloflow.structures import YoloflowError
from yoloflow.weights.darknet import looks_like_darknet, read_darknet
from yoloflow.weights.mindspore import looks_like_mindspore, read_mindspore
from yoloflow.weights.onnx_convolutions import Convolution, looks_like_onnx, read_onnx_convolutions
from yoloflow.weights.pickled import read_pickled

FORMATS = "safetensors, PyTorch (.pt, .pth), MindSpore (.ckpt), Darknet (.weights) and ONNX"
"""The formats that are read, recognised by their content."""

_METADATA_KEY = "yoloflow"
_CHECKSUM_KEY = "crc32"
_HEAD_BYTES = 4096


@dataclass(slots=True)
class WeightsFile:
    """The content of a weights file, and what it says of itself.

    Attributes:
        tensors: by the file's names, on the CPU.
        format: "safetensors", "PyTorch", "MindSpore", "Darknet" or "ONNX".
        class_names: the classes in order; None where it does not say them.
        licence: as it states it; None where it states none.
        producer: version and date of what wrote it; "" where it does not say.
        facts: what our own files say beyond that, such as recipe and img_size.
        convolutions: of a file without names, in the order of its computation; BatchNorm is folded into them.
        values: (N,) of a file without names and shapes, in the order of its layers; None for others.
    """

    tensors: dict[str, Tensor]
    format: str
    class_names: list[str] | None = None
    licence: str | None = None
    producer: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    convolutions: list[Convolution] = field(default_factory=list)
    values: Tensor | None = None

    @property
    def numel(self) -> int:
        """Returns the number of its values."""
        parts = [*self.tensors.values(), *(part for pair in self.convolutions for part in pair)]
        return sum(part.numel() for part in (*parts, self.values) if part is not None)


def save_weights(
    path: str | Path, state: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Writes tensors by name; equal tensors give equal bytes, and a reader never sees half a file.

    Args:
        path: a .safetensors file; its folder must exist.
        state: tensors of any device, as `Module.state_dict()` gives them. Two names may share memory: each is
            written in full.
        facts: what the file says of itself, plain data (see `WeightsFile`). A checksum of the values goes
            with them, and `read_weights` compares it.
    """
    tensors = _independent(state)
    # One metadata key at most: several are written in random order.
    metadata = {"format": "pt"}
    if facts is not None:
        checked = {**facts, _CHECKSUM_KEY: _checksum(tensors)}
        metadata = {_METADATA_KEY: json.dumps(checked, sort_keys=True, ensure_ascii=False)}
    write_atomically(path, save(tensors, metadata=metadata))


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads tensors by name, onto the CPU; see `read_weights`."""
    return read_weights(path).tensors


def read_weights(path: str | Path) -> WeightsFile:
    """Reads a weights file of any known format; no code of a file ever runs.

    Of a training state (`state-<step>.safetensors`) it reads the averaged weights, else the network's.

    Args:
        path: the file; its format is recognised by its content.

    Raises:
        YoloflowError: the file is missing, damaged, of another kind or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise YoloflowError(f"{path}: there is no such weights file{similar_paths(path)}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise YoloflowError(f"{path}: is empty; copy it again")
    if path.suffix == ".safetensors" or _looks_like_safetensors(head, path.stat().st_size):
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        found = read_pickled(path)
        return WeightsFile(dict(found), "PyTorch", found.class_names, found.licence, found.producer)
    if looks_like_onnx(head):
        return WeightsFile({}, "ONNX", convolutions=read_onnx_convolutions(path))
    if looks_like_mindspore(head):
        return WeightsFile(read_mindspore(path), "MindSpore")
    if looks_like_darknet(head):
        darknet = read_darknet(path)
        return WeightsFile({}, "Darknet", producer=darknet.producer, values=darknet.values)
    raise YoloflowError(f"{path}: {_describe_other(head)}; weights are read from {FORMATS} files")


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _load_by_name(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return load_file(path), file.metadata() or {}


def _load_content(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns tensors and metadata of a file that safetensors would not open by its name."""
    tensors = load(data)
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    return tensors, header.get("__metadata__", {})


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        tensors, metadata = _load_by_name(path) if is_utf8(path) else _load_content(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise YoloflowError(f"{path}: not a readable safetensors file ({error}); copy it again") from error
    try:
        facts = json.loads(metadata.get(_METADATA_KEY, "{}"))
    except ValueError:
        facts = {}
    facts = facts if isinstance(facts, dict) else {}
    if facts.pop(_CHECKSUM_KEY, None) not in (None, _checksum(tensors)):
        raise YoloflowError(f"{path}: its values differ from those that were written; copy it again")
    tensors = _of_training_state(tensors)
    names, licence = facts.get("class_names"), facts.get("licence")
    return WeightsFile(
        tensors,
        "safetensors",
        names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None,
        licence if isinstance(licence, str) else None,
        facts=facts,
    )


def _of_training_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights in a training state, the averaged ones if it has an average; else the tensors."""
    if "skipped_updates" in tensors:
        for prefix in ("ema.network.", "network."):
            found = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
            if found:
                return found
    return tensors


def _describe_other(head: bytes) -> str:
    """Returns what a file is that holds no weights, as far as its first bytes tell."""
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself (`git lfs pull` brings it)"
    if head.lstrip()[:1] == b"<":
        return "a web page, not weights; download the file itself"
    if head.startswith(b"\x80"):
        return "a pickle, or in PyTorch's format before 1.6; load it there and save its state_dict() anew"
    return f"damaged, or of another kind (it begins with {head[:8].hex(' ')})"


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    """Returns the CRC-32 of the values in the order of their names."""
    checksum = 0
    for _, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


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
