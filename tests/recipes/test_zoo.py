"""Every recipe builds with its published number of parameters; the smallest of each kind works whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.recipe_files import kinds, networks, sweep
from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.losses import Loss, create_loss
from yoloflow.models import Network, create_model
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import RunLength
from yoloflow.plan import make_plan
from yoloflow.train_step.step import StepSettings, TrainStep, create_train_step_fn
from yoloflow.weights.files import load_weights, save_weights

CLASSES = 80

# Recipe -> parameters in training, after `fuse()`, and the published figure in millions.
PARAMETERS: dict[str, tuple[int, int, float | None]] = {
    "yolov3": (61_949_149, 61_922_845, 61.9),
    "yolov3-darknet": (61_949_149, 61_922_845, 61.9),
    "yolov4": (64_625_245, 64_592_093, 64.4),
    "yolov4-darknet": (64_363_101, 64_329_949, 64.4),
    "yolov4-silu": (64_625_245, 64_592_093, None),
    "yolov5n": (1_872_157, 1_867_405, 1.9),
    "yolov5s": (7_235_389, 7_225_885, 7.2),
    "yolov5m": (21_190_557, 21_172_173, 21.2),
    "yolov5l": (46_563_709, 46_533_693, 46.5),
    "yolov5x": (86_749_405, 86_705_005, 86.7),
    "yolov5n6": (3_246_940, 3_239_884, 3.2),
    "yolov5n6-mindyolo": (3_490_972, 3_483_724, 3.5),
    "yolov5s6": (12_626_620, 12_612_508, 12.6),
    "yolov5s6-mindyolo": (13_569_340, 13_554_844, 13.6),
    "yolov5m6": (35_731_932, 35_704_908, 35.7),
    "yolov5m6-mindyolo": (38_473_500, 38_445_708, 38.5),
    "yolov5l6": (76_770_172, 76_726_332, 76.8),
    "yolov5l6-mindyolo": (82_769_020, 82_723_900, 82.9),
    "yolov5x6": (140_794_780, 140_730_220, 140.7),
    "yolov7-tiny": (6_228_762, 6_219_709, 6.2),
    "yolov7": (37_622_682, 36_905_341, 36.9),
    "yolov7-x": (71_347_394, 71_311_741, 71.3),
    "yolov7-w6": (82_312_436, 70_394_300, 70.4),
    "yolov7-e6": (111_898_292, 97_202_940, 97.2),
    "yolov7-d6": (154_709_364, 133_757_052, 154.7),
    "yolov7-e6e": (166_408_884, 151_687_420, 151.7),
    "yolov7-e6e-mindyolo": (167_406_324, 152_685_340, None),
    "yolov8n": (3_157_200, 3_151_904, 3.2),
    "yolov8s": (11_166_560, 11_156_544, 11.2),
    "yolov8m": (25_902_640, 25_886_080, 25.9),
    "yolov8l": (43_691_520, 43_668_288, 43.7),
    "yolov8x": (68_229_648, 68_200_608, 68.2),
    "yolov8x6": (97_423_072, 97_382_352, 97.4),
    "yolov8n-seg": (3_409_968, 3_404_320, 3.4),
    "yolov8s-seg": (11_821_056, 11_810_560, 11.8),
    "yolov8m-seg": (27_285_968, 27_268_704, 27.3),
    "yolov8l-seg": (45_997_728, 45_973_568, 46.0),
    "yolov8x-seg": (71_827_888, 71_797_696, 71.8),
    "yolov9t": (3_717_680, 2_407_632, 2.0),
    "yolov9s": (9_804_512, 7_105_888, 7.1),
    "yolov9m": (33_070_752, 20_120_608, 20.0),
    "yolov9m-mindyolo": (32_561_152, 19_661_632, None),
    "yolov9c": (51_182_080, 25_288_768, 25.3),
    "yolov9c-mindyolo": (51_112_208, 25_288_768, None),
    "yolov9e": (69_529_664, 57_345_920, 57.3),
    "yolov10n": (2_775_520, 2_299_264, 2.3),
    "yolov10s": (8_128_272, 7_248_960, 7.2),
    "yolov10m": (16_576_768, 15_359_488, 15.4),
    "yolov10b": (20_574_384, 19_065_792, 19.1),
    "yolov10l": (25_888_688, 24_371_008, 24.4),
    "yolov10x": (31_808_960, 29_473_568, 29.5),
    "yolov11n": (2_624_080, 2_616_248, 2.6),
    "yolov11s": (9_458_752, 9_443_760, 9.4),
    "yolov11m": (20_114_688, 20_091_712, 20.1),
    "yolov11l": (25_372_160, 25_340_992, 25.3),
    "yolov11x": (56_966_176, 56_919_424, 56.9),
    "yolox-nano": (912_159, 904_463, 0.91),
    "yolox-nano-original": (912_159, 904_463, 0.91),
    "yolox-tiny": (5_055_855, 5_047_191, 5.06),
    "yolox-s": (8_968_255, 8_956_703, 9.0),
    "yolox-m": (25_326_495, 25_304_847, 25.3),
    "yolox-l": (54_208_895, 54_174_271, 54.2),
    "yolox-x": (99_071_455, 99_020_975, 99.1),
    "yolox-darknet53": (63_724_767, 63_695_903, 63.7),
}
# Neither count is within 0.6 % (and rounding) of the published figure; docs/parity.md says why.
DIFFERENT = {"yolov9t"}


def network_of(config: Config, classes: int = CLASSES) -> Network:
    torch.manual_seed(0)
    return create_model(config.network.model_name, config.network_table(), classes, variant=config.variant)


def small(recipe: str) -> tuple[Config, Network, Loss]:
    return built(load_config(recipe, kinds()[recipe].small))


def built(config: Config) -> tuple[Config, Network, Loss]:
    network = network_of(config, classes=5)
    return (
        config,
        network,
        create_loss(
            config.loss, anchors=config.network.anchors, stride=network.stride, nc=5, variant=config.variant
        ),
    )


def side_of(network: Network) -> int:
    """The side of a small image: two cells of the coarsest level."""
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


def masks_for(loss: Loss, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Masks in stripes, one for each row of the labels, for losses that take masks."""
    height, width = images.shape[2] // 4, images.shape[3] // 4
    stripes = torch.arange(width) % (labels.shape[1] + 1)
    return [stripes.expand(len(images), height, width).to(torch.int32)] if loss.takes_masks else []


