"""Image files: a cheap check that one is whole, its size, and its pixels.

Sizes and pixels agree: both are after the rotation that the file's EXIF asks for.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import cv2
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from yoloflow.data.jpeg_header import JPEG_END, TAIL_BYTES, size_of_plain_jpeg, tail_is
from yoloflow.structures import Uint8Array, YoloflowError

# Pillow loads its readers when first asked for one, which two threads must not do at the same time; so they
# are imported here. MPO comes as JPEG: its reader is entered from there.
_PILLOW_FORMATS = (
    BmpImagePlugin.BmpImageFile.format,
    GifImagePlugin.GifImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    *([Jpeg2KImagePlugin.Jpeg2KImageFile.format] if features.check("jpg_2000") else []),
    *([AvifImagePlugin.AvifImageFile.format] if features.check("avif") else []),
)
# It has no mark at its beginning: any file might be one.
_TGA, _TGA_SUFFIX = TgaImagePlugin.TgaImageFile.format, ".tga"

SUFFIXES_OF_FORMAT: dict[str, tuple[str, ...]] = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".jpeg", ".jpg", ".jfif", ".jpe", ".jif"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "MPO": (".jpeg", ".jpg", ".mpo"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (_TGA_SUFFIX,),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""The suffixes that an image of each of Pillow's formats may have."""

