"""Decoded images kept in memory, shared by the loader's worker processes."""

from __future__ import annotations

import logging
import mmap
import os

import numpy as np

from yoloflow.structures import Int64Array, Uint8Array, YoloflowError

logger = logging.getLogger("yoloflow")


class ImageCache:
    """Room for one image of known size per index; each is stored by whoever decodes it first.

    The room is one anonymous shared mapping, so that forked workers fill and read it together; it takes
    memory only as it is filled, and does not need /dev/shm. (A worker that was spawned instead of forked
    starts with an empty cache of its own.) Two processes that decode the same image write the same bytes.
    """

    def __init__(self, sizes_hw: Int64Array) -> None:
        """Reserve the room and log its size.

        Args:
            sizes_hw: (I, 2) heights and widths of the images to keep.

        Raises:
            YoloflowError: it is more than the memory of this machine.
        """
        self._sizes_hw = sizes_hw
        self._offsets = np.concatenate(([0], np.cumsum(sizes_hw.prod(1) * 3)))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if self.num_bytes > memory:
            raise YoloflowError(
                f"cache=ram needs {self.num_bytes / 2**30:.1f} GiB for {len(sizes_hw)} images, this machine "
                f"has {memory / 2**30:.1f} GiB: use cache=none or a smaller img_size"
            )
        logger.info("image cache: %d images, %.0f MiB when full", len(sizes_hw), self.num_bytes / 2**20)
        self._reserve()

    @property
    def num_bytes(self) -> int:
        """Bytes taken once every image is stored."""
        return int(self._offsets[-1])

    def get(self, index: int) -> Uint8Array | None:
        """Image `index` as a read-only (H, W, 3) view, or None if nobody has stored it yet."""
        if not self._filled[index]:
            return None
        pixels = self._pixels[self._offsets[index] : self._offsets[index + 1]]
        view = pixels.reshape(*self._sizes_hw[index], 3)
        view.flags.writeable = False
        return view

    def put(self, index: int, image: Uint8Array) -> None:
        """Store a copy of image `index`, (H, W, 3) of the size announced."""
        self._pixels[self._offsets[index] : self._offsets[index + 1]] = image.reshape(-1)
        # Only after the pixels: other processes look at this mark first.
        self._filled[index] = 1

    def _reserve(self) -> None:
        count = len(self._sizes_hw)
        room = np.frombuffer(mmap.mmap(-1, max(self.num_bytes + count, 1)), np.uint8)
        self._pixels, self._filled = room[: self.num_bytes], room[self.num_bytes : self.num_bytes + count]

    def __getstate__(self) -> dict[str, Int64Array]:
        return {"_sizes_hw": self._sizes_hw, "_offsets": self._offsets}

    def __setstate__(self, state: dict[str, Int64Array]) -> None:
        self.__dict__.update(state)
        self._reserve()
