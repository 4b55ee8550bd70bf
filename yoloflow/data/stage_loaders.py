"""Creates the loaders of a training, one for each stage, and that of an evaluation."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from yoloflow.data.caches.decoded_images import ImageCache, fits_memory, open_image_cache
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import COCODataset, resized_sizes
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.samplers import create_sampler
from yoloflow.data.settings import CPU_TEST_WORKERS, CPU_WORKERS, BatchSettings, DataSettings
from yoloflow.data.shapes import Fixed, MultiScale, Rectangular, Shape, Shapes, multi_scale_sides
from yoloflow.data.stages import Stage
from yoloflow.data.transforms import create_transforms
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex

logger = logging.getLogger("yoloflow")

ONE_RANK = Ranks()


def create_stage_loaders(
    index: DatasetIndex,
    stages: Sequence[Stage],
    settings: DataSettings,
    batches: BatchSettings,
    stride: int = 32,
    seed: int = 0,
    ranks: Ranks = ONE_RANK,
) -> ConcatLoader:
    """Create a loader for each stage and join them; stages of the same image size share one image cache.

    Args:
        index: the training set.
        stages: in order; their steps add up to whole epochs.
        settings: worker processes, label rows, cache.
        batches: size of batches.
        stride: of the network's coarsest level in pixels; shapes are multiples of it.
        seed: of order, shapes and transforms.
        ranks: this process among its peers.

    Raises:
        YoloflowError: transforms or numbers that cannot be, or no room for the cache.
    """
    partners = choose_partners(index, stages, settings, stride)
    caches: dict[int, ImageCache | None] = {}
    loaders = []
    for stage in stages:
        sides = _sides(stage, stride)
        side = max(sides)
        if stage.steps and side not in caches:
            caches[side] = _open_cache(index, settings, side, caches.values())
        dataset = COCODataset(
            index,
            side,
            stage.transforms,
            is_training=True,
            augment=settings.decode_reduced,
            seed=seed,
            cache=caches.get(side) or "none",
            shrink="linear",
        )
        loader = create_loader(
            dataset,
            batches.per_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            num_parallel_workers=min(_workers(settings), os.cpu_count() or 1),
            max_labels=settings.max_labels,
        )
        sampler = create_sampler(stage.sampler, index, seed)
        shapes = _create_shapes(stage, dataset, sides, stride)
        has_windows = partners == "window" and dataset.transforms.mixes_images
        loader = replace(loader, sampler=sampler, shapes=shapes, has_windows=has_windows)
        loaders.append(replace(loader, timeout_s=settings.load_timeout or 0.0))
    _tell_windows(loaders)
    return ConcatLoader(loaders, [stage.steps for stage in stages])


def _open_cache(
    index: DatasetIndex, settings: DataSettings, side: int, others: Iterable[ImageCache | None]
) -> ImageCache | None:
    """Open the cache of images of one side beside those that are open."""
    shrink = "linear" if settings.decode_reduced else "linear, decoded in full"
    reserved_bytes = sum(cache.memory_bytes for cache in others if cache)
    sizes_hw = resized_sizes(index.sizes_hw, side)
    return open_image_cache(
        settings.cache, index, sizes_hw, shrink, reserved_bytes=reserved_bytes, owner="training"
    )


def choose_partners(
    index: DatasetIndex, stages: Sequence[Stage], settings: DataSettings, stride: int
) -> Literal["anywhere", "window"]:
    """Decide where mosaics take their partners from, by the memory that this rank has.

    `auto` is a window unless memory holds the decoded images of the whole set, or nothing mixes images.
    """
    if settings.mosaic_partners != "auto":
        return settings.mosaic_partners
    trained = [stage for stage in stages if stage.steps]
    mixes = any(create_transforms(stage.transforms).mixes_images for stage in trained)
    held = settings.cache == "ram"
    if settings.cache == "auto":
        sides = {max(_sides(stage, stride)) for stage in trained}
        held = fits_memory(sum(int(resized_sizes(index.sizes_hw, side).prod(1).sum()) * 3 for side in sides))
    return "anywhere" if held or not mixes else "window"


def _sides(stage: Stage, stride: int) -> tuple[int, ...]:
    """Return the sides in pixels that a stage's images have."""
    if stage.multi_scale:
        return multi_scale_sides(stage.img_size, stage.multi_scale, stride)
    return (stage.img_size,)


def _tell_windows(loaders: Sequence[StageLoader]) -> None:
    """Log where partners come from a window, and what memory it takes."""
    num_images = max((loader.window_images for loader in loaders), default=0)
    if num_images:
        logger.info(
            "mosaic partners: from the last %d images of the epoch's order (data.mosaic_partners=window); "
            "decoded, they take %d MiB",
            num_images,
            max(loader.recent_bytes for loader in loaders) / 2**20,
        )


def _workers(settings: DataSettings) -> int:
    """Returns the worker processes of a training; those of the CPU where nobody has decided them."""
    number = settings.num_parallel_workers
    return CPU_WORKERS if number == "auto" else number


def _test_workers(settings: DataSettings) -> int:
    """Returns the worker processes of an evaluation, likewise."""
    if settings.test_workers == "auto":
        return min(_workers(settings), CPU_TEST_WORKERS)
    return min(settings.test_workers, os.cpu_count() or 1)


def _create_shapes(stage: Stage, dataset: COCODataset, sides: tuple[int, ...], stride: int) -> Shapes | None:
    if stage.rect:
        return Rectangular(resized_sizes(dataset.index.sizes_hw, dataset.img_size), stride, dataset.seed)
    return MultiScale(sides, dataset.seed) if stage.multi_scale else None


def create_test_loader(
    index: DatasetIndex,
    settings: DataSettings,
    batches: BatchSettings,
    stride: int = 32,
    ranks: Ranks = ONE_RANK,
    reserved_bytes: int | None = None,
    shape_hw: Shape | None = None,
) -> StageLoader:
    """Create the loader of an evaluation: each image once, in order.

    Args:
        index: the validation set.
        settings: transforms, shapes, worker processes, cache.
        batches: size of images and batches.
        stride: of the network's coarsest level in pixels; rectangles are multiples of it.
        ranks: this process among its peers.
        reserved_bytes: bytes of memory that the training's image caches will fill; None without a training.
        shape_hw: the one height and width of all batches; None for what the settings say.
    """
    sizes_hw = resized_sizes(index.sizes_hw, batches.img_size)
    cache: ImageCache | None = None
    # Without a training every image is looked at once: only a file that a training left can help.
    if reserved_bytes is not None or settings.cache == "disk":
        cache = open_image_cache(
            *(settings.cache, index, sizes_hw, settings.test_shrink),
            reserved_bytes=reserved_bytes or 0,
            owner="validation",
        )
    dataset = COCODataset(
        index, batches.img_size, settings.test_rows, cache=cache or "none", shrink=settings.test_shrink
    )
    loader = create_loader(
        dataset,
        batches.per_batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        shuffle=False,
        drop_last=False,
        num_parallel_workers=_test_workers(settings),
    )
    shapes: Shapes | None = None if shape_hw is None else Fixed(shape_hw)
    if shapes is None and settings.test_rect:
        shapes = Rectangular(sizes_hw, stride, shuffle=False)
    return replace(loader, shapes=shapes, timeout_s=settings.load_timeout or 0.0)
