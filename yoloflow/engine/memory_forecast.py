"""What would run out of memory at hour ten does so in the first minute, with the batch size that fits.

The largest batch that there can be (largest image side of all stages, as many objects as mixed images can
have) goes forward and backward once, without a trace in the training. An accelerator says when its memory is
used up, so it simply tries. The CPU's process would be killed without a word: there two small batches come
first, and the straight line through their peaks tells whether the whole one may be tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from yoloflow.data.loader import BatchExtent
from yoloflow.engine.faults import no_trace
from yoloflow.engine.train_step import TrainStep
from yoloflow.runtime import Ranks, forget_peak_memory, free_memory, gather_over_ranks, peak_memory
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

_SMALL, _LARGER = 4, 8
"""Images of the batches that the line goes through."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """What came of it on one device.

    Attributes:
        fits: images of the largest batch that can be computed, 0 if not even one.
        peak: bytes in use at the peak of the whole batch, measured or, if it was not tried, from the line;
            None where nobody tells.
    """

    fits: int
    peak: int | None


class Batches(Protocol):
    """What a forecast asks of a loader."""

    @property
    def largest_batch(self) -> BatchExtent:
        """What bounds the batches of all stages."""
        ...

    @property
    def cache_memory(self) -> int:
        """Bytes that its caches take when they are full."""
        ...


def forecast_memory(train_step: TrainStep, loader: Batches, ranks: Ranks) -> None:
    """Try the largest batch; all ranks must call.

    Args:
        train_step: it is left as it was.
        loader: of all stages; its caches may be empty yet.
        ranks: this process among its peers, which agree.

    Raises:
        YoloflowError: it does not fit into the memory of a rank; the message says how many images do.
    """
    extent = loader.largest_batch

    def compute(batch_size: int) -> None:
        compute_batch(train_step, extent, batch_size)

    room = _room(ranks) - loader.cache_memory
    own = forecast_batch(compute, extent.batch_size, train_step.device, room)
    forecasts = gather_over_ranks(own)
    fits = min(forecast.fits for forecast in forecasts)
    needs = max((forecast.peak or 0 for forecast in forecasts), default=0)
    what = f"{extent.batch_size} images of {extent.side} x {extent.side} px, {extent.label_rows} objects each"
    if needs:
        what += f", need {needs / _GIB:.1f} GiB"
    if fits >= extent.batch_size:
        if ranks.is_main:
            logger.info("largest batch tried: %s", what)
        return
    remedy = f"per_batch_size={fits} fits" if fits else "not even one image fits"
    raise YoloflowError(
        f"{train_step.device} has too little memory for the largest batch to come: {what}. {remedy}; "
        "accumulate=2 makes up for half the size, amp_level=O2, recompute=true or a smaller img_size need "
        "less (memory_forecast=false leaves this trial out)"
    )


def forecast_batch(
    compute: Callable[[int], None], batch_size: int, device: torch.device, room: int
) -> MemoryForecast:
    """What comes of a batch.

    Args:
        compute: takes the number of images.
        batch_size: images of the whole batch.
        device: where it computes.
        room: bytes that the process may have in memory (asked for on the CPU only).
    """
    if device.type != "cpu":
        return largest_that_fits(compute, batch_size, device)
    small, larger = (_peak(compute, min(size, batch_size), device) for size in (_SMALL, _LARGER))
    if small is None or larger is None or batch_size <= _LARGER:
        return largest_that_fits(compute, batch_size, device)
    per_image = max(larger - small, 0) / (_LARGER - _SMALL)
    expected = larger + per_image * (batch_size - _LARGER)
    if expected <= room:
        return largest_that_fits(compute, batch_size, device)
    return MemoryForecast(max(_LARGER + int((room - larger) / max(per_image, 1)), 0), int(expected))


def largest_that_fits(
    compute: Callable[[int], None], batch_size: int, device: torch.device
) -> MemoryForecast:
    """Compute the whole batch; where it does not fit, find by halving how much does.

    Args:
        compute: takes the number of images.
        batch_size: images of the whole batch.
        device: where it computes.
    """
    low, high, peak = 0, batch_size + 1, None
    size = batch_size
    while high - low > 1:
        try:
            peak = _peak(compute, size, device)
            low = size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            high = size
            if device.type != "cpu":
                torch.accelerator.empty_cache()
        size = (low + high) // 2
    return MemoryForecast(low, peak if low == batch_size else None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up; torch has a type of its own for accelerators only."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "allocate memory" in str(error)


def compute_batch(train_step: TrainStep, extent: BatchExtent, batch_size: int) -> None:
    """Forward and backward of a batch with objects all over, without a trace.

    Args:
        train_step: of the training.
        extent: side and objects of its images.
        batch_size: how many there are.
    """
    device, side = train_step.device, extent.side
    images = torch.zeros((batch_size, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.zeros((batch_size, extent.label_rows, 6), device=device)
    labels[..., 0] = torch.arange(batch_size, device=device)[:, None]
    labels[..., 2:4] = torch.linspace(0.1, 0.9, extent.label_rows, device=device)[:, None]
    labels[..., 4:6] = 0.2
    with no_trace(train_step.network):
        _, scaled = train_step.compute_loss(images, labels)
        torch.autograd.backward(scaled)


def _peak(compute: Callable[[int], None], batch_size: int, device: torch.device) -> int | None:
    """Bytes in use at the peak of a computation."""
    if device.type == "cpu":
        forget_peak_memory()
        compute(batch_size)
        return peak_memory()
    torch.accelerator.reset_peak_memory_stats(device)
    compute(batch_size)
    torch.accelerator.synchronize(device)
    return int(torch.accelerator.max_memory_allocated(device))


def _room(ranks: Ranks) -> int:
    """Bytes that this process may have in memory, if the ranks of a machine share what is free."""
    forget_peak_memory()
    return (peak_memory() or 0) + free_memory() // ranks.local_size
