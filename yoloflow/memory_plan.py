"""The memory that a training will need on a card that is not here, found on tensors without content."""

from __future__ import annotations

import copy
import weakref
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from yoloflow.config.schema import Config
from yoloflow.data.shapes import multi_scale_sides
from yoloflow.losses import create_loss
from yoloflow.losses.loss import full_masks
from yoloflow.models import create_model
from yoloflow.models.precision import to_float32
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer, zero_state
from yoloflow.structures import YoloflowError

GIB = 2**30
OBJECTS = 48
"""Label rows of an image that are reckoned with: a mosaic of four images with a dozen objects each."""
# Where no classes are stated: COCO's.
_CLASSES = 80
# Steps of an epoch: any number that a warm-up fits into.
_STEPS = 1000

# What kernels need for themselves (rearranged weights, workspaces) and what an allocator leaves unused,
# beside what tensors need. Measured on the CPU: docs/performance.md.
_KERNELS = 1.08
# CUDA's context and libraries.
_CONTEXT_GIB = 0.8
# Two sizes give the line: memory of a batch is that of the network and so much for each image.
_SIZES = (8, 16)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """The bytes of one training in one precision.

    Attributes:
        precision: float32 or bfloat16.
        weights: parameters and statistics.
        average: their running average.
        optimizer: momentum and the like.
        first: what a step needs besides, whatever the batch: gradients above all.
        per_image: what it needs for each image of the batch.
    """

    precision: str
    weights: int
    average: int
    optimizer: int
    first: float
    per_image: float

    def of_batch(self, images: int) -> float:
        """Returns the bytes at the peak of a step of so many images."""
        return self.weights + self.average + self.optimizer + self.of_step(images)

    def of_step(self, images: int) -> float:
        """Returns the bytes of such a step beside what stays between steps."""
        return (self.first + self.per_image * images) * _KERNELS

    def largest_batch(self, gib: float) -> int:
        """Returns how many images fit into the memory of a card, with CUDA's own part left out."""
        room = (gib - _CONTEXT_GIB) * GIB - self.of_batch(0)
        return max(int(room / (self.per_image * _KERNELS)), 0)

    def to_json(self, batch_size: int, gib: float) -> dict[str, Any]:
        """Returns plain figures: bytes by part, of a batch, and the largest batch for a card."""
        return {**asdict(self), "batch": self.of_batch(batch_size), "largest_batch": self.largest_batch(gib)}


def plan_memory(config: Config) -> list[MemoryNeed]:
    """Returns what a training needs in float32 and in bfloat16; nothing is computed.

    Args:
        config: the settings; the largest images of all stages count, and 80 classes where none are stated.
    """
    return [_need_of(config, dtype) for dtype in (torch.float32, torch.bfloat16)]


def largest_side(config: Config) -> int:
    """Returns the largest side of an image in any stage."""
    sides, stride = [], max(config.network.stride)
    for stage in config.stages(1):
        scaled = multi_scale_sides(stage.img_size, stage.multi_scale, stride) if stage.multi_scale else ()
        sides += [stage.img_size, *scaled]
    return max(sides)


def describe_memory(needs: list[MemoryNeed], config: Config, gib: float) -> list[str]:
    """Returns the table: memory by part, of the recipe's batch, and the largest batch that fits."""
    rows: list[tuple[str, list[str]]] = [
        ("weights", [_gib(need.weights) for need in needs]),
        ("their average (EMA)", [_gib(need.average) for need in needs]),
        ("optimizer", [_gib(need.optimizer) for need in needs]),
        ("gradients and what any batch needs", [_gib(need.first * _KERNELS) for need in needs]),
        ("each image", [_gib(need.per_image * _KERNELS) for need in needs]),
        (
            f"per_batch_size={config.per_batch_size}",
            [_gib(need.of_batch(config.per_batch_size)) for need in needs],
        ),
        (f"largest batch for {gib:g} GiB", [str(need.largest_batch(gib)) for need in needs]),
    ]
    side, classes = largest_side(config), len(config.data.stated_names or range(_CLASSES))
    title = f"GiB; {side} px, {classes} classes"
    return [
        f"{title:36}" + "".join(f"{need.precision:>10}" for need in needs),
        *(f"{name:36}" + "".join(f"{cell:>10}" for cell in cells) for name, cells in rows),
        f"An estimate without a card: {_CONTEXT_GIB} GiB are for CUDA, {_KERNELS - 1:.0%} for kernels;",
        "the training tries its largest batch before the first step.",
    ]


def read_memory(text: str) -> float:
    """Returns the GiB of `memory=24`.

    Raises:
        YoloflowError: it is no number of GiB.
    """
    number = text.lower().removesuffix("gib").removesuffix("gb").removesuffix("g")
    try:
        gib = float(number)
    except ValueError:
        gib = 0.0
    if not gib > _CONTEXT_GIB:
        raise YoloflowError(f"memory={text}: write the GiB of the card, such as memory=24")
    return gib


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _need_of(config: Config, dtype: torch.dtype) -> MemoryNeed:
    classes = len(config.data.stated_names or range(_CLASSES))
    network = create_model(config.network.model_name, config.network_table(), classes, variant=config.variant)
    loss_fn = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=classes, variant=config.variant
    )
    length = config.run_length(_STEPS)
    optimizer = create_optimizer(create_group_param(network, config.optimizer, length), config.optimizer)
    zero_state(optimizer)
    weights, side = _bytes(network.state_dict()), largest_side(config)
    small, large = (peak_of_step(network, loss_fn, size, side, dtype) for size in _SIZES)
    per_image = (large - small) / (_SIZES[1] - _SIZES[0])
    return MemoryNeed(
        str(dtype).removeprefix("torch."),
        weights,
        average=weights if config.ema else 0,
        optimizer=_bytes([*optimizer.state.values()]),
        first=small - per_image * _SIZES[0],
        per_image=per_image,
    )


def peak_of_step(
    network: nn.Module, loss_fn: nn.Module, images: int, side: int, dtype: torch.dtype = torch.float32
) -> int:
    """Returns the bytes that a step needs at most, gradients included, weights not.

    Args:
        network: in train mode; it is left as it is.
        loss_fn: of its training.
        images: of the batch.
        side: of an image.
        dtype: of the network's maps. (Autocast's copies of the weights in it are not reckoned.)
    """
    without_content = copy.deepcopy(network).to(device="meta", dtype=dtype)
    without_content.to(memory_format=torch.channels_last)
    loss_fn = copy.deepcopy(loss_fn).to("meta")
    with torch.device("meta"), _LiveBytes() as watch:
        batch = torch.empty((images, 3, side, side), dtype=torch.uint8).float().to(dtype)
        labels = torch.empty((images, OBJECTS, 6))
        masks = full_masks(loss_fn, labels, side)
        outputs = without_content(batch.contiguous(memory_format=torch.channels_last))
        loss, _ = loss_fn(to_float32(outputs), labels, batch, *masks)
        torch.autograd.backward(loss)
        del outputs, loss
        peak: int = watch.peak
    return peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, until each is freed.

    Attributes:
        live: bytes now.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _bytes(tree: object) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
