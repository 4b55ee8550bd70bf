"""The identity of a file's content without reading it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from yoloflow.structures import Int64Array


def file_identities(paths: Sequence[str]) -> Int64Array:
    """Returns (N, 4) size, times of change of content and entry, and inode; -1 where there is no file.

    No program can write to a file and leave all of them: the time of change of the entry is the kernel's own.
    """
    rows = np.full((len(paths), 4), -1, np.int64)
    for row, path in enumerate(paths):
        try:
            found = os.stat(path)
        except OSError:
            continue
        rows[row] = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & (2**63 - 1)
    return rows


def digest(*parts: str | bytes) -> str:
    """Returns a name for content: 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()
