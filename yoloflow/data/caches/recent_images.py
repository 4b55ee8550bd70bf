"""Images decoded of late, kept until others need the room."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from yoloflow.structures import Uint8Array


class RecentImages:
    """A ring of room for images, by their places in an order; shared by forked processes.

    Place p has the room p modulo the number of images, so images whose places are less than that apart do not
    meet: whoever makes a ring takes care that those in use at one time are not. A process that was not
    forked has a ring of its own.
    """

    def __init__(self, num_images: int, num_bytes: int) -> None:
        """Reserve address space; memory is taken as it is used.

        Args:
            num_images: images that are kept.
            num_bytes: of the largest.
        """
        self._num_images, self._num_bytes = num_images, num_bytes
        self._map()

    def get(self, place: int, size_hw: tuple[int, int]) -> Uint8Array | None:
        """Return the image of a place as a read-only (H, W, 3) view, or None where it is not kept."""
        room = place % self._num_images
        if self._places[room] != place + 1:
            return None
        height, width = size_hw
        view = self._pixels[room, : height * width * 3].reshape(height, width, 3)
        view.flags.writeable = False
        return view

    def put(self, place: int, image: Uint8Array) -> None:
        """Store a copy of the (H, W, 3) image of a place."""
        room = place % self._num_images
        # Two processes may store the same image; what is there already stays untouched.
        if self._places[room] == place + 1:
            return
        self._places[room] = 0
        self._pixels[room, : image.size] = image.reshape(-1)
        # Only after the pixels: other processes look at this mark first.
        self._places[room] = place + 1

    def _map(self) -> None:
        room = np.frombuffer(mmap.mmap(-1, self._num_images * (8 + self._num_bytes)), np.uint8)
        marks = 8 * self._num_images
        self._places = room[:marks].view(np.int64)
        self._pixels = room[marks:].reshape(self._num_images, self._num_bytes)

    def __getstate__(self) -> dict[str, Any]:
        return {"_num_images": self._num_images, "_num_bytes": self._num_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()
