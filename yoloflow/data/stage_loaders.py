"""Creates the loaders of a training, one for each stage, from one index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from yoloflow.data.caches.decoded_images import ImageCache, Storage, open_image_cache
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.dataset import COCODataset, resized_sizes
from yoloflow.data.loader import StageLoader, create_loader
from yoloflow.data.samplers import create_sampler
from yoloflow.data.shapes import MultiScale, Rectangular, Shapes, multi_scale_sides
from yoloflow.data.stages import Stage
from yoloflow.structures import DatasetIndex


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """The settings that the loaders of all stages share.

    Attributes:
        batch_size: samples of a rank in a batch.
        stride: of the network's coarsest level in pixels; shapes are multiples of it.
        rank: this process among `world_size`.
        seed: of order, shapes and transforms.
        num_parallel_workers: worker processes of each rank.
        max_labels: see `collate`.
        cache: where decoded images are kept.
        timeout_s: see `StageLoader`.
    """

    batch_size: int
    stride: int = 32
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    num_parallel_workers: int = 0
    max_labels: int | None = None
    cache: Storage = "auto"
    timeout_s: float = 0.0


def create_stage_loaders(
    index: DatasetIndex, stages: Sequence[Stage], options: LoaderOptions
) -> ConcatLoader:
    """Create a loader for each stage and join them; stages of the same image size share one image cache.

    Args:
        index: the training set.
        stages: in order; their steps add up to whole epochs.
        options: what they share.

    Raises:
        YoloflowError: transforms or numbers that cannot be, or no room for the cache.
    """
    caches: dict[int, ImageCache | None] = {}
    loaders = []
    for stage in stages:
        sides: tuple[int, ...] = (stage.img_size,)
        if stage.multi_scale:
            sides = multi_scale_sides(stage.img_size, stage.multi_scale, options.stride)
        side = max(sides)
        if stage.steps and side not in caches:
            sizes_hw = resized_sizes(index.sizes_hw, side)
            promised = sum(cache.memory_bytes for cache in caches.values() if cache)
            caches[side] = open_image_cache(options.cache, index, sizes_hw, "linear", promised=promised)
        dataset = COCODataset(
            index,
            side,
            stage.transforms,
            is_training=True,
            augment=True,
            seed=options.seed,
            cache=caches.get(side) or "none",
        )
        loaders.append(_create_stage_loader(dataset, stage, sides, options))
    return ConcatLoader(loaders, [stage.steps for stage in stages])


def _create_stage_loader(
    dataset: COCODataset, stage: Stage, sides: tuple[int, ...], options: LoaderOptions
) -> StageLoader:
    loader = create_loader(
        dataset,
        options.batch_size,
        rank=options.rank,
        world_size=options.world_size,
        num_parallel_workers=options.num_parallel_workers,
        max_labels=options.max_labels,
    )
    shapes: Shapes | None = None
    if stage.rect:
        shapes = Rectangular(
            resized_sizes(dataset.index.sizes_hw, dataset.img_size), options.stride, options.seed
        )
    elif stage.multi_scale:
        shapes = MultiScale(sides, options.seed)
    sampler = create_sampler(stage.sampler, dataset.index, options.seed)
    return replace(loader, sampler=sampler, shapes=shapes, timeout_s=options.timeout_s)
