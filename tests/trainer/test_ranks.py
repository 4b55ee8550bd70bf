"""Several processes train as one: batch statistics and the losses' divisors are those of the joined batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.losses import create_loss
from yoloflow.models import create_model, freeze_layers
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import RunLength
from yoloflow.runtime.ranks import leave_ranks, sum_over_ranks
from yoloflow.train_step.step import (
    TrainStep,
    create_train_step_fn,
    get_gradreducer,
)

pytestmark = pytest.mark.process

RANKS, BATCH, CLASSES, SIDE = 2, 8, 3, 128
NARROW = ("network.width_multiple=0.125",)
# Recipe -> overrides that make its network small: one for each kind of loss, and further ones.
KINDS: dict[str, tuple[str, ...]] = {
    "yolov4": NARROW,
    "yolov5n": NARROW,
    "yolov7-tiny": (),
    "yolov8n": NARROW,
    "yolox-nano": (),
}
MORE: dict[str, tuple[str, ...]] = {
    "yolov3": NARROW,
    "yolov7-w6": NARROW,
    "yolov9t": (),
    "yolov10n": NARROW,
    "yolov11n": NARROW,
}


def batch() -> tuple[Tensor, Tensor]:
    """Images and labels; the second half of the images has no object at all."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.full((BATCH, 6, 6), -1.0)
    half = labels[: BATCH // 2]
    half[..., 1] = torch.randint(0, CLASSES, half.shape[:2], generator=generator).float()
    half[..., 2:4] = torch.rand(*half.shape[:2], 2, generator=generator) * 0.6 + 0.2
    half[..., 4:6] = torch.rand(*half.shape[:2], 2, generator=generator) * 0.3 + 0.1
    return images, labels


def make_step(recipe: str, world_size: int, *overrides: str) -> TrainStep:
    small = (*(KINDS | MORE)[recipe], f"per_batch_size={BATCH // world_size}", "optimizer.warmup_epochs=0")
    config = load_config(recipe, [*small, *overrides])
    torch.manual_seed(0)
    network = create_model(
        config.network.model_name,
        config.network_table(),
        CLASSES,
        sync_bn=world_size > 1,
        variant=config.variant,
    )
    freeze_layers(network, config.freeze)
    loss = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=CLASSES, variant=config.variant
    )
    settings = config.optimizer
    length = RunLength(epochs=1, steps_per_epoch=4, total_batch_size=BATCH)
    return create_train_step_fn(
        network,
        loss,
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        reducer=get_gradreducer(world_size > 1),
        settings=config.step_settings(world_size),
        loss_ratio=config.loss_ratio(loss.reduction, world_size),
    )


def figures_of_an_update(recipe: str, rank: int, world_size: int, *overrides: str) -> dict[str, Tensor]:
    """The loss items of all ranks together, and the norm of the gradient."""
    # Kernels of the other layout round a half and a whole batch differently: 1.3e-5 apart with YOLOv4.
    step = make_step(recipe, world_size, "channels_last=false", *overrides)
    images, labels = (part.chunk(world_size)[rank] for part in batch())
    result = step(images, labels)
    assert result.grad_norm is not None
    return {"items": sum_over_ranks(result.loss_items) / world_size, "norm": result.grad_norm}


