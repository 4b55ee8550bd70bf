"""Creates the loaders of a training, one for each stage, and that of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from yoloflow.data.caches.decoded_images import ImageCache, open_image_cache
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import COCODataset, resized_sizes
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.samplers import create_sampler
from yoloflow.data.settings import CPU_TEST_WORKERS, CPU_WORKERS, BatchSettings, DataSettings
from yoloflow.data.shapes import Fixed, MultiScale, Rectangular, Shape, Shapes, multi_scale_sides
from yoloflow.data.stages import Stage
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex

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
    caches: dict[int, ImageCache | None] = {}
    loaders = []
    for stage in stages:
        sides: tuple[int, ...] = (stage.img_size,)
        if stage.multi_scale:
            sides = multi_scale_sides(stage.img_size, stage.multi_scale, stride)
        side = max(sides)
        if stage.steps and side not in caches:
            sizes_hw = resized_sizes(index.sizes_hw, side)
            reserved_bytes = sum(cache.memory_bytes for cache in caches.values() if cache)
            caches[side] = open_image_cache(
                settings.cache, index, sizes_hw, "linear", reserved_bytes=reserved_bytes
            )
        dataset = COCODataset(
            index,
            side,
            stage.transforms,
            is_training=True,
            augment=True,
            seed=seed,
            cache=caches.get(side) or "none",
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
        loaders.append(
            replace(loader, sampler=sampler, shapes=shapes, timeout_s=settings.load_timeout or 0.0)
        )
    return ConcatLoader(loaders, [stage.steps for stage in stages])


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
            settings.cache, index, sizes_hw, settings.test_shrink, reserved_bytes=reserved_bytes or 0
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
