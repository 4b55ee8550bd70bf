"""What a training on a set of millions would take on cards that are not here: `python -m benchmarks.cost`.

An estimate, not a measurement. A step is traced on tensors without content, as `yoloflow plan` does, and:

    operation   max(floating-point operations / peak rate, bytes read and written / bandwidth)
    step        sum of the operations x SLOWDOWN + gradients' bytes x 2 (n - 1) / n / bandwidth of the links
    training    epochs x ((images // (n x batch)) x step + validation images / n x a third of an image's step)

SLOWDOWN is how much longer a step takes than its operations at those rates. Two published measurements give
two, and so a range: YOLO26x, batch 64, one B200, 349 images a second after tuning (Ultralytics pull request
26180), and YOLO11s, an epoch of COCO on a GH200 in 4:40, 422 images a second (pull request 21975; its batch
is not stated, 16 is taken). Nothing of this package was measured on these cards.
"""

from __future__ import annotations

import argparse
import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.losses import create_loss
from yoloflow.memory_plan import OBJECTS, largest_side
from yoloflow.models import create_model
from yoloflow.models.precision import to_float32


@dataclass(frozen=True, slots=True)
class Card:
    """A card, and how cards are connected.

    Attributes:
        operations: floating-point operations a second that bfloat16 products reach.
        memory: bytes a second.
        links: bytes a second of a card to the other cards of its machine, and to other machines.
        in_machine: cards of a machine.
    """

    operations: float = 0.6 * 798e12
    memory: float = 3.0e12
    links: tuple[float, float] = (300e9, 40e9)
    in_machine: int = 8


@dataclass(frozen=True, slots=True)
class DataSet:
    """A training set.

    Attributes:
        images, validation: images to train on and to evaluate on.
        classes: of its objects.
        epochs: None: those of the recipe.
    """

    name: str
    images: int
    validation: int
    classes: int
    epochs: int | None = None


COCO = DataSet("COCO", 118_287, 5_000, 80)
OBJECTS365 = DataSet("Objects365", 1_740_000, 80_000, 365, 30)

H100 = Card()
GH200 = Card(memory=3.6e12)
B200 = Card(operations=0.6 * 2250e12, memory=7.2e12)

SLOWEST = ("yolov11s", GH200, 16, 422.0, 1.0)
FASTEST = ("yolov8x", B200, 64, 349.0, 0.75)
"""Recipe, card, batch and images a second of a measurement, and its operations over those of the recipe
(YOLO26x is no recipe here: 194 against 258 billion operations an image)."""

DECODED_BY_A_PROCESS = 66.0
"""Images of 640 px a second of a loader process that decodes (docs/performance.md)."""

