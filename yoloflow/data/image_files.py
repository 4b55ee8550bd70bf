"""Image files: a cheap check that one is whole, its size, and its pixels.

Sizes and pixels agree: both are after the rotation that the file's EXIF asks for.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from yoloflow.structures import Uint8Array, YoloflowError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"})
# Pillow loads its readers when first asked for one, which two threads must not do at the same time; so they
# are imported here. MPO comes as JPEG: its reader is entered from there.
_PILLOW_FORMATS = (
    BmpImagePlugin.BmpImageFile.format,
    GifImagePlugin.GifImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
)

SUFFIXES_OF_FORMAT: dict[str, tuple[str, ...]] = {
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpeg", ".jpg"),
    "MPO": (".jpeg", ".jpg", ".mpo"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""The suffixes that an image of each of Pillow's formats may have."""

_EXIF_ORIENTATION = 0x0112
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_STRIPS, _TIFF_TILES = (273, 279), (324, 325)
_TAIL_BYTES = 64
_JPEG_END = b"\xff\xd9"
_ENDS = {"JPEG": _JPEG_END, "MPO": _JPEG_END, "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
# 32-bit and float samples have no agreed white: nobody but the user can say how they become 8 bits.
_MODES_WITHOUT_WHITE = ("I", "F")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image, or what is wrong with the file.

    Attributes:
        height: in pixels after EXIF rotation, 0 where the file is not usable; width: likewise.
        problem_kind: None, or a kind of `data.problems`; detail: one sentence about it.
        file_format: Pillow's name of what the content is.
        is_turned: whether EXIF asks for a rotation or mirroring.
        warnings: what Pillow warns of.
    """

    height: int = 0
    width: int = 0
    problem_kind: str | None = None
    detail: str = ""
    file_format: str = ""
    is_turned: bool = False
    warnings: tuple[str, ...] = ()


def inspect_image(path: str) -> ImageHeader:
    """Size of an image, without decoding it unless its end looks cut off.

    A file that lacks its format's end (JPEG's EOI marker, PNG's IEND chunk, bytes that a TIFF, WebP, BMP or
    GIF promises) is decoded in full and called truncated only if that fails.
    """
    try:
        with open(path, "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes == 0:
                return ImageHeader(problem_kind="empty-image-file", detail="the file has zero bytes")
            return _inspect_open_file(file, num_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return ImageHeader(problem_kind="missing-image", detail=f"there is no file {path}")
    except Image.DecompressionBombError:
        return ImageHeader(
            problem_kind="image-too-large", detail="too many pixels to decode; cut it into tiles"
        )
    except (UnidentifiedImageError, IsADirectoryError):
        return ImageHeader(problem_kind="not-an-image", detail=_what_it_is_instead(path))
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError) as error:
        # Pillow's plug-ins raise all of these on headers that are damaged.
        return ImageHeader(problem_kind="not-an-image", detail=f"its header cannot be read ({error})")


def _inspect_open_file(file: BinaryIO, num_bytes: int) -> ImageHeader:
    head = file.read(12)
    # The one format that Pillow does not open at all when it is cut.
    if head[:4] == b"RIFF" and head[8:] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 > num_bytes:
        return ImageHeader(
            problem_kind="truncated-image", detail=f"the file breaks off after {num_bytes} bytes"
        )
    with Image.open(file, formats=_PILLOW_FORMATS) as image:
        width, height = _stored_size(image)
        if image.format == "TIFF" and image.mode in _MODES_WITHOUT_WHITE:
            return ImageHeader(
                problem_kind="unsupported-image", detail="32-bit samples; save it with 8 or 16 bits a channel"
            )
        # Reading the EXIF of a file that has none costs more than the rest of the inspection.
        may_turn = "exif" in image.info or image.format in ("TIFF", "MPO")
        orientation = _orientation(image) if may_turn else 1
        if orientation >= 5:
            width, height = height, width
        if not _ends_properly(image, file, num_bytes):
            try:
                image.load()
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                return ImageHeader(problem_kind="truncated-image", detail=f"the file breaks off ({error})")
        return ImageHeader(height, width, file_format=str(image.format), is_turned=orientation != 1)


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before any rotation."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    # Whether `size` of a TIFF is before or after its rotation depends on Pillow's version.
    return tags.get(_TIFF_WIDTH, image.width), tags.get(_TIFF_HEIGHT, image.height)


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ends_properly(image: Image.Image, file: BinaryIO, num_bytes: int) -> bool:
    """Returns whether the file reaches its format's end; False where only decoding can tell."""
    if image.format == "TIFF":
        return _tiff_parts_inside(image, num_bytes)
    if image.format == "WEBP":
        return True
    position = file.tell()
    try:
        if image.format == "BMP":
            file.seek(2)
            return 14 < int.from_bytes(file.read(4), "little") <= num_bytes
        file.seek(max(0, num_bytes - _TAIL_BYTES))
        return _tail_is(_ENDS[str(image.format)], file.read())
    finally:
        file.seek(position)


