"""Parameter groups, optimizers and the averaged network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import GroupParam, OptimizerSettings, RunLength
from yoloflow.structures import YoloflowError

FIGURES = Path(__file__).parents[1] / "support" / "figures"
LENGTH = RunLength(epochs=2, steps_per_epoch=5, total_batch_size=32)


class Block(nn.Module):
    """One parameter of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.implicit = nn.Parameter(torch.zeros(1, 4, 1, 1))
        self.constant = nn.Parameter(torch.arange(4.0), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.bn(self.conv(images)) * self.implicit
        return product


def names_by_group(strategy: GroupParam | None, **keys: Any) -> dict[str, tuple[list[str], float]]:
    groups = create_group_param(Block(), OptimizerSettings(group_param=strategy, **keys), LENGTH)
    return {group["name"]: (group["param_names"], group["weight_decay"]) for group in groups}


@pytest.mark.parametrize("strategy", ["yolov3", "yolov5", "yolov7", "yolov8"])
def test_three_groups_with_a_decay_scaled_by_the_batch(strategy: GroupParam) -> None:
    assert names_by_group(strategy, gp_weight_decay=0.0005) == {
        "bias": (["conv.bias", "bn.bias"], 0.0),
        "weight": (["conv.weight"], 0.00025),
        "norm": (["implicit", "bn.weight"], 0.0),
    }


@pytest.mark.parametrize("strategy", ["yolov4", "filter_bias_and_bn"])
def test_two_groups_with_the_decay_as_it_stands(strategy: GroupParam) -> None:
    assert names_by_group(strategy, gp_weight_decay=0.0005) == {
        "no_decay": (["conv.bias", "bn.weight", "bn.bias"], 0.0),
        "decay": (["implicit", "conv.weight"], 0.0005),
    }


def test_without_a_strategy_there_is_one_group() -> None:
    names, decay = names_by_group(None, weight_decay=0.1)["all"]
    assert len(names) == 5
    assert decay == 0.1


def test_the_decay_grows_with_accumulation_and_falls_with_the_nominal_batch() -> None:
    length = RunLength(epochs=2, steps_per_epoch=5, total_batch_size=32, accumulate=2, nbs=128)
    settings = OptimizerSettings(group_param="yolov8", gp_weight_decay=0.001)
    decays = {group["name"]: group["weight_decay"] for group in create_group_param(Block(), settings, length)}
    assert decays == {"bias": 0.0, "weight": 0.0005, "norm": 0.0}


def groups_of(factors: dict[str, float], network: nn.Module | None = None) -> list[dict[str, Any]]:
    settings = OptimizerSettings(group_param="yolov8", gp_weight_decay=0.0005, lr_factors=factors)
    return create_group_param(network or Block(), settings, LENGTH)


def test_factors_of_the_rate_split_groups_and_keep_their_order() -> None:
    groups = groups_of({"*": 0.1, "bn.*": 2.0, "conv.bias": 1.0})
    assert [(group["name"], group["lr_factor"], group["param_names"]) for group in groups] == [
        ("bias", 1.0, ["conv.bias"]),
        ("bias", 2.0, ["bn.bias"]),
        ("weight", 0.1, ["conv.weight"]),
        ("norm", 0.1, ["implicit"]),
        ("norm", 2.0, ["bn.weight"]),
    ]
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0, 0.00025, 0.0, 0.0]


def test_a_factor_of_one_is_the_same_as_none() -> None:
    plain, ones = groups_of({}), groups_of({"*": 1.0})
    assert [group["param_names"] for group in plain] == [group["param_names"] for group in ones]


@pytest.mark.parametrize("update", [0, 3, 9])
def test_a_group_has_the_rate_of_its_name_times_its_factor(update: int) -> None:
    settings = OptimizerSettings(
        group_param="yolov8", warmup_epochs=1, warmup_bias_lr=0.1, lr_factors={"conv.*": 0.25}
    )
    optimizer = create_optimizer(create_group_param(Block(), settings, LENGTH), settings)
    schedule = create_schedule(settings, LENGTH)
    schedule.apply(optimizer, update)
    rates = {(group["name"], group["lr_factor"]): group["lr"] for group in optimizer.param_groups}
    table = schedule.lr(update)
    assert rates == {
        ("bias", 1.0): table["bias"],
        ("bias", 0.25): table["bias"] * 0.25,
        ("weight", 0.25): table["weight"] * 0.25,
        ("norm", 1.0): table["norm"],
    }


def test_a_factor_for_nothing_is_refused_by_name() -> None:
    with pytest.raises(
        YoloflowError, match=r"optimizer\.lr_factors: no parameter matches 'con\.\*'; did you mean"
    ):
        groups_of({"con.*": 0.1})
    with pytest.raises(YoloflowError, match=r"optimizer\.lr_factors: no parameter matches 'backbone'"):
        groups_of({"backbone": 0.1})
    network = Block()
    network.conv.requires_grad_(False)
    with pytest.raises(YoloflowError, match=r"all that 'conv\.\*' matches is frozen; leave one out"):
        groups_of({"conv.*": 0.1}, network)


