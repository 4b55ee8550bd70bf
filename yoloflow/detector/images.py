"""Images as they are given in Python: files, folders, patterns, PIL images, arrays, encoded bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import TextIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from yoloflow.data.decoder_messages import decode_named
from yoloflow.data.image_files import decode_bytes, turned_by_exif
from yoloflow.data.read_ahead import read_frames
from yoloflow.data.sources import STANDARD_INPUT, VIDEO_SUFFIXES, Frame, camera_device, open_sources
from yoloflow.structures import Uint8Array, YoloflowError

ImageInput = str | Path | bytes | IO[bytes] | Uint8Array | Image.Image
"""An image: its file (or a folder or pattern of such), pixels, a PIL image, a file's content or an open file.

Pixels are (H, W, 3) uint8, BGR as OpenCV reads them, (H, W) or (H, W, 1) grey, or (H, W, 4) with an alpha
channel, which is dropped.
"""

_ONE_IMAGE = (str, Path, bytes, bytearray, np.ndarray, Image.Image)


def read_images(images: ImageInput | Iterable[ImageInput]) -> Iterator[Frame]:
    """Yields the images, one after the other.

    Files in folders and patterns that cannot be read are logged and passed over.

    Args:
        images: one or several.

    Raises:
        YoloflowError: a file that is named cannot be read, or something given is no image.
    """
    if isinstance(images, _ONE_IMAGE) or hasattr(images, "read"):
        yield from _frames(images, "images")
        return
    if not isinstance(images, Iterable):
        raise _no_image(images, "images")
    for place, image in enumerate(images):
        yield from _frames(image, f"images[{place}]")


def source_names(sources: str | Path | Iterable[str | Path]) -> list[str]:
    """Returns one or several sources of a stream as texts.

    Raises:
        YoloflowError: something given is no name of a source.
    """
    several = (
        [sources] if isinstance(sources, str | Path) or not isinstance(sources, Iterable) else [*sources]
    )
    if not all(isinstance(source, str | Path) for source in several):
        raise YoloflowError(
            f"sources: {type(sources).__name__} holds no names of sources; give files, folders, patterns, "
            "'camera:0' or addresses; images in memory are for the detector itself: detector(images)"
        )
    return [str(source) for source in several]


def _frames(image: object, place: str) -> Iterator[Frame]:
    if isinstance(image, str | Path):
        yield from _of_name(str(image))
    elif isinstance(image, np.ndarray):
        yield Frame(Path(), _of_array(image, place), name="")
    elif isinstance(image, Image.Image):
        yield Frame(Path(), _of_pillow(image, place))
    elif isinstance(image, bytes | bytearray):
        yield Frame(Path(), decode_bytes(bytes(image), place))
    elif hasattr(image, "read"):
        yield Frame(Path(), decode_bytes(_content(image, place), place))
    else:
        raise _no_image(image, place)


def _of_name(name: str) -> Iterator[Frame]:
    path = Path(name).expanduser()
    if name == STANDARD_INPUT or camera_device(name) is not None:
        raise YoloflowError(f"{name}: a stream has no list of results; use detector.stream({name!r})")
    if path.is_file() and path.suffix.lower() not in VIDEO_SUFFIXES:
        yield Frame(path, decode_named(str(path)))
        return
    sources = open_sources([name])
    for source in sources:
        if isinstance(source, Path) and source.suffix.lower() in VIDEO_SUFFIXES:
            raise YoloflowError(
                f"{source}: is a video, whose frames fill the memory; "
                f"use detector.stream({name!r}), which gives them one by one"
            )
    yield from read_frames(sources, [])


def _content(file: Any, place: str) -> bytes:
    if isinstance(file, TextIOBase):
        raise YoloflowError(f"{place}: a file that is open for text; open it with mode 'rb'")
    content: bytes = file.read()
    if not content:
        raise YoloflowError(f"{place}: nothing is left to read; go back to the file's beginning: seek(0)")
    return content


def _of_array(image: np.ndarray, place: str) -> Uint8Array:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 3, 4) or image.dtype != np.uint8 or not image.size:
        raise YoloflowError(
            f"{place}: should be (H, W, 3) uint8, BGR (or grey, or with alpha); found {image.shape} "
            f"{image.dtype}{_advice(image)}"
        )
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., :3])


def _advice(image: np.ndarray) -> str:
    if image.ndim == 4:
        return "; give a batch as a list of images: list(batch)"
    if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
        return "; channels come last: image.transpose(1, 2, 0)"
    if np.issubdtype(image.dtype, np.floating) and image.size and 0 <= image.min() <= image.max() <= 1:
        return "; scale it: (image * 255).astype('uint8')"
    return ""


def _of_pillow(image: Image.Image, place: str) -> Uint8Array:
    """Returns the pixels as `decode_image` gives them of a file: turned as EXIF says, 8 bits, BGR."""
    try:
        turned = turned_by_exif(image)
        if turned.mode in ("I", "F"):
            raise YoloflowError(f"{place}: a PIL image of mode {turned.mode}; make it one of 8 bits")
        if turned.mode.startswith("I;16"):
            return _of_array((np.asarray(turned) >> 8).astype(np.uint8), place)
        return _of_array(np.asarray(turned.convert("RGB"))[..., ::-1], place)
    except (OSError, SyntaxError) as error:
        raise YoloflowError(f"{place}: the PIL image cannot be read ({error})") from error


def _no_image(given: object, place: str) -> YoloflowError:
    kind = type(given).__name__
    if given is None:
        return YoloflowError(f"{place} is None: cv2.imread gives None for a file that it cannot read")
    if hasattr(given, "numpy"):
        return YoloflowError(
            f"{place}: {kind}; give (H, W, 3) uint8 BGR pixels, of one in RGB and 0..1 "
            "(image.permute(1, 2, 0).flip(-1) * 255).byte().cpu().numpy()"
        )
    return YoloflowError(f"{place}: {kind} is no image; give a file, a folder, an array or a PIL image")
