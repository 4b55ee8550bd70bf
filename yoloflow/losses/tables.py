"""Tables with a row for each image of a batch: entries taken by index, work done in groups of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Entries of a (images, objects, cells) table that are worked on together: a small part of the memory of an
# accelerator.
LARGEST_TABLE = 1 << 24


def rows_at(table: Tensor, index: Tensor) -> Tensor:
    """Returns the rows (B, M, D) of a table (B, N, D) at the positions (B, M)."""
    return table.gather(1, index[..., None].expand(-1, -1, table.shape[2]))


def in_groups(function: Callable[..., tuple[Tensor, ...]], at_once: int, *tables: Tensor) -> list[Tensor]:
    """Returns the results of a function that treats each image by itself, called with few images at once.

    Args:
        function: takes parts of the tables, gives a tuple of tensors with a row for each image.
        at_once: images of a group; at least 1 is taken.
        tables: tensors with a row for each image.
    """
    groups = zip(*(torch.split(table, max(1, at_once)) for table in tables), strict=True)
    results = [function(*group) for group in groups]
    return [torch.cat(column) for column in zip(*results, strict=True)]
