"""PyTorch's files (.pt, .pth) read as data: tensors and texts are taken, no object of the file is built.

Files of trained networks mostly hold a pickled object of the project that made them. Here every class
that a pickle names becomes an inert stand-in, which keeps what it is given and does nothing; only the few
functions that make tensors are known, and have replacements of our own. So no code of a file can run.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yoloflow.structures import YoloflowError

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Where the entries of a training's file have the network, the best one first.
_NETWORK_KEYS = ("ema", "model_ema", "ema_state_dict", "model", "state_dict", "model_state_dict", "module")
_MAX_DEPTH = 64
_MAX_TEXT = 200
# What a damaged pickle raises; it has no code that could fail otherwise.
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError),
    *(OverflowError, MemoryError, RecursionError, ImportError, struct.error, AssertionError, LookupError),
)


class PickledFile(dict[str, Tensor]):
    """Tensors by name, with what the file says of itself.

    Attributes:
        class_names: the classes in order; None where the file has none.
        licence: the licence that it states; None where it states none.
        producer: version and date that it states; "" where it states none.
    """

    class_names: list[str] | None = None
    licence: str | None = None
    producer: str = ""


class _Inert:
    """A stand-in for an object of the file: it keeps its state and does nothing."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        """Takes the state of an object: its attributes, or a pair of them and slots."""
        parts = state if isinstance(state, tuple) else (state,)
        attributes = getattr(self, "state", {})
        for part in parts:
            if isinstance(part, dict):
                attributes.update({key: value for key, value in part.items() if isinstance(key, str)})
        self.state = attributes

    def __call__(self, *_: object, **__: object) -> _Inert:
        """Returns another one: some pickles call what a call gave."""
        return _Inert()

    def append(self, _: object) -> None:
        """Ignores items of a list or set."""

    extend = add = append

    def __setitem__(self, _: object, __: object) -> None:
        """Ignores an item of a mapping."""

    def __hash__(self) -> int:
        return id(self)


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,  # its name in protocols 0 to 2
    ("torch", "Size"): tuple,
}


class _Unpickler(pickle._Unpickler):
    """Reads a pickle without importing or calling anything that it names.

    It is the one in Python: the memory of the one in C grows with a number in the file, not with its size.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Returns our replacement of a known function, else an inert class."""
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        return type("Inert", (_Inert,), {})

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the description of a storage."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a persistent id that is no storage")
        _, dtype, key, _, numel = pid[:5]
        if not (isinstance(dtype, torch.dtype) and isinstance(key, str) and isinstance(numel, int)):
            raise pickle.UnpicklingError("a storage of an unknown type")
        return _Storage(key, dtype, numel)


def read_pickled(path: Path) -> PickledFile:
    """Reads the network's tensors of a PyTorch file by name; its average where it has one.

    Raises:
        YoloflowError: the file is cut, damaged, of another kind, or has no tensors where a network's are.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except YoloflowError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, struct.error) as error:
        raise YoloflowError(f"{path}: not a readable PyTorch file ({error}); copy it again") from error


def _read(path: Path, archive: zipfile.ZipFile) -> PickledFile:
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise YoloflowError(f"{path}: a zip file, but not one that PyTorch writes; give a weights file")
    size = path.stat().st_size
    for info in members.values():
        # PyTorch compresses nothing; a member that unfolds could fill the memory.
        is_stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not is_stored or info.file_size > size or info.flag_bits & 1:
            raise YoloflowError(f"{path}: {info.filename} in it is compressed or encrypted, or damaged")
    root = pickles[0].removesuffix("data.pkl")
    if members.get(f"{root}byteorder") and archive.read(f"{root}byteorder") != b"little":
        raise YoloflowError(f"{path}: written by a big-endian machine, which is not read")
    try:
        content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
    except _DAMAGED as error:
        raise YoloflowError(f"{path}: not a readable PyTorch file ({error}); copy it again") from error
    found = PickledFile()
    network = _describe(content, found)
    storages: dict[str, Tensor] = {}
    taken = 0
    for name, tensor in _tensors(path, network):
        found[name] = _take(path, archive, members, root, tensor, storages)
        taken += found[name].nbytes
        if taken > 2 * size:  # many tensors of one storage could fill the memory
            raise YoloflowError(f"{path}: its tensors are larger than the file; copy it again")
    if not found:
        raise YoloflowError(
            f"{path}: there are no tensors by name in it; save the network's state_dict() alone"
        )
    return found


