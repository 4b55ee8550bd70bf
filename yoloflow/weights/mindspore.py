"""MindSpore's checkpoint files (.ckpt), read and written without MindSpore.

A file is a row of protobuf messages `Checkpoint`, each with one named tensor: dims, type and raw bytes
(mindspore/train/checkpoint.proto). Tensors over 512 MiB come in pieces of the same name. The end may be a
checksum. Nothing of a file is executed, and it takes no more memory than twice its size.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from yoloflow.files import write_atomically
from yoloflow.structures import YoloflowError
from yoloflow.weights.protobuf import VARINT, Field, block, read_fields, read_numbers, tagged, varint

DTYPES = {
    "Int8": torch.int8,
    "UInt8": torch.uint8,
    "Int16": torch.int16,
    "UInt16": torch.uint16,
    "Int32": torch.int32,
    "UInt32": torch.uint32,
    "Int64": torch.int64,
    "UInt64": torch.uint64,
    "Float16": torch.float16,
    "Float32": torch.float32,
    "Float64": torch.float64,
    "BFloat16": torch.bfloat16,
    "Bool": torch.bool,
    "str": torch.uint8,
}
_TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "str"}
_CHECKSUM_MARK = b"crc_num"
_CHECKSUM_BYTES = 10
_PIECE_BYTES = 512 << 20


def looks_like_mindspore(head: bytes) -> bool:
    """Returns whether the first bytes of a file may begin a checkpoint with a named tensor."""
    try:
        message = next(read_fields(head, 0, len(head), is_whole=False))
        tag = next(read_fields(head, message.start, len(head), is_whole=False))
    except (YoloflowError, StopIteration):
        return False
    name = head[tag.start : tag.end]
    return message.number == 1 and tag.number == 1 and len(name) > 0 and name.isascii()


def read_mindspore(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a MindSpore checkpoint by name, in the file's order.

    Raises:
        YoloflowError: the file is cut, damaged, encrypted or something else; the message says where.
    """
    content = path.read_bytes()
    end = _end_of_messages(path, content)
    tensors: dict[str, Tensor] = {}
    try:
        parts = (_tensor(content, message) for message in read_fields(content, 0, end))
        for (name, dims, kind), alike in groupby(parts, key=lambda part: part[:3]):
            if name in tensors:
                raise YoloflowError(f"{name!r} is in it twice")
            tensors[name] = _joined(name, dims, kind, [piece for *_, piece in alike])
    except YoloflowError as error:
        raise YoloflowError(f"{path}: no whole MindSpore checkpoint: {error}; copy it again") from None
    if not tensors:
        raise YoloflowError(f"{path}: no whole MindSpore checkpoint: it has no tensor; copy it again")
    return tensors


def write_mindspore(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as a MindSpore checkpoint, whole or not at all.

    Args:
        path: the file; its folder must exist.
        tensors: by MindSpore's names, of any device.

    Raises:
        YoloflowError: MindSpore has no such type.
    """
    parts: list[bytes] = []
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPE_NAMES:
            raise YoloflowError(f"{path}: MindSpore has no type for {name}, which is {tensor.dtype}")
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        dims = b"".join(tagged(1, VARINT) + varint(size) for size in tensor.shape)
        kind = block(2, _TYPE_NAMES[tensor.dtype].encode())
        for start in range(0, max(len(raw), 1), _PIECE_BYTES):
            body = dims + kind + block(3, raw[start : start + _PIECE_BYTES])
            parts.append(block(1, block(1, name.encode()) + block(2, body)))
    write_atomically(path, b"".join(parts))


def _end_of_messages(path: Path, content: bytes) -> int:
    """Returns where the messages end: before the checksum, which is compared."""
    end = len(content) - len(_CHECKSUM_MARK) - _CHECKSUM_BYTES
    if end < 0 or content[end : end + len(_CHECKSUM_MARK)] != _CHECKSUM_MARK:
        return len(content)
    stated = int.from_bytes(content[-_CHECKSUM_BYTES:], "big")
    if zlib.crc32(memoryview(content)[:end]) != stated:
        raise YoloflowError(f"{path}: damaged: its bytes do not have the checksum at its end; copy it again")
    return end


def _tensor(content: bytes, message: Field) -> tuple[str, list[int], str, bytes]:
    """Returns name, dims, type and bytes of a message."""
    if message.number != 1:
        raise YoloflowError(f"field {message.number} at byte {message.start} is of no checkpoint")
    parts = {field.number: field for field in read_fields(content, message.start, message.end)}
    if 3 in parts:
        raise YoloflowError(f"the value at byte {message.start} is a map, which networks do not have")
    if parts.keys() != {1, 2}:
        raise YoloflowError(f"the value at byte {message.start} has no name or no tensor")
    name = _text(content, parts[1])
    dims: list[int] = []
    kind, piece = "", None
    for field in read_fields(content, parts[2].start, parts[2].end):
        if field.number == 1:
            dims += read_numbers(content, field)
        elif field.number == 2:
            kind = _text(content, field)
        elif field.number == 3:
            piece = content[field.start : field.end]
    if kind not in DTYPES or piece is None:
        raise YoloflowError(f"{name!r} is of type {kind!r}, which is not known")
    return name, dims, kind, piece


def _joined(name: str, dims: list[int], kind: str, pieces: list[bytes]) -> Tensor:
    dtype = DTYPES[kind]
    data = bytearray(b"".join(pieces))
    shape = [] if dims == [0] else dims  # MindSpore's own way to write a scalar
    expected = math.prod(shape) * dtype.itemsize
    if kind == "str":
        shape, expected = [len(data)], len(data)
    if len(data) != expected:
        raise YoloflowError(f"{name!r} has {len(data):,} bytes, but {dims} of {kind} take {expected:,}")
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def _text(content: bytes, field: Field) -> str:
    try:
        return content[field.start : field.end].decode()
    except UnicodeDecodeError:
        raise YoloflowError(f"the name at byte {field.start} is no text") from None
