"""The guard against running out of memory late: the largest batch is tried before the first step.

The largest batch that there can be (largest image side of all stages, as many objects as mixed images can
have) goes forward and backward once, without a trace in the training. An accelerator says when its memory is
used up, so it simply tries. The CPU's process would be killed without a word: there two small batches come
first, and the straight line through their peaks tells whether the whole one may be tried.

Several ranks try the same size at the same time, each `without_collectives`: the one that has the least room
fails, and would leave the others waiting for it in the
middle of a loss. After each try all hear what came of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.loader import BatchExtent
from yoloflow.runtime.memory import forget_peak_memory, free_memory, peak_memory
from yoloflow.runtime.ranks import Ranks, gather_over_ranks, without_collectives
from yoloflow.structures import YoloflowError
from yoloflow.train_step.examination import no_trace
from yoloflow.train_step.step import TrainStep
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.guards.guard import Guard

logger = logging.getLogger("yoloflow")

_SMALL, _LARGER = 4, 8
"""Images of the batches that the line goes through."""
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """The largest batch that fits, on all ranks.

    Attributes:
        fits: images of the largest batch that every rank can compute, 0 if not even one.
        peak: bytes in use at the peak of the whole batch, measured (the most of all ranks) or, if it was not
            tried, from the line of `rank`; None where the system does not tell.
        rank: that has no memory for more; 0 where the whole batch fits.
    """

    fits: int
    peak: int | None
    rank: int = 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of one try on one rank.

    Attributes:
        fits: whether it was computed.
        peak: bytes in use at its peak, if it fits and the system tells.
        error: what went wrong, where that was not for want of memory.
    """

    fits: bool
    peak: int | None = None
    error: str | None = None


class MemoryGuard(Guard):
    """Tries the largest batch before the first step."""

    def __init__(self, train_step: TrainStep, loader: ConcatLoader, activity: Activity) -> None:
        self._train_step, self._loader, self._activity = train_step, loader, activity

    def before_training(self) -> None:
        """Tries it; `YoloflowError` says how many images fit."""
        self._activity.begin("trying the largest batch", "memory forecast")
        forecast_memory(self._train_step, self._loader, self._activity.ranks)
        if self._train_step.device.type != "cpu":  # a training's peak is that of its steps
            forget_peak_memory(self._train_step.device)