def _attributes(content: object) -> Mapping[Any, Any]:
    """Returns the entries of a mapping, or the attributes of an object of the file."""
    if isinstance(content, _Inert):
        return content.state
    return content if isinstance(content, dict) else {}


def _describe(content: object, found: PickledFile) -> object:
    """Returns the part of a file that is the network, and notes what the file says of itself."""
    top = _attributes(content)
    network = content
    if isinstance(content, dict):
        network = next((top[key] for key in _NETWORK_KEYS if _attributes(top.get(key))), content)
    model = _attributes(network)
    found.class_names = _class_names(model.get("names", top.get("names")))
    licence = top.get("license", top.get("licence"))
    found.licence = licence[:_MAX_TEXT] if isinstance(licence, str) else None
    stated = [top.get(key) for key in ("version", "date")]
    found.producer = " ".join(text[:_MAX_TEXT] for text in stated if isinstance(text, str))
    return network


def _class_names(names: object) -> list[str] | None:
    """Returns class names of a list, or of a mapping from 0 on; None where they are something else."""
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return [name[:_MAX_TEXT] for name in names]
    return None


def _tensors(path: Path, content: object) -> Iterator[tuple[str, _Tensor]]:
    """Yields the tensors of a network: of a mapping of names, or of an object and its children."""
    seen: set[int] = set()
    waiting: list[tuple[str, object, int]] = [("", content, 0)]
    while waiting:
        prefix, part, depth = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if depth > _MAX_DEPTH:
            raise YoloflowError(f"{path}: nested more than {_MAX_DEPTH} deep; this is no network")
        if isinstance(part, _Inert):
            hidden = part.state.get("_non_persistent_buffers_set") or ()
            own = {**_attributes(part.state.get("_parameters")), **_attributes(part.state.get("_buffers"))}
            for name, value in own.items():
                if isinstance(value, _Tensor) and not (isinstance(hidden, set) and name in hidden):
                    yield f"{prefix}{name}", value
            children = list(_attributes(part.state.get("_modules")).items())
        else:
            entries = _attributes(part)
            yield from (
                (f"{prefix}{name}", value) for name, value in entries.items() if isinstance(value, _Tensor)
            )
            children = [(name, value) for name, value in entries.items() if isinstance(value, dict)]
        waiting.extend(
            (f"{prefix}{name}.", value, depth + 1)
            for name, value in reversed(children)
            if isinstance(value, _Inert | dict)
        )


def _take(
    path: Path,
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    root: str,
    tensor: _Tensor,
    storages: dict[str, Tensor],
) -> Tensor:
    """Returns a tensor cut from its storage, whose bounds are checked."""
    storage = tensor.storage
    size, stride = tensor.size, tensor.stride
    numel: int = math.prod(list(size))
    is_whole = all(isinstance(value, int) and value >= 0 for value in (*size, *stride, tensor.offset))
    last = tensor.offset + sum((length - 1) * step for length, step in zip(size, stride, strict=False))
    # A tensor that repeats a small storage could fill the memory.
    if not is_whole or len(size) != len(stride) or numel > storage.numel or (numel and last >= storage.numel):
        raise YoloflowError(f"{path}: a tensor in it goes beyond its data; copy it again")
    if storage.key not in storages:
        member = members.get(f"{root}data/{storage.key}")
        if member is None or member.file_size < storage.numel * storage.dtype.itemsize:
            raise YoloflowError(f"{path}: the data of a tensor is missing; copy it again")
        data = bytearray(archive.read(member))[: storage.numel * storage.dtype.itemsize]
        storages[storage.key] = (
            torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
        )
    flat = storages[storage.key]
    if flat.dtype != storage.dtype or flat.numel() < storage.numel:
        raise YoloflowError(f"{path}: two tensors in it disagree on their data; copy it again")
    return flat.as_strided(size, stride, tensor.offset).clone()
