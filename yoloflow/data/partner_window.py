"""Windows of a training's order, from which images that are decoded on the way take their mosaic partners.

The window of a batch is that batch and those just before it, so an image is decoded once and used about four
times. It depends on the order and the size of the global batch alone: not on workers, nor on ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from yoloflow.data.caches.recent_images import RecentImages
from yoloflow.structures import Int64Array

MosaicPartners = Literal["auto", "anywhere", "window"]

WINDOW_IMAGES = 128
"""Images that a sample has to choose from, at least."""

LANE_WIDTH = 16
"""Places of a global batch that share a window, at least: ranks of so many images decode no others."""


@dataclass(frozen=True, slots=True)
class Nearby:
    """The images that a sample may take partners from, and its own.

    Attributes:
        images: (n,) positions in the data set; places: (n,) numbers of each in the order of this rank.
        own_place: number of the sample itself.
        recent: keeps what is decoded; None where nothing is kept.
    """

    images: Int64Array
    places: Int64Array
    own_place: int
    recent: RecentImages | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class PartnerWindow:
    """The window of a batch of a rank.

    Attributes:
        images: (D, W) positions in the data set: D steps, and the W places of a global batch whose lanes this
            rank has images of.
        first_step: of the run; own_row: the row of the batch itself.
        left: column of the rank's first image.
        lane_borders: columns where lanes begin and end, in order.
    """

    images: Int64Array
    first_step: int
    own_row: int
    left: int
    lane_borders: tuple[int, ...]

    def of_sample(self, number: int, recent: RecentImages | None = None) -> Nearby:
        """Return what sample `number` of the batch may take: its lane without itself."""
        column = self.left + number
        lane = int(np.searchsorted(self.lane_borders, column, side="right")) - 1
        begin, end = self.lane_borders[lane : lane + 2]
        own = self.own_row * (end - begin) + column - begin
        steps = self.first_step + np.arange(len(self.images))[:, None]
        places = steps * self.images.shape[1] + np.arange(begin, end)
        images = np.delete(self.images[:, begin:end].reshape(-1), own)
        own_place = int(places.reshape(-1)[own])
        return Nearby(images, np.delete(places.reshape(-1), own), own_place, recent)


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """The lanes of a global batch and the steps of a window.

    Attributes:
        total: images of a global batch.
        batch_size: images of this rank in it; rank: its number.
        least: images that a sample has to choose from, at least.
    """

    total: int
    batch_size: int
    rank: int
    least: int = WINDOW_IMAGES

    @property
    def num_lanes(self) -> int:
        """Parts of a global batch that do not mix, so that a rank need not decode what others train on."""
        return max(self.total // LANE_WIDTH, 1)

    @property
    def num_steps(self) -> int:
        """Steps of a window."""
        return -(-self.least // (self.total // self.num_lanes))

    @property
    def num_images(self) -> int:
        """Images of a lane's window, at least."""
        return self.num_steps * (self.total // self.num_lanes)

    @property
    def columns(self) -> tuple[int, ...]:
        """Borders of the lanes that this rank has images of, as places in the global batch."""
        first, last = self.rank * self.batch_size, (self.rank + 1) * self.batch_size - 1
        borders = [-(-lane * self.total // self.num_lanes) for lane in range(self.num_lanes + 1)]
        begin = int(np.searchsorted(borders, first, side="right")) - 1
        end = int(np.searchsorted(borders, last, side="right"))
        return tuple(borders[begin : end + 1])

    def first_step(self, step: int) -> int:
        """Return the first step of a step's window: at the run's beginning it looks ahead."""
        return max(0, step - self.num_steps + 1)

    def window(self, groups: Int64Array, groups_begin: int, step: int) -> PartnerWindow:
        """Return the window of a step.

        Args:
            groups: (k, total) images of successive global batches.
            groups_begin: step of the first of them.
            step: counted from the run's first.
        """
        borders, first = self.columns, self.first_step(step)
        rows = slice(first - groups_begin, first - groups_begin + self.num_steps)
        return PartnerWindow(
            groups[rows, borders[0] : borders[-1]],
            first,
            step - first,
            self.rank * self.batch_size - borders[0],
            tuple(border - borders[0] for border in borders),
        )

    def num_kept(self, batches_ahead: int) -> int:
        """Return the images to be kept, so that none which a batch under way may use makes room for another.

        Args:
            batches_ahead: batches that are made at the same time at most.
        """
        borders = self.columns
        return (self.num_steps + batches_ahead) * (borders[-1] - borders[0])