def forecast_memory(train_step: TrainStep, loader: ConcatLoader, ranks: Ranks) -> None:
    """Tries the largest batch; all ranks must call.

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

    available = _available_bytes(ranks) - loader.cache_memory
    forecast = forecast_batch(compute, extent.batch_size, train_step.device, available)
    what = f"{extent.batch_size} images of {extent.side} x {extent.side} px, {extent.label_rows} objects each"
    if forecast.peak:
        what += f", need {forecast.peak / _GIB:.1f} GiB"
    if forecast.fits >= extent.batch_size:
        if ranks.is_main:
            logger.info("largest batch: %s", what)
        return
    device = gather_over_ranks(str(train_step.device))[forecast.rank]
    where = f"{device} of rank {forecast.rank}" if ranks.world_size > 1 else device
    remedy = f"per_batch_size={forecast.fits} fits" if forecast.fits else "not even one image fits"
    raise YoloflowError(
        f"{where} has too little memory for the largest batch to come: {what}. {remedy}; "
        "accumulate=2 makes up for half the size, amp_level=O2, recompute=true (with recompute_layers) or a "
        "smaller img_size need less (memory_forecast=false leaves this trial out)"
    )


def forecast_batch(
    compute: Callable[[int], None], batch_size: int, device: torch.device, available: int
) -> MemoryForecast:
    """Finds how much of a batch fits; all ranks must call, and get the same answer.

    Args:
        compute: takes the number of images.
        batch_size: images of the whole batch.
        device: where it computes.
        available: bytes that the process may have in memory (asked for on the CPU only).

    Raises:
        YoloflowError: another rank failed, and not for want of memory.
    """
    if device.type != "cpu" or batch_size <= _LARGER:
        return largest_that_fits(compute, batch_size, device)
    peaks: list[list[int | None]] = []
    for size in (_SMALL, _LARGER):
        failed, peaks_by_rank = _try(compute, size, device)
        if failed is not None:
            return _halve(compute, size, device, failed)
        peaks.append(peaks_by_rank)
    rooms = gather_over_ranks(available)
    lines = zip(*peaks, rooms, strict=True)
    forecasts = [_along_the_line(rank, batch_size, *line) for rank, line in enumerate(lines)]
    least = min(forecasts, key=lambda forecast: (forecast.fits, -(forecast.peak or 0)))
    # Where it would take less than half of the memory, the line is enough: the trial costs as much as a step.
    is_roomy = all(told.peak and 2 * told.peak < room for told, room in zip(forecasts, rooms, strict=True))
    if least.fits >= batch_size and not is_roomy:
        return largest_that_fits(compute, batch_size, device)
    return least


def _along_the_line(
    rank: int, batch_size: int, small: int | None, larger: int | None, available: int
) -> MemoryForecast:
    """Extrapolates from the peaks of the two small batches of a rank to its whole one."""
    if small is None or larger is None:
        return MemoryForecast(batch_size, None, rank)
    per_image = max(larger - small, 0) / (_LARGER - _SMALL)
    expected = larger + per_image * (batch_size - _LARGER)
    fits = batch_size
    if expected > available:
        fits = max(_LARGER + int((available - larger) / max(per_image, 1)), 0)
    return MemoryForecast(fits, int(expected), rank)


def largest_that_fits(
    compute: Callable[[int], None], batch_size: int, device: torch.device
) -> MemoryForecast:
    """Computes the whole batch; where it does not fit, finds by halving how much does. All ranks must call.

    Args:
        compute: takes the number of images.
        batch_size: images of the whole batch.
        device: where it computes.

    Raises:
        YoloflowError: another rank failed, and not for want of memory.
    """
    failed, peaks = _try(compute, batch_size, device)
    if failed is not None:
        return _halve(compute, batch_size, device, failed)
    return MemoryForecast(batch_size, max(peak or 0 for peak in peaks) or None)


def _halve(compute: Callable[[int], None], too_many: int, device: torch.device, rank: int) -> MemoryForecast:
    """Finds what fits, where `rank` has no memory for `too_many` images."""
    fits = 0
    while too_many - fits > 1:
        size = (fits + too_many) // 2
        failed, _ = _try(compute, size, device)
        if failed is None:
            fits = size
        else:
            too_many, rank = size, failed
    return MemoryForecast(fits, None, rank)


def _try(
    compute: Callable[[int], None], batch_size: int, device: torch.device
) -> tuple[int | None, list[int | None]]:
    """Computes a batch on all ranks, without collectives; returns the first without memory, and all peaks.

    Raises:
        YoloflowError: another rank failed, and not for want of memory; an own such error is raised as it is.
    """
    failure: RuntimeError | MemoryError | None = None
    try:
        with without_collectives():
            own = _Outcome(True, _peak(compute, batch_size, device))
    except (RuntimeError, MemoryError) as error:
        own = _Outcome(False)
        if not is_out_of_memory(error):
            own = _Outcome(False, error=f"{type(error).__name__}: {error}".partition("\n")[0])
            failure = error
    # Only now the error has let go of what had been computed.
    if not own.fits and device.type != "cpu":
        torch.accelerator.empty_cache()
    outcomes = gather_over_ranks(own)
    if failure is not None:
        raise failure
    for rank, outcome in enumerate(outcomes):
        if outcome.error is not None:
            raise YoloflowError(
                f"rank {rank} failed at a trial batch of {batch_size} images: {outcome.error}"
            )
    failed = next((rank for rank, outcome in enumerate(outcomes) if not outcome.fits), None)
    return failed, [outcome.peak for outcome in outcomes]


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error is one of memory; torch has a type of its own for accelerators only."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "not enough memory" in str(error) or "allocate memory" in str(error)


def compute_batch(train_step: TrainStep, extent: BatchExtent, batch_size: int) -> None:
    """Runs forward and backward of a batch with objects all over, and leaves the train step as it is.

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
        _, scaled = train_step.compute_loss(images, *train_step.trial_targets(labels, side))
        torch.autograd.backward(scaled)


def _peak(compute: Callable[[int], None], batch_size: int, device: torch.device) -> int | None:
    """Returns the bytes in use at the peak of a computation."""
    forget_peak_memory(device)
    compute(batch_size)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return peak_memory(device)


def _available_bytes(ranks: Ranks) -> int:
    """Returns the bytes that this process may use, if the ranks of a machine share what is free."""
    forget_peak_memory()
    return (peak_memory() or 0) + free_memory() // ranks.local_size