def _tail_is(end: bytes, tail: bytes) -> bool:
    """Returns whether a file ends so, but for zeros (which cameras add) and a newline (which editors add)."""
    return tail.rstrip(b"\0\r\n ").endswith(end)


def _tiff_parts_inside(image: Image.Image, num_bytes: int) -> bool:
    tags = getattr(image, "tag_v2", {})
    for offsets_tag, counts_tag in (_TIFF_STRIPS, _TIFF_TILES):
        offsets, counts = tags.get(offsets_tag), tags.get(counts_tag)
        if offsets and counts and len(offsets) == len(counts):
            return all(start + count <= num_bytes for start, count in zip(offsets, counts, strict=True))
    return False


def _what_it_is_instead(path: str) -> str:
    if os.path.isdir(path):
        return "it is a folder"
    with open(path, "rb") as file:
        return _what_begins_with(file.read(16))


def _what_begins_with(head: bytes) -> str:
    supported = ", ".join(name.lower() for name in _PILLOW_FORMATS)
    return f"its content (it begins with {head!r}) is none of {supported}"


def decode_image(path: str) -> Uint8Array:
    """Pixels of an image file as the network will see them.

    The rotation that EXIF asks for is applied. 16-bit samples are scaled to 8 bits (not clipped), CMYK
    becomes BGR, grey gets three equal channels, and an alpha channel is dropped: colours under transparent
    pixels stay as they are in the file. Of an animation, the first frame.

    Args:
        path: a bmp, gif, jpeg, mpo, png, tiff or webp file.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        YoloflowError: the file is missing, empty, cut off or not an image; the message names it.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise YoloflowError(f"{path}: the image cannot be read ({error.strerror})") from error
    return decode_bytes(data, path)


def decode_bytes(data: bytes, path: str) -> Uint8Array:
    """Pixels of the content of an image file, as `decode_image` gives them; `path` names it in errors.

    Raises:
        YoloflowError: it is empty, cut off or not an image.
    """
    if not data:
        raise YoloflowError(f"{path}: the image file has zero bytes; remove it or fetch it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise YoloflowError(f"{path}: the image cannot be decoded ({error.err})") from error
    # Some OpenCV builds fill the rest of a cut JPEG with grey, others refuse it: Pillow decides.
    if image is None or (data[:2] == b"\xff\xd8" and not _tail_is(_JPEG_END, data[-_TAIL_BYTES:])):
        return _decode_with_pillow(path, data)
    return np.asarray(image, np.uint8)


def _decode_with_pillow(path: str, data: bytes) -> Uint8Array:
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            if image.mode.startswith(_MODES_WITHOUT_WHITE):
                raise YoloflowError(f"{path}: {image.mode} samples; save it with 8 or 16 bits a channel")
            rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise YoloflowError(
            f"{path}: not an image, whatever its name says ({_what_begins_with(data[:16])})"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise YoloflowError(f"{path}: the image is damaged or cut off ({error}); fetch it again") from error
    return np.ascontiguousarray(rgb[..., ::-1])