def train_step_of(config: Config, network: Network, loss: Loss) -> TrainStep:
    settings, length = config.optimizer, RunLength(epochs=2, steps_per_epoch=4, total_batch_size=2)
    return create_train_step_fn(
        network,
        loss,
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        ema=EMA(network),
        settings=StepSettings(),
    )


@pytest.mark.parametrize("recipe", kinds())
def test_a_kind_of_network_has_a_loss_and_comes_back_from_its_state_dict(recipe: str) -> None:
    config, network, loss = small(recipe)
    images, labels = batch_of(64)
    total, items = loss(network.train()(images), labels, images, *masks_for(loss, images, labels))
    assert total.isfinite()
    assert len(items) == len(loss.loss_item_name)
    again = network_of(config, classes=5)
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        first, second = (net.eval()(images)[0] for net in (network, again))
    assert first.isfinite().all()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_every_published_figure_is_a_recipe_s_and_every_part_is_swept() -> None:
    assert set(PARAMETERS) <= set(networks())
    parts = frozenset[str]().union(*(file.parts for file in networks().values()))
    assert parts == frozenset[str]().union(*(file.parts for file in sweep().values()))
    assert {file.family for file in kinds().values()} == {file.family for file in networks().values()}


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", PARAMETERS)
def test_a_recipe_builds_with_its_number_of_parameters(recipe: str) -> None:
    config = load_config(recipe)
    with torch.device("meta"):
        network = network_of(config)
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (network, network.fuse()))
    assert counts == PARAMETERS[recipe][:2]
    published = PARAMETERS[recipe][2]
    if published is not None:
        is_near = any(abs(count / 1e6 - published) <= 0.006 * published + 0.05 for count in counts)
        assert is_near == (recipe not in DIFFERENT)


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", networks())
def test_a_recipe_s_loss_optimizer_and_plan_can_be_made(recipe: str) -> None:
    config = load_config(recipe)
    with torch.device("meta"):
        network = network_of(config)
    loss = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=CLASSES, variant=config.variant
    )
    assert loss.loss_item_name[0] == "loss"
    plan = make_plan(config, steps_per_epoch=100)
    assert plan.num_updates >= config.epochs
    groups = create_group_param(network, plan.settings, plan.length)
    assert {group["name"] for group in groups} <= set(plan.schedule.lr_by_group)