_SIZES = (2, 6)


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds that the operations of a step need at a card's rates: `first + per_image * images`.

    Attributes:
        gradients: bytes that are averaged over the cards.
    """

    first: float
    per_image: float
    gradients: int

    def seconds(self, images: int) -> float:
        """Returns those of a batch."""
        return self.first + self.per_image * images


@dataclass(frozen=True, slots=True)
class Estimate:
    """A training on some cards.

    Attributes:
        images_per_second: of all cards, without evaluation.
        hours: of the whole training.
        steps: of an epoch.
        left_out: images that an epoch does not see, for every step has a whole batch.
    """

    images_per_second: float
    hours: float
    steps: int
    left_out: int


def estimate(
    cost: StepCost, card: Card, data: DataSet, cards: int, batch: int, epochs: int, slowdown: float
) -> Estimate:
    """Returns what a training takes; see the formula at the top.

    Args:
        cost: of a step on one card.
        card: what it runs on.
        data: the images.
        cards: in machines of `card.in_machine`.
        batch: images of a step on each card.
        epochs: with an evaluation after each.
        slowdown: a step's time over that of its operations.
    """
    link = card.links[cards > card.in_machine]
    exchange = cost.gradients * 2 * (cards - 1) / cards / link
    step = cost.seconds(batch) * slowdown + exchange
    steps = data.images // (batch * cards)
    validation = data.validation / cards * cost.per_image * slowdown / 3
    return Estimate(
        images_per_second=batch * cards / step,
        hours=epochs * (steps * step + validation) / 3600,
        steps=steps,
        left_out=data.images - steps * batch * cards,
    )


def slowdown_of(rate: float, batch: int, cost: StepCost, share: float = 1.0) -> float:
    """Returns how much longer a measured step takes than its operations at a card's rates.

    Args:
        rate: measured images a second.
        batch: of a step.
        cost: of the step of a recipe.
        share: operations of the measured network over those of the recipe.
    """
    return batch / rate / (share * cost.seconds(batch))


def step_cost(config: Config, classes: int, card: Card) -> StepCost:
    """Returns the cost of a recipe's step in bfloat16; nothing is computed.

    Args:
        config: of the recipe.
        classes: of the data.
        card: what it would run on.
    """
    network = create_model(config.network.model_name, config.network_table(), classes, variant=config.variant)
    loss_fn = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=classes, variant=config.variant
    )
    gradients = sum(4 * parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    network = copy.deepcopy(network).to(device="meta", dtype=torch.bfloat16)
    network.to(memory_format=torch.channels_last)
    loss_fn, side = loss_fn.to("meta"), largest_side(config)
    small, large = (_seconds(network, loss_fn, images, side, card) for images in _SIZES)
    per_image = (large - small) / (_SIZES[1] - _SIZES[0])
    # Of the update: gradient, weight, momentum and average are read or written about ten times.
    update = 10 * gradients / card.memory
    return StepCost(small - per_image * _SIZES[0] + update, per_image, gradients)


def _seconds(network: torch.nn.Module, loss_fn: torch.nn.Module, images: int, side: int, card: Card) -> float:
    with torch.device("meta"), _OperationTimes(card) as watch:
        batch = torch.empty((images, 3, side, side), dtype=torch.bfloat16)
        labels = torch.empty((images, OBJECTS, 6))
        outputs = network(batch.contiguous(memory_format=torch.channels_last))
        loss, _ = loss_fn(to_float32(outputs), labels, batch)
        torch.autograd.backward(loss)
        total: float = watch.seconds
    return total


class _OperationTimes(TorchDispatchMode):
    """Adds up what operations take at a card's rates.

    Attributes:
        seconds: so far.
    """

    def __init__(self, card: Card) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._card, self.seconds = card, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        is_view = bool(returns) and all(
            entry.alias_info is not None and not entry.alias_info.is_write for entry in returns
        )
        if not is_view and "empty" not in func._schema.name:
            count = flop_registry.get(func._overloadpacket)
            operations = count(*args, **(kwargs or {}), out_val=result) if count else 0
            moved = _bytes((args, kwargs)) + _bytes(result)
            self.seconds += max(operations / self._card.operations, moved / self._card.memory)
        return result


def _bytes(tree: object) -> int:
    """Returns the bytes of the tensors in a structure; a repeated (broadcast) entry is read once."""
    found = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return sum(leaf.nbytes for leaf in found if 0 not in leaf.stride())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=["yolov8n", "yolov8s", "yolov8m", "yolov8x"])
    parser.add_argument("--cards", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--batch", type=int, help="images of a step on each card (default: the recipe's)")
    options = parser.parse_args()
    slowdowns = []
    for recipe, card, batch, rate, share in (FASTEST, SLOWEST):
        cost = step_cost(load_config(recipe), COCO.classes, card)
        slowdowns.append(slowdown_of(rate, batch, cost, share))
    print(f"slowdown: {slowdowns[0]:.1f} to {slowdowns[1]:.1f}")
    head = " | ".join(f"{cards} x H100: hours, images/s" for cards in options.cards)
    print(f"| recipe, set, epochs | {head} | decoding processes a card |")
    print("|---|" + "--:|" * (len(options.cards) + 1))
    for recipe in options.recipes:
        config = load_config(recipe)
        for data in (COCO, OBJECTS365):
            print(row(recipe, config, data, options.cards, options.batch, slowdowns))


def row(
    recipe: str,
    config: Config,
    data: DataSet,
    cards: list[int],
    batch: int | None,
    slowdowns: list[float],
) -> str:
    """Returns the row of a recipe and a set.

    Args:
        recipe: its name.
        config: of the recipe.
        data: the set.
        cards: how many, for each column.
        batch: images of a step on each card; None: the recipe's.
        slowdowns: the least and the most.
    """
    cost, epochs = step_cost(config, data.classes, H100), data.epochs or config.epochs
    size, cells, rates = batch or config.per_batch_size, [], [0.0]
    for count in cards:
        ends = [estimate(cost, H100, data, count, size, epochs, slowdown) for slowdown in slowdowns]
        hours = " to ".join(f"{end.hours:.3g}" for end in ends)
        cells.append(f"{hours}, {ends[1].images_per_second:,.0f} to {ends[0].images_per_second:,.0f}")
        rates.append(ends[0].images_per_second / count)
    processes = math.ceil(max(rates) / DECODED_BY_A_PROCESS)
    return f"| {recipe}, {data.name}, {epochs} | {' | '.join(cells)} | {processes} |"


if __name__ == "__main__":
    main()
