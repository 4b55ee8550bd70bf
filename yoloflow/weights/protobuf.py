"""Protobuf's wire format: the fields of a message, read and written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from yoloflow.structures import YoloflowError

VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a protobuf message: its number, and an integer or the span of its bytes in the file."""

    number: int
    value: int
    start: int
    end: int


def read_fields(content: bytes, start: int, end: int, is_whole: bool = True) -> Iterator[Field]:
    """Yields the fields of a message between two places of a file.

    Args:
        content: the file.
        start: of the message.
        end: of the message.
        is_whole: refuse fields that go beyond `end`; else they end there.
    """
    position = start
    while position < end:
        key, position = read_varint(content, position, end)
        number, wire_type = key >> 3, key & 7
        if wire_type in (_EIGHT_BYTES, _FOUR_BYTES) and is_whole:
            size = 8 if wire_type == _EIGHT_BYTES else 4
            if size > end - position:
                raise YoloflowError(f"it ends at byte {end}")
            yield Field(number, 0, position, position + size)
            position += size
            continue
        value, position = read_varint(content, position, end)
        if wire_type == VARINT:
            yield Field(number, value, position, position)
        elif wire_type == _BYTES:
            if is_whole and value > end - position:
                raise YoloflowError(
                    f"at byte {position} {value:,} bytes should follow, but there are {end - position:,}"
                )
            yield Field(number, value, position, min(position + value, end))
            position += value
        else:
            raise YoloflowError(f"byte {position} does not belong there")


def read_numbers(content: bytes, field: Field) -> list[int]:
    """Returns the whole numbers of a repeated field: one by itself, or all in the packed form."""
    if field.start == field.end:
        return [field.value]
    numbers, position = [], field.start
    while position < field.end:
        number, position = read_varint(content, position, field.end)
        numbers.append(number)
    return numbers


def read_varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """Returns a whole number of up to 63 bits, and the place after it."""
    value = shift = 0
    while position < end and shift < 63:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise YoloflowError(f"byte {position} does not belong there" if shift else f"it ends at byte {position}")


def varint(value: int) -> bytes:
    """Returns a whole number as protobuf writes it."""
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def tagged(number: int, wire_type: int) -> bytes:
    """Returns the key of a field."""
    return varint(number << 3 | wire_type)


def block(number: int, body: bytes) -> bytes:
    """Returns a field of bytes: its key, its length and itself."""
    return tagged(number, _BYTES) + varint(len(body)) + body