@pytest.mark.training
@pytest.mark.parametrize("recipe", kinds())
def test_a_kind_of_network_trains_evaluates_saves_and_loads(recipe: str, tmp_path: Path) -> None:
    assert_works_whole(*small(recipe), tmp_path)


def assert_works_whole(config: Config, network: Network, loss: Loss, tmp_path: Path) -> None:
    images, labels = batch_of(side_of(network))
    step = train_step_of(config, network.train(), loss)
    before = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    for _ in range(3):
        result = step(images, labels, *masks_for(loss, images, labels))
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


@pytest.mark.oracle
@pytest.mark.parametrize("recipe", kinds())
def test_a_fused_network_gives_the_same_predictions(recipe: str) -> None:
    _, network, _ = small(recipe)
    images, _ = batch_of(side_of(network))
    with torch.no_grad():
        for _ in range(3):
            network.train()(images)  # running statistics other than those of a new network
        expected = network.eval()(images)[0]
        found = network.fuse()(images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


# Networks of many rows, half a minute and more each; smaller ones of their families have the other parts.
LONG_TO_COMPILE = {"yolov7-d6", "yolov7-e6e", "yolov9s", "yolov9c"}


@pytest.mark.compile
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=pytest.mark.full if name in LONG_TO_COMPILE else ()) for name in sweep()],
)
def test_network_loss_and_gradients_compile_as_one_graph(recipe: str) -> None:
    torch._dynamo.reset()  # each family is compiled once; the count of compilations is the process's
    _, network, loss = small(recipe)
    images, labels = batch_of(side_of(network))
    masks = masks_for(loss, images, labels)

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = loss(network(images), labels, images, *masks)
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


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", STRANGE_BOXES)
@pytest.mark.parametrize("recipe", kinds())
def test_strange_labels_give_a_finite_loss_and_finite_gradients(recipe: str, kind: str) -> None:
    _, network, loss = small(recipe)
    images, labels = batch_of(side_of(network), STRANGE_BOXES[kind])
    total, items = loss(network.train()(images), labels, images, *masks_for(loss, images, labels))
    total.backward()
    assert total.isfinite()
    assert items.isfinite().all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.full
@pytest.mark.parametrize("recipe", networks())
def test_every_size_trains_evaluates_saves_and_loads(recipe: str, tmp_path: Path) -> None:
    assert_works_whole(*built(load_config(recipe)), tmp_path)


def test_the_parity_page_has_every_recipe_with_its_counts() -> None:
    text = (Path(__file__).parents[2] / "docs/parity.md").read_text()
    for recipe, (training, fused, _) in PARAMETERS.items():
        assert f"| {recipe} | {training:,} | {fused:,} |" in text, recipe


@pytest.mark.fuzz
@pytest.mark.parametrize("recipe", sweep())
def test_neither_the_order_of_labels_nor_what_stands_in_padding_rows_counts(recipe: str) -> None:
    _, network, loss = small(recipe)
    images, labels = batch_of(side_of(network), STRANGE_BOXES["300 boxes"][:9])
    garbage = torch.tensor([0.0, -1, float("nan"), float("inf"), -3, 1e9]).expand(2, 4, 6)
    with torch.no_grad():
        outputs = network.train()(images)
        masks = masks_for(loss, images, labels)
        moved = [torch.where(mask > 0, 5 + labels.shape[1] - mask, 0) for mask in masks]
        expected = loss(outputs, labels, images, *masks)[1]
        found = loss(outputs, torch.cat((garbage, labels.flip(1)), 1), images, *moved)[1]
    # In YOLOv7, as in the original, two objects may bring the same cell as two equal candidates; which of the
    # two a third object takes then depends on the order.
    tolerance = 1e-5
    if network.model_name == "yolov7":
        tolerance = 5e-3 if "tiny" in recipe else 1.5e-2  # more levels, more such cells: 1.04 % measured
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-6)