def test_a_network_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(YoloflowError, match="nothing is left to train"):
        create_group_param(Block().requires_grad_(False), OptimizerSettings(), LENGTH)


def test_a_shared_parameter_is_updated_once() -> None:
    network = nn.Sequential(Block(), nn.Conv2d(4, 4, 1))
    network.append(network[1])
    groups = create_group_param(network, OptimizerSettings(), LENGTH)
    assert groups[0]["param_names"].count("1.weight") == 1
    assert len(groups[0]["params"]) == 7


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_formula_with_changing_rates_and_momentum(nesterov: bool) -> None:
    settings = OptimizerSettings(
        group_param="yolov8",
        gp_weight_decay=0.1,
        nesterov=nesterov,
        warmup_momentum=0.5,
        warmup_epochs=1,
        warmup_bias_lr=0.1,
    )
    network = nn.Conv2d(1, 1, 1)
    nn.init.constant_(network.weight, 0.5)  # a random one may come so near to 0 that rounding counts
    optimizer = create_optimizer(create_group_param(network, settings, LENGTH), settings)
    schedule = create_schedule(settings, LENGTH)
    weight, velocity = network.weight.item(), 0.0
    for update in range(8):
        gradient = 0.3 * (update + 1)
        network.weight.grad = torch.full_like(network.weight, gradient)
        schedule.apply(optimizer, update)
        optimizer.step()
        momentum, total = schedule.momentum[update], gradient + 0.05 * weight
        velocity = momentum * velocity + total
        weight -= schedule.lr(update)["weight"] * (total + momentum * velocity if nesterov else velocity)
        assert network.weight.item() == pytest.approx(weight, rel=1e-5)


def test_adamw_takes_the_momentum_as_its_first_beta() -> None:
    settings = OptimizerSettings(optimizer="adamw", warmup_momentum=0.5, warmup_epochs=1)
    network = Block()
    optimizer = create_optimizer(create_group_param(network, settings, LENGTH), settings)
    assert isinstance(optimizer, torch.optim.AdamW)
    create_schedule(settings, LENGTH).apply(optimizer, 0)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_a_schedule_for_other_groups_is_refused() -> None:
    settings = OptimizerSettings(group_param="yolov8")
    optimizer = create_optimizer(
        create_group_param(Block(), OptimizerSettings(), LENGTH), OptimizerSettings()
    )
    with pytest.raises(YoloflowError, match="group 'all' is not in the schedule: bias, weight, norm"):
        create_schedule(settings, LENGTH).apply(optimizer, 0)


def averages_of(start: np.ndarray, rows: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """What the average is after each of these values of a weight, and the counter at the end."""
    network = nn.Linear(1, len(start), bias=False)
    averages = []
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(start)[:, None])
        ema = EMA(network)
        for row in rows:
            network.weight.copy_(torch.from_numpy(row)[:, None])
            ema.update()
            averages.append(ema.network.get_parameter("weight").numpy()[:, 0].copy())
    return averages, ema.updates


def test_the_average_equals_the_reference() -> None:
    with np.load(FIGURES / "optim_tables.npz") as file:
        # The 50 averages in the file are all of its first row of weights: they approach it and stay.
        averages, updates = averages_of(file["ema/init"], [file["ema/weights"][0]] * 50)
        np.testing.assert_allclose(averages, file["ema/ema"], rtol=0, atol=1e-6)
    assert updates == 51


def test_the_average_of_changing_weights_follows_its_formula() -> None:
    rows = list(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    averages, _ = averages_of(np.ones(3, np.float32), rows)
    expected = np.ones(3)
    for index, row in enumerate(rows):
        kept = 0.9999 * (1 - np.exp(-(index + 2) / 2000))
        expected = kept * expected + (1 - kept) * row
        np.testing.assert_allclose(averages[index], expected, rtol=0, atol=1e-6)


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    network = Block()
    ema = EMA(network, decay=0.5, tau=1e-9)
    averaged = ema.network.get_submodule("bn")
    assert network.bn.running_mean is not None
    assert network.bn.num_batches_tracked is not None
    network.bn.running_mean += 2.0
    network.bn.num_batches_tracked += 7
    ema.update()
    torch.testing.assert_close(averaged.running_mean, torch.ones(4))
    assert averaged.num_batches_tracked == 7
    assert not ema.network.training
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())


def test_a_skipped_average_stays_as_it_is() -> None:
    network = Block()
    ema = EMA(network)
    with torch.no_grad():
        network.conv.weight += 1.0
    before = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    ema.update(skip=torch.ones(()))
    for name, tensor in ema.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_average_continues_from_its_state() -> None:
    network = Block()
    ema = EMA(network)
    ema.update()
    other = EMA(Block())
    other.load_state_dict(ema.state_dict())
    assert other.updates == 2
    for name, tensor in ema.network.state_dict().items():
        assert torch.equal(other.network.state_dict()[name], tensor)
