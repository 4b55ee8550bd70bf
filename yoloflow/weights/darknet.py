"""Darknet's weights files (.weights): a header, then the values of all layers, without names or shapes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yoloflow.structures import YoloflowError

_VERSION = struct.Struct("<3i")
_NEWEST_REVISION = 100


class DarknetFile(NamedTuple):
    """The content of a Darknet file.

    Attributes:
        values: (N,) float32, those of all layers, one after the other.
        producer: the version that wrote it, and how many images it has seen.
    """

    values: Tensor
    producer: str


def looks_like_darknet(head: bytes) -> bool:
    """Returns whether the first bytes of a file may begin Darknet's header: version 0.1.x or 0.2.x."""
    if len(head) < _VERSION.size:
        return False
    major, minor, revision = _VERSION.unpack_from(head)
    return major == 0 and minor in (1, 2) and 0 <= revision < _NEWEST_REVISION


def read_darknet(path: Path) -> DarknetFile:
    """Reads the values of a Darknet file; it takes as much memory as the file is large.

    Raises:
        YoloflowError: the values do not come out even, or there are none.
    """
    with path.open("rb") as file:
        major, minor, revision = _VERSION.unpack(file.read(_VERSION.size))
        # The number of images seen has 64 bits since version 0.2.
        seen = file.read(8 if minor >= 2 else 4)
        content = bytearray(file.read())
    if not content or len(content) % 4:
        raise YoloflowError(
            f"{path}: no whole Darknet file: {len(content):,} bytes after its header are no whole number of "
            "4-byte values; copy it again"
        )
    values = torch.from_numpy(np.frombuffer(content, "<f4"))
    images = int.from_bytes(seen, "little")
    return DarknetFile(values, f"Darknet {major}.{minor}.{revision}, {images:,} images seen")
