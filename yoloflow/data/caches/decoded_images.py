"""Decoded images kept in memory or in a mapped file, shared by all processes that load.

The room for every image is known beforehand, so there is no index to go wrong: an image is there when its
mark is set, and whoever decodes it first stores it. Two processes that decode the same image write the same.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import zlib
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from yoloflow.data.caches.files import digest, file_identities
from yoloflow.files import default_cache_folder
from yoloflow.runtime.memory import free_memory
from yoloflow.structures import DatasetIndex, Int64Array, Uint8Array, YoloflowError

logger = logging.getLogger("yoloflow")

Storage = Literal["auto", "ram", "disk", "none"]

_FORMAT = "1"
# `auto` takes no more than this part of the memory that is free.
_SHARE_OF_MEMORY = 0.5


class ImageCache:
    """Room for one image of known size per index.

    In memory it is one anonymous shared mapping, which forked workers fill and read together and which
    takes memory only as it is filled; it does not need /dev/shm. (A worker that was spawned, not forked,
    starts with an empty cache of its own.) In a file each mark is the checksum of its image, looked at once
    by each process: an image that was stored only in part, or damaged since, is decoded again.
    """

    def __init__(self, sizes_hw: Int64Array, path: Path | None = None) -> None:
        """Reserve the room.

        Args:
            sizes_hw: (I, 2) heights and widths of the images to keep.
            path: the file to map, made where it does not exist; None for memory.

        Raises:
            YoloflowError: there is not so much memory or disk, or the file cannot be written.
        """
        self._sizes_hw = sizes_hw
        self._offsets = np.concatenate(([0], np.cumsum(sizes_hw.prod(1) * 3)))
        self._path = path
        self._map()

    @property
    def num_bytes(self) -> int:
        """Bytes taken once every image is stored."""
        return int(self._offsets[-1])

    @property
    def memory_bytes(self) -> int:
        """Likewise, of memory: nothing for a file."""
        return self.num_bytes if self._path is None else 0

    def get(self, index: int) -> Uint8Array | None:
        """Image `index` as a read-only (H, W, 3) view, or None if nobody has stored it yet."""
        mark = self._marks[index]
        if not mark:
            return None
        pixels = self._pixels[self._offsets[index] : self._offsets[index + 1]]
        if self._path is not None and not self._seen[index]:
            if _checksum(pixels) != mark:
                self._marks[index] = 0
                return None
            self._seen[index] = True
        view = pixels.reshape(*self._sizes_hw[index], 3)
        view.flags.writeable = False
        return view

    def put(self, index: int, image: Uint8Array) -> None:
        """Store a copy of image `index`, (H, W, 3) of the size announced."""
        pixels = image.reshape(-1)
        self._pixels[self._offsets[index] : self._offsets[index + 1]] = pixels
        # Only after the pixels: other processes look at this mark first.
        self._marks[index] = 1 if self._path is None else _checksum(pixels)

    def _map(self) -> None:
        count = len(self._sizes_hw)
        # Marks first: they want an address that is a multiple of their size.
        total = max(4 * count + self.num_bytes, 1)
        room = np.frombuffer(
            _memory(total, count) if self._path is None else _file(self._path, total), np.uint8
        )
        self._marks = room[: 4 * count].view(np.uint32)
        self._pixels = room[4 * count : total]
        self._seen = np.zeros(count, bool)

    def __getstate__(self) -> dict[str, Any]:
        return {"_sizes_hw": self._sizes_hw, "_offsets": self._offsets, "_path": self._path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()


def open_image_cache(
    storage: Storage,
    index: DatasetIndex,
    sizes_hw: Int64Array,
    shrink: str,
    folder: Path | None = None,
    reserved_bytes: int = 0,
    owner: str = "",
) -> ImageCache | None:
    """Returns the cache that `data.cache` asks for; the log says what room it takes.

    Args:
        storage: "ram"; "disk", in a file named by the content of the images, which later trainings find;
            "auto", in memory if half of what is free is enough, else nowhere; "none".
        index: the data set.
        sizes_hw: (I, 2) sizes of the decoded images.
        shrink: how they are made smaller.
        folder: of the files; by default $XDG_CACHE_HOME/yoloflow or ~/.cache/yoloflow.
        reserved_bytes: bytes of memory that other caches will fill.
        owner: whose images they are, for the log.

    Raises:
        YoloflowError: there is not so much memory or disk.
    """
    needed = int((sizes_hw.prod(1) * 3).sum())
    what = f"image cache{owner and f' ({owner})'}: {len(sizes_hw)} images, {_size(needed)} when full"
    if storage == "disk":
        words = (_FORMAT, cv2.__version__, shrink, sizes_hw.tobytes(), "\n".join(index.image_paths.tolist()))
        name = digest(*words, file_identities(index.image_paths.tolist()).tobytes())
        path = (folder or default_cache_folder()) / "images" / f"{name}.pixels"
        logger.info("%s, in %s", what, path)
        return ImageCache(sizes_hw, path)
    if storage == "ram":
        logger.info("%s, in memory", what)
        return ImageCache(sizes_hw)
    if storage == "auto":
        free = _free_memory()
        if fits_memory(needed + reserved_bytes):
            logger.info("%s, in memory (%s are free)", what, _size(free))
            return ImageCache(sizes_hw)
        logger.info(
            "%s, more than half of the %s of memory that are free: images are decoded each time; "
            "data.cache=disk would keep them in a file",
            what,
            _size(free),
        )
    return None


def fits_memory(num_bytes: int) -> bool:
    """Returns whether `auto` keeps so many bytes of images in memory."""
    return num_bytes <= _SHARE_OF_MEMORY * _free_memory()


def _free_memory() -> int:
    """Returns this rank's part of the memory that is free."""
    return free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _memory(num_bytes: int, count: int) -> mmap.mmap:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory:
        raise YoloflowError(
            f"cache=ram needs {_size(num_bytes)} for {count} images, this machine has {_size(memory)}: use "
            "cache=none, cache=disk or a smaller img_size"
        )
    return mmap.mmap(-1, num_bytes)


def _file(path: Path, num_bytes: int) -> mmap.mmap:
    """Maps the file and reserves its whole length: a full disk shows here, not when pixels are written.

    Zeros mean that nothing is stored, so several processes may do this at once, and be killed while they do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existing = path.stat().st_size if path.exists() else 0
        free = shutil.disk_usage(path.parent).free
        if existing < num_bytes and num_bytes - existing > free:
            raise YoloflowError(
                f"cache=disk needs {_size(num_bytes)} in {path.parent}, {_size(free)} are free: use "
                "cache=none, or set XDG_CACHE_HOME to a larger disk"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if existing < num_bytes:
                os.posix_fallocate(descriptor, 0, num_bytes)
            return mmap.mmap(descriptor, num_bytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise YoloflowError(
            f"{path}: the image cache cannot be written ({error.strerror}); use cache=none, or set "
            "XDG_CACHE_HOME to a folder that can be written to"
        ) from error


def _checksum(pixels: Uint8Array) -> int:
    """Never 0, which means that there is nothing."""
    return zlib.crc32(pixels.data) or 1


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
