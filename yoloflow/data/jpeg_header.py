"""The size of a JPEG in which there is nothing unusual, many times as fast as Pillow finds it."""

from __future__ import annotations

import os

TAIL_BYTES = 64
"""Bytes at a file's end in which its format's end is looked for."""
JPEG_END = b"\xff\xd9"

_HEAD_BYTES = 8192
_START_OF_SCAN, _COMMENT, _APP0, _ICC = 0xDA, 0xFE, 0xE0, 0xE2
_TABLES, _HUFFMAN, _RESTART = 0xDB, 0xC4, 0xDD
_FRAMES = (0xC0, 0xC1, 0xC2)
# Pillow warns of more.
_MOST_PIXELS = 80_000_000


def size_of_plain_jpeg(path: str) -> tuple[int, int] | None:
    """Returns height and width; None where a file is no JPEG, or not of the usual kind, and Pillow must look.

    Usual are 8 bits, grey or three colours, an end that is there, and no segment but JFIF's, tables, comments
    and a colour profile: no EXIF, so nothing turns the image.

    Raises:
        OSError: the file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        head = os.read(descriptor, _HEAD_BYTES)
        if head[:3] != b"\xff\xd8\xff":
            return None
        tail = head[-TAIL_BYTES:]
        if len(head) == _HEAD_BYTES:
            os.lseek(descriptor, -TAIL_BYTES, os.SEEK_END)
            tail = os.read(descriptor, TAIL_BYTES)
    finally:
        os.close(descriptor)
    return _size_in(head) if tail_is(JPEG_END, tail) else None


def tail_is(end: bytes, tail: bytes) -> bool:
    """Returns whether a file ends so, but for zeros (which cameras add) and a newline (which editors add)."""
    return tail.rstrip(b"\0\r\n ").endswith(end)


def _size_in(head: bytes) -> tuple[int, int] | None:
    """Returns the size that stands in the one frame header before the scan, if all before it is usual."""
    size, position = None, 2
    while position + 4 <= len(head):
        mark, kind = head[position : position + 2]
        length = int.from_bytes(head[position + 2 : position + 4], "big")
        content = head[position + 4 : position + 2 + length]
        if mark != 0xFF or length < 2 or len(content) != length - 2:
            return None
        if kind == _START_OF_SCAN:
            return size
        if kind in _FRAMES:
            if size is not None or not _is_usual_frame(content):
                return None
            size = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
        elif not _is_usual(kind, content):
            return None
        position += 2 + length
    return None


def _is_usual_frame(content: bytes) -> bool:
    """Returns whether a frame has 8 bits, one or three components and a size."""
    if len(content) < 6 or content[0] != 8 or content[5] not in (1, 3) or len(content) != 6 + 3 * content[5]:
        return False
    num_pixels = int.from_bytes(content[1:3], "big") * int.from_bytes(content[3:5], "big")
    return 0 < num_pixels <= _MOST_PIXELS


def _is_usual(kind: int, content: bytes) -> bool:
    """Returns whether a segment before the scan says nothing that Pillow should judge."""
    if kind == _APP0:
        return len(content) >= 12 and content.startswith(b"JFIF\0")
    if kind == _ICC:
        return len(content) >= 18 and content.startswith(b"ICC_PROFILE\0")
    if kind == _TABLES:
        return len(content) % 65 == 0 and all(table < 16 for table in content[::65])
    return kind in (_HUFFMAN, _RESTART, _COMMENT)
