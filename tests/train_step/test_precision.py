"""Every combination of precision, loss scaling and the rest of the step trains a real network on the CPU."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor

from yoloflow.config.reader import load_config
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.train_step.step import (
    auto_mixed_precision,
    create_train_step_fn,
    get_loss_scaler,
)

STEADY = ("optimizer.warmup_epochs=0", "optimizer.min_warmup_step=0", "optimizer.lr_init=0.01")
PLAIN = ("amp_level=O0", "loss_scaler=none", "clip_grad=false", "overflow_still_update=false")
SIDE, BATCH, CLASSES, UPDATES = 64, 4, 2, 12


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.full((BATCH, 4, 6), -1.0)
    labels[:, :3, 0] = torch.arange(BATCH)[:, None].float()
    labels[:, :3, 1] = torch.randint(0, CLASSES, (BATCH, 3), generator=generator).float()
    labels[:, :3, 2:4] = torch.rand(BATCH, 3, 2, generator=generator) * 0.6 + 0.2
    labels[:, :3, 4:6] = torch.rand(BATCH, 3, 2, generator=generator) * 0.3 + 0.2
    return images, labels


def train(*overrides: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of the micro-batches of some updates on one batch, and the weights afterwards."""
    small = ("network.width_multiple=0.125", f"per_batch_size={BATCH}")
    config = load_config("yolov5n", [*small, *STEADY, *PLAIN, *overrides])
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), CLASSES)
    settings, length = config.optimizer, config.run_length(UPDATES)
    loss_fn = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=CLASSES, variant=config.variant
    )
    step = create_train_step_fn(
        network,
        loss_fn,
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        scaler=get_loss_scaler(config.loss_scaler, config.loss_scaler_value),
        ema=EMA(network),
        precision=auto_mixed_precision(config.amp_level, "cpu", config.amp_dtype, config.keep_loss_fp32),
        settings=config.step_settings(),
        loss_ratio=config.loss_ratio(loss_fn.reduction),
    )
    images, labels = batch()
    losses = [step(images, labels).loss_items[0] for _ in range(UPDATES * config.accumulate)]
    assert int(step.skipped_updates) == 0
    return torch.stack(losses), {name: tensor.clone() for name, tensor in network.state_dict().items()}


@cache
def exact() -> Tensor:
    """The losses in float32."""
    return train()[0]


# Of float32's losses, relative: half precision is another path through the same valley.
NEAR = 0.08
SCALERS = (
    ("loss_scaler=none",),
    ("loss_scaler=static",),
    ("loss_scaler=dynamic", "loss_scaler_value=65536"),
)


@pytest.mark.training
@pytest.mark.parametrize("scaler", SCALERS, ids=lambda scaler: scaler[0])
@pytest.mark.parametrize("loss", ["keep_loss_fp32=true", "keep_loss_fp32=false"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_learns_what_float32_learns(dtype: str, loss: str, scaler: tuple[str, ...]) -> None:
    losses, weights = train("amp_level=O2", f"amp_dtype={dtype}", loss, *scaler)
    assert losses[-1] < 0.95 * losses[0]
    torch.testing.assert_close(losses, exact(), rtol=NEAR, atol=0)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights.values())


@pytest.mark.training
@pytest.mark.parametrize("scaler", SCALERS, ids=lambda scaler: scaler[0])
def test_a_loss_scale_changes_nothing_in_float32(scaler: tuple[str, ...]) -> None:
    torch.testing.assert_close(train(*scaler)[0], exact(), rtol=1e-5, atol=0)


@pytest.mark.training
def test_the_levels_above_o0_are_one() -> None:
    one, two, three = (train(f"amp_level={level}")[1] for level in ("O1", "O2", "O3"))
    assert all(
        torch.equal(two[name], tensor) and torch.equal(three[name], tensor) for name, tensor in one.items()
    )


MORE = (
    ("clip_grad=true", "clip_grad_value=5"),
    ("accumulate=2",),
    ("overflow_still_update=true",),
    ("recompute=true", "recompute_layers=4"),
    ("channels_last=true",),
    ("jit=true", "jit_backend=aot_eager"),
)


@pytest.mark.training
@pytest.mark.parametrize(
    "more",
    [pytest.param(more, id=more[0], marks=pytest.mark.full if "jit=true" in more else ()) for more in MORE],
)
def test_half_precision_goes_with_everything_else(more: tuple[str, ...]) -> None:
    half, whole = (train(f"amp_level={level}", *more)[0] for level in ("O2", "O0"))
    assert half[-1] < half[0]
    torch.testing.assert_close(half, whole, rtol=NEAR, atol=0)


@pytest.mark.full
@pytest.mark.parametrize(
    "more", list(itertools.combinations(MORE, 3)), ids=lambda more: "-".join(key[0] for key in more)
)
@pytest.mark.parametrize("scaler", SCALERS, ids=lambda scaler: scaler[0])
def test_half_precision_goes_with_three_at_a_time(
    more: tuple[tuple[str, ...], ...], scaler: tuple[str, ...]
) -> None:
    overrides = (*scaler, *itertools.chain.from_iterable(more))
    half, whole = (train(f"amp_level={level}", *overrides)[0] for level in ("O2", "O0"))
    assert half[-1] < half[0]
    torch.testing.assert_close(half, whole, rtol=NEAR, atol=0)