_RAW_OF_CAMERA = frozenset([".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".srw"])
_UNREAD = _RAW_OF_CAMERA | {".dcm", ".exr", ".hdr", ".jls", ".jxl", ".jxr", ".pcx", ".pfm", ".psd", ".sgi"}
DRAWING_SUFFIXES = frozenset([".eps", ".icns", ".ico", ".svg"])
"""Suffixes of icons and drawings: named where they lie among a set's images, and not looked for elsewhere."""

IMAGE_SUFFIXES = _UNREAD.union(DRAWING_SUFFIXES, *SUFFIXES_OF_FORMAT.values())
"""Suffixes of all that is an image, be it one that can be read or not: what cannot be is counted."""

_EXIF_ORIENTATION = 0x0112
_MARKS = {"JPEG": b"\xff\xd8", "PNG": b"\x89PNG", "GIF": b"GIF8", "WebP": b"RIFF", "AVIF": b"\0\0\0 ftypavi"}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_INSTALL_HEIF = "pip install pillow-heif (or 'yoloflow[heif]')"
_TIFF_MARKS = (b"II*\0", b"MM\0*")
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_STRIPS, _TIFF_TILES = (273, 279), (324, 325)
_ENDS = {"JPEG": JPEG_END, "MPO": JPEG_END, "JPEG2000": JPEG_END, "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
# 32-bit and float samples have no agreed white: nobody but the user can say how they become 8 bits.
_MODES_WITHOUT_WHITE = ("I", "F")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image, or what is wrong with the file.

    Attributes:
        height: in pixels after EXIF rotation, 0 where the file is not usable; width: likewise.
        problem_kind: None, or a kind of `data.problems`; detail: one sentence about it.
        file_format: Pillow's name of what the content is.
        orientation: how EXIF asks for the image to be turned or mirrored, 1 for not at all.
        xmp_orientation: how XMP asks for it where EXIF does not; this is not done.
        warnings: what Pillow warns of.
    """

    height: int = 0
    width: int = 0
    problem_kind: str | None = None
    detail: str = ""
    file_format: str = ""
    orientation: int = 1
    xmp_orientation: int = 1
    warnings: tuple[str, ...] = ()


def inspect_image(path: str) -> ImageHeader:
    """Size of an image, without decoding it unless its end looks cut off.

    A file that lacks its format's end (JPEG's EOI marker, PNG's IEND chunk, bytes that a TIFF, WebP, BMP or
    GIF promises) is decoded in full and called truncated only if that fails.
    """
    try:
        if (size_hw := size_of_plain_jpeg(path)) is not None:
            return ImageHeader(*size_hw, file_format="JPEG")
        with open(path, "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes == 0:
                return ImageHeader(problem_kind="empty-image-file", detail="the file has zero bytes")
            return _inspect_open_file(path, file, num_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return ImageHeader(problem_kind="missing-image", detail=f"there is no file {path}")
    except Image.DecompressionBombError:
        return ImageHeader(
            problem_kind="image-too-large", detail="too many pixels to decode; cut it into tiles"
        )
    except (UnidentifiedImageError, IsADirectoryError):
        kind, detail = _what_it_is_instead(path)
        return ImageHeader(problem_kind=kind, detail=detail)
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError) as error:
        # Pillow's plug-ins raise all of these on headers that are damaged.
        return ImageHeader(problem_kind="not-an-image", detail=f"its header cannot be read ({error})")


def _formats_of(path: str, head: bytes) -> tuple[str, ...]:
    if _is_heif(head):
        return (*_PILLOW_FORMATS, *_heif_format())
    return (*_PILLOW_FORMATS, _TGA) if path.lower().endswith(_TGA_SUFFIX) else _PILLOW_FORMATS


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


@cache
def _heif_format() -> tuple[str, ...]:
    """Returns Pillow's name of HEIF, empty without the package that reads it."""
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _inspect_open_file(path: str, file: BinaryIO, num_bytes: int) -> ImageHeader:
    head = file.read(12)
    if _is_raw_of_camera(head, path):
        raise UnidentifiedImageError(path)
    is_webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    # The formats that Pillow does not open at all when they are cut.
    if (is_webp and int.from_bytes(head[4:8], "little") + 8 > num_bytes) or (
        (head[4:11] == b"ftypavi" or _is_heif(head)) and not _boxes_inside(file, num_bytes)
    ):
        return ImageHeader(
            problem_kind="truncated-image", detail=f"the file breaks off after {num_bytes} bytes"
        )
    with Image.open(file, formats=_formats_of(path, head)) as image:
        width, height = _stored_size(image)
        if image.format == "TIFF" and image.mode in _MODES_WITHOUT_WHITE:
            return ImageHeader(
                problem_kind="unsupported-image", detail="32-bit samples; save it with 8 or 16 bits a channel"
            )
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        if not _ends_properly(image, file, num_bytes):
            try:
                image.load()
            except (OSError, ValueError, SyntaxError, EOFError) as error:
                return ImageHeader(problem_kind="truncated-image", detail=f"the file breaks off ({error})")
        xmp = _valid_orientation(image.getexif()) if "xmp" in image.info and orientation == 1 else 1
        return ImageHeader(height, width, None, "", str(image.format), orientation, xmp)


def format_by_content(path: str) -> str:
    """Returns what image a file is by its first bytes; "" where they are those of none that is read."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head.startswith(_TIFF_MARKS):
        return "TIFF"
    if _is_heif(head) or head[4:11] == b"ftypavi":
        return "HEIF" if _is_heif(head) else "AVIF"
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP"
    names = (name for name, mark in _MARKS.items() if head.startswith(mark))
    return next((name for name in names if name != "WebP" or head[8:12] == b"WEBP"), "")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before any rotation."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    # Whether `size` of a TIFF is before or after its rotation depends on Pillow's version.
    return tags.get(_TIFF_WIDTH, image.width), tags.get(_TIFF_HEIGHT, image.height)


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, as OpenCV reads it; Pillow takes XMP's where EXIF has none."""
    if image.format == "TIFF":
        return _valid_orientation(getattr(image, "tag_v2", {}))
    if "exif" not in image.info:
        return 1
    exif = Image.Exif()
    exif.load(image.info["exif"])
    return _valid_orientation(exif)


def turned_by_exif(image: Image.Image) -> Image.Image:
    """Returns a Pillow image turned as EXIF asks; as it is where only XMP asks."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _valid_orientation(tags: Mapping[int, object]) -> int:
    value = tags.get(_EXIF_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ends_properly(image: Image.Image, file: BinaryIO, num_bytes: int) -> bool:
    """Returns whether the file reaches its format's end; False where only decoding can tell."""
    if image.format == "TIFF":
        return _tiff_parts_inside(image, num_bytes)
    if image.format in ("WEBP", "AVIF", "HEIF"):  # looked at before they were opened
        return True
    if image.format in ("PPM", "TGA"):
        return False
    position = file.tell()
    try:
        if image.format == "BMP":
            file.seek(2)
            return 14 < int.from_bytes(file.read(4), "little") <= num_bytes
        file.seek(max(0, num_bytes - TAIL_BYTES))
        return tail_is(_ENDS[str(image.format)], file.read())
    finally:
        file.seek(position)


def _tiff_parts_inside(image: Image.Image, num_bytes: int) -> bool:
    tags = getattr(image, "tag_v2", {})
    for offsets_tag, counts_tag in (_TIFF_STRIPS, _TIFF_TILES):
        offsets, counts = tags.get(offsets_tag), tags.get(counts_tag)
        if offsets and counts and len(offsets) == len(counts):
            return all(start + count <= num_bytes for start, count in zip(offsets, counts, strict=True))
    return False


def _is_raw_of_camera(head: bytes, path: str) -> bool:
    """Returns whether a file is a TIFF by its mark only: what libraries read of it is a thumbnail."""
    return head[:4] in _TIFF_MARKS and os.path.splitext(path)[1].lower() in _UNREAD


def _boxes_inside(file: BinaryIO, num_bytes: int) -> bool:
    """Returns whether the boxes of which an AVIF or HEIF file is made end in it."""
    position = 0
    while position < num_bytes:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = {0: num_bytes - position, 1: int.from_bytes(head[8:], "big")}.get(size, size)
        if size < 8:
            return False
        position += size
    return position == num_bytes


def _what_it_is_instead(path: str) -> tuple[str, str]:
    """Returns the kind of problem of a file that Pillow does not open, and a sentence."""
    if os.path.isdir(path):
        return "not-an-image", "it is a folder"
    with open(path, "rb") as file:
        return _what_begins_with(file.read(16), path)


def _what_begins_with(head: bytes, path: str) -> tuple[str, str]:
    suffix = os.path.splitext(path)[1].lower()
    read_none = "the installed libraries read no {} images; save it as JPEG or PNG"
    if _is_heif(head) and _heif_format():
        return "unsupported-image", "a HEIC image that pillow-heif does not read; save it as JPEG or PNG"
    if _is_heif(head) or suffix in SUFFIXES_OF_FORMAT["HEIF"]:
        return "unsupported-image", f"{read_none.format('HEIC')}, or {_INSTALL_HEIF}"
    if head[4:11] == b"ftypavi" and not features.check("avif"):
        return "unsupported-image", f"{read_none.format('AVIF')}, or pip install --upgrade pillow"
    if suffix in _UNREAD | DRAWING_SUFFIXES:
        return "unsupported-image", read_none.format(suffix)
    if head[:4] in _TIFF_MARKS:
        detail = "a TIFF of float samples, or of another kind that cannot be read; save it with 8 or 16 bits"
        return "unsupported-image", f"{detail} a channel"
    for name, mark in _MARKS.items():
        if head.startswith(mark):
            return "not-an-image", f"begins as {name}, but breaks off or is damaged before its size is given"
    supported = ", ".join(name.lower() for name in _PILLOW_FORMATS)
    return "not-an-image", f"its content (it begins with {head!r}) is none of {supported}"


def decode_image(path: str) -> Uint8Array:
    """Pixels of an image file as the network will see them.

    The rotation that EXIF asks for is applied. 16-bit samples are scaled to 8 bits (not clipped), CMYK
    becomes BGR, grey gets three equal channels, and an alpha channel is dropped: colours under transparent
    pixels stay as they are in the file. Of an animation, the first frame.

    Args:
        path: a file of a format of `SUFFIXES_OF_FORMAT`.

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
    if _is_raw_of_camera(data, path):
        raise YoloflowError(
            f"{path}: not an image that can be read ({_what_begins_with(data[:16], path)[1]})"
        )
    if data[4:11] == b"ftypavi" or _is_heif(data[:12]):  # OpenCV does not turn it
        return _decode_with_pillow(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise YoloflowError(f"{path}: the image cannot be decoded ({error.err})") from error
    # Some OpenCV builds fill the rest of a cut JPEG with grey, others refuse it: Pillow decides.
    if image is None or (data[:2] == b"\xff\xd8" and not tail_is(JPEG_END, data[-TAIL_BYTES:])):
        return _decode_with_pillow(path, data)
    return np.asarray(image, np.uint8)


def _decode_with_pillow(path: str, data: bytes) -> Uint8Array:
    try:
        with Image.open(io.BytesIO(data), formats=_formats_of(path, data[:12])) as image:
            if image.mode.startswith(_MODES_WITHOUT_WHITE):
                raise YoloflowError(f"{path}: {image.mode} samples; save it with 8 or 16 bits a channel")
            rgb = np.asarray(turned_by_exif(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise YoloflowError(
            f"{path}: not an image that can be read ({_what_begins_with(data[:16], path)[1]})"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise YoloflowError(f"{path}: the image is damaged or cut off ({error}); fetch it again") from error
    return np.ascontiguousarray(rgb[..., ::-1])
