"""The convolutions of an ONNX file, in the order of its graph; read without the package onnx."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from yoloflow.structures import YoloflowError
from yoloflow.weights.protobuf import Field, read_fields, read_numbers

Convolution = tuple[Tensor, Tensor | None]
"""Kernel (out, in / groups, kh, kw) and bias (out,)."""

METADATA_KEY = "yoloflow"
"""Where the metadata of a file of `yoloflow export` say how to use it."""

# Field numbers of onnx.proto.
_GRAPH, _METADATA, _NODE, _INITIALIZER = 7, 14, 1, 5
_INPUT, _OPERATOR = 1, 4
_DIMS, _TYPE, _FLOATS, _NAME, _RAW = 1, 2, 4, 8, 9
_DTYPES = {1: torch.float32, 10: torch.float16}
_NEWEST_FORMAT = 32


def looks_like_onnx(head: bytes) -> bool:
    """Returns whether the first bytes of a file may begin an ONNX model: its format's number, then more."""
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < _NEWEST_FORMAT and head[2] & 7 in (0, 2)


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Reads the texts that an ONNX file says of itself; none where it is damaged."""
    content = path.read_bytes()
    found = {}
    try:
        for field in read_fields(content, 0, len(content)):
            if field.number == _METADATA:
                parts = [
                    content[part.start : part.end] for part in read_fields(content, field.start, field.end)
                ]
                key, text = (part.decode(errors="replace") for part in parts[:2])
                found[key] = text
    except (YoloflowError, ValueError):
        return {}
    return found


def read_onnx_convolutions(path: Path) -> list[Convolution]:
    """Reads the kernels and biases of all convolutions, in the order in which they are computed.

    Raises:
        YoloflowError: the file is damaged, or its kernels are not in it as floating-point numbers.
    """
    content = path.read_bytes()
    try:
        graph = _only(read_fields(content, 0, len(content)), _GRAPH)
        nodes, stored = [], {}
        for field in read_fields(content, graph.start, graph.end):
            if field.number == _NODE:
                nodes.append(field)
            elif field.number == _INITIALIZER:
                name, tensor = _tensor(content, field)
                stored[name] = tensor
        found = []
        for node in nodes:
            parts = list(read_fields(content, node.start, node.end))
            operator = [content[part.start : part.end] for part in parts if part.number == _OPERATOR]
            if operator == [b"Conv"]:
                names = [content[part.start : part.end] for part in parts if part.number == _INPUT]
                found.append(_convolution(names[1:], stored))
    except YoloflowError as error:
        if METADATA_KEY in read_onnx_metadata(path):
            raise YoloflowError(
                f"{path}: is a file of `yoloflow export`, good for `test` and `predict`; it gives no "
                "weights, as BatchNorm is folded in it and its graph changed: give the run, or its "
                ".safetensors file"
            ) from None
        raise YoloflowError(f"{path}: not a readable ONNX file of a network: {error}") from None
    if not found:
        raise YoloflowError(f"{path}: there is no convolution in this ONNX file")
    return found


def _only(fields: Iterable[Field], number: int) -> Field:
    found = [field for field in fields if field.number == number]
    if len(found) != 1:
        raise YoloflowError("it has no graph")
    return found[0]


def _convolution(names: list[bytes], stored: dict[bytes, Tensor | None]) -> Convolution:
    tensors = [stored.get(name) for name in names]
    if not tensors or any(tensor is None for tensor in tensors):
        raise YoloflowError("a kernel is computed, or stored as integers: a quantised file gives no weights")
    kernel = tensors[0]
    assert kernel is not None
    return kernel, tensors[1] if len(tensors) > 1 else None


def _tensor(content: bytes, message: Field) -> tuple[bytes, Tensor | None]:
    """Returns name and value of an initialiser; None for types that no kernel has."""
    dims: list[int] = []
    name, kind, data = b"", 0, b""
    for field in read_fields(content, message.start, message.end):
        if field.number == _DIMS:
            dims += read_numbers(content, field)
        elif field.number == _TYPE:
            kind = field.value
        elif field.number == _NAME:
            name = content[field.start : field.end]
        elif field.number in (_RAW, _FLOATS):
            data += content[field.start : field.end]
    if kind not in _DTYPES:
        return name, None
    dtype = _DTYPES[kind]
    if len(data) != math.prod(dims) * dtype.itemsize:
        raise YoloflowError(
            f"{name.decode(errors='replace')!r} has {len(data):,} bytes for {dims}; a file with external "
            "data cannot be read alone"
        )
    return name, torch.frombuffer(bytearray(data), dtype=dtype).reshape(dims).float() if data else None