def reference_loss_of_a_half(recipe: str, half: int) -> Tensor:
    """The loss items of made-up network outputs, by the reference's rules."""
    config = load_config(recipe, ["variant=mindyolo"])
    loss = create_loss(
        config.loss, anchors=config.network.anchors, stride=[8, 16, 32], nc=CLASSES, variant=config.variant
    )
    generator = torch.Generator().manual_seed(7)
    outputs = [
        torch.randn(BATCH, 64 + CLASSES, SIDE // s, SIDE // s, generator=generator) for s in (8, 16, 32)
    ]
    images, labels = (part.chunk(2)[half] for part in batch())
    items: Tensor = loss([level.chunk(2)[half] for level in outputs], labels, images)[1]
    return items


def train_as_a_rank(rank: int, folder: str, recipes: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    figures: dict[str, Any] = {recipe: figures_of_an_update(recipe, rank, RANKS) for recipe in recipes}
    if "yolov8n" in recipes:
        figures["compiled"] = figures_of_an_update(
            "yolov8n", rank, RANKS, "jit=true", "jit_backend=aot_eager"
        )
    figures["reference"] = reference_loss_of_a_half("yolov8n", rank)
    torch.save(figures, f"{folder}/{rank}.pt")
    leave_ranks()


def figures_of_ranks(folder: Path, recipes: Iterable[str]) -> list[dict[str, Any]]:
    mp.spawn(train_as_a_rank, (str(folder), tuple(recipes)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def of_each_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes with half of the batch each find."""
    return figures_of_ranks(tmp_path_factory.mktemp("ranks"), KINDS)


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found["items"], expected["items"], rtol=1e-5, atol=1e-7)
    # Weights that differ by rounding (1e-7) move these norms by up to 3e-4.
    torch.testing.assert_close(found["norm"], expected["norm"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("recipe", KINDS)
def test_half_a_batch_each_gives_loss_and_gradient_of_the_whole_batch(
    recipe: str, of_each_rank: list[dict[str, Any]]
) -> None:
    alone = figures_of_an_update(recipe, 0, 1)
    for found in of_each_rank:
        assert_close(found[recipe], alone)


@pytest.mark.full
def test_half_a_batch_each_gives_the_same_in_the_other_families_too(tmp_path: Path) -> None:
    found = figures_of_ranks(tmp_path, MORE)
    for recipe in MORE:
        alone = figures_of_an_update(recipe, 0, 1)
        for rank in found:
            assert_close(rank[recipe], alone)


def test_a_compiled_step_joins_the_batch_too(of_each_rank: list[dict[str, Any]]) -> None:
    assert_close(of_each_rank[0]["compiled"], of_each_rank[0]["yolov8n"])


def test_in_the_variant_mindyolo_each_process_divides_by_its_own_scores(
    of_each_rank: list[dict[str, Any]],
) -> None:
    for rank in range(RANKS):
        assert torch.equal(of_each_rank[rank]["reference"], reference_loss_of_a_half("yolov8n", rank))


def test_micro_batches_of_a_loss_that_is_a_mean_equal_the_large_batch() -> None:
    gradients = []
    for accumulate in (1, 2):
        size = BATCH // accumulate
        step = make_step(
            "yolov4", 1, f"accumulate={accumulate}", f"per_batch_size={size}", "freeze=['*.bn.*']"
        )
        for images, labels in zip(*(part.split(size) for part in batch()), strict=True):
            result = step(images, labels)
        gradients.append(result.grad_norm)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What the flow logs with one process and with two; the weights all but stay where they are."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
    sets = [f"data.{part}_set={digits_dataset(part, recipe, folder / 'data')}" for part in ("train", "val")]
    logs = []
    for ranks in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["-m", "yoloflow", "train", "quickstart", *sets, f"save_dir={folder}", f"name={ranks}"]
        command += [f"per_batch_size={BATCH // ranks}", "sync_bn=true", "epochs=2", "log_interval=1"]
        command += ["img_size=64", *NARROW, "optimizer.lr_init=1.e-6", "optimizer.warmup_bias_lr=0"]
        done = subprocess.run(
            [*command, "device=cpu", "threads=1"], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        lines = (folder / str(ranks) / "metrics.jsonl").read_text().splitlines()
        logs.append([json.loads(line) for line in lines])
    return logs


def test_two_processes_log_the_losses_and_figures_of_one(runs: list[list[dict[str, Any]]]) -> None:
    for one, two in zip(*runs, strict=True):
        assert one["kind"] == two["kind"]
        if one["kind"] == "step":
            # Weights that differ by rounding (1e-7) change an untrained network's loss by up to 3e-5.
            for key in ("loss", "lr", "momentum", "update"):
                assert two[key] == pytest.approx(one[key], rel=1e-4), (one["step"], key)
        if one["kind"] == "evaluation":
            assert two["stats"] == pytest.approx(one["stats"], abs=1e-3)
