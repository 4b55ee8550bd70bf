"""Every recipe builds with its published number of parameters; the smallest of each family works whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yoloflow.config.catalog import list_recipes
from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.engine.train_step import StepOptions, TrainStep, create_train_step_fn
from yoloflow.losses import Loss, create_loss
from yoloflow.models import Network, create_model
from yoloflow.optim import EMA, RunLength, create_group_param, create_optimizer, create_schedule
from yoloflow.plan import make_plan
from yoloflow.weights.files import load_weights, save_weights

CLASSES = 80

# Recipe -> parameters in training, and after `fuse()`; the published figure (millions) in the comment.
PARAMETERS = {
    "yolov8n": (3_157_200, 3_151_904),  # 3.2
    "yolov8s": (11_166_560, 11_156_544),  # 11.2
    "yolov8m": (25_902_640, 25_886_080),  # 25.9
    "yolov8l": (43_691_520, 43_668_288),  # 43.7
    "yolov8x": (68_229_648, 68_200_608),  # 68.2
}
# The smallest recipe of each family that works whole here, with what makes it small enough.
SMALLEST: dict[str, list[str]] = {
    "yolov8n": ["network.width_multiple=0.125"],
}
# Recipes that change only how another recipe is trained.
SAME_NETWORK = ("quickstart", "-small-data")


def recipe_names() -> list[str]:
    names = [recipe.name for recipe in list_recipes()]
    return [name for name in names if not name.endswith(SAME_NETWORK)]


def network_of(config: Config, classes: int = CLASSES) -> Network:
    torch.manual_seed(0)
    return create_model(config.network.model_name, config.network_table(), classes, variant=config.variant)


def small(recipe: str) -> tuple[Config, Network, Loss]:
    config = load_config(recipe, SMALLEST[recipe])
    network = network_of(config, classes=5)
    return config, network, create_loss(**config.loss_arguments(network.stride, 5))


def side_of(network: Network) -> int:
    """A small picture: two cells of the coarsest level."""
    return 2 * max(network.stride)


def batch_of(side: int, boxes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Two images and labels; `boxes` (G, 4) cx, cy, w, h in 0..1 stand in both."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, side, side, generator=generator)
    if boxes is None:
        boxes = torch.tensor([[0.4, 0.5, 0.6, 0.7], [0.7, 0.3, 0.2, 0.3], [0.2, 0.8, 0.15, 0.1]])
    labels = torch.full((2, len(boxes) + 1, 6), -1.0)
    labels[..., 0] = torch.arange(2)[:, None]
    labels[:, : len(boxes), 1] = torch.arange(len(boxes)) % 5
    labels[:, : len(boxes), 2:] = boxes
    return images, labels


def train_step_of(config: Config, network: Network, loss: Loss) -> TrainStep:
    settings, length = config.optimizer.settings(), RunLength(epochs=2, steps_per_epoch=4, total_batch_size=2)
    return create_train_step_fn(
        network,
        loss,
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        ema=EMA(network),
        options=StepOptions(),
    )


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_builds_with_its_number_of_parameters(recipe: str) -> None:
    config = load_config(recipe)
    with torch.device("meta"):
        network = network_of(config)
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (network, network.fuse()))
    assert counts == PARAMETERS[recipe]


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_s_loss_optimizer_and_plan_can_be_made(recipe: str) -> None:
    config = load_config(recipe)
    with torch.device("meta"):
        network = network_of(config)
    loss = create_loss(**config.loss_arguments(network.stride, CLASSES))
    assert loss.loss_item_name[0] == "loss"
    plan = make_plan(config, steps_per_epoch=100)
    assert plan.num_updates >= config.epochs
    groups = create_group_param(network, plan.settings, plan.length)
    assert {group["name"] for group in groups} <= set(plan.schedule.lr_by_group)


def test_every_recipe_s_family_is_tried_whole() -> None:
    families = {load_config(name).network.model_name for name in recipe_names()}
    assert families == {load_config(name).network.model_name for name in SMALLEST}


@pytest.mark.parametrize("recipe", SMALLEST)
def test_a_family_trains_evaluates_saves_and_loads(recipe: str, tmp_path: Path) -> None:
    config, network, loss = small(recipe)
    images, labels = batch_of(side_of(network))
    step = train_step_of(config, network.train(), loss)
    before = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    for _ in range(3):
        result = step(images, labels)
        assert result.loss_items.isfinite().all()
        assert len(result.loss_items) == len(loss.loss_item_name)
    unchanged = [name for name, p in network.named_parameters() if name in before and p.equal(before[name])]
    assert len(unchanged) < 0.2 * len(before), unchanged
    save_weights(tmp_path / "weights.safetensors", network.state_dict())
    again = network_of(config, classes=5)
    again.load_state_dict(load_weights(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        first, second = (net.eval()(images)[0] for net in (network, again))
    assert first.isfinite().all()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("recipe", SMALLEST)
def test_a_fused_network_gives_the_same_predictions(recipe: str) -> None:
    _, network, _ = small(recipe)
    images, _ = batch_of(side_of(network))
    with torch.no_grad():
        for _ in range(3):
            network.train()(images)  # running statistics other than those of a new network
        expected = network.eval()(images)[0]
        found = network.fuse()(images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("recipe", SMALLEST)
def test_network_loss_and_gradients_compile_as_one_graph(recipe: str) -> None:
    _, network, loss = small(recipe)
    images, labels = batch_of(side_of(network))

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = loss(network(images), labels, images)
        return result

    found: list[Any] = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        network.zero_grad()
        total, items = function(images, labels)
        total.backward()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        found.append((total.detach(), items, torch.cat([gradient.flatten() for gradient in gradients])))
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5 * float(eager.abs().max()))


STRANGE_BOXES = {
    "no boxes": torch.zeros(0, 4),
    "one giant box": torch.tensor([[0.5, 0.5, 1.0, 1.0]]),
    "one tiny box": torch.tensor([[0.5, 0.5, 1e-3, 1e-3]]),
    "boxes of no area": torch.tensor([[0.5, 0.5, 0.0, 0.3], [0.2, 0.2, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]),
    "the same box twice": torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(2, 1),
    "300 boxes": torch.rand(300, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.1,
}


@pytest.mark.parametrize("kind", STRANGE_BOXES)
@pytest.mark.parametrize("recipe", SMALLEST)
def test_strange_labels_give_a_finite_loss_and_finite_gradients(recipe: str, kind: str) -> None:
    _, network, loss = small(recipe)
    images, labels = batch_of(side_of(network), STRANGE_BOXES[kind])
    total, items = loss(network.train()(images), labels, images)
    total.backward()
    assert total.isfinite()
    assert items.isfinite().all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.full
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_size_trains_evaluates_saves_and_loads(recipe: str, tmp_path: Path) -> None:
    SMALLEST.setdefault(recipe, [])
    test_a_family_trains_evaluates_saves_and_loads(recipe, tmp_path)
