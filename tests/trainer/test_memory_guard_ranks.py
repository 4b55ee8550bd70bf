"""Ranks of which one has less memory agree on what fits, and none waits for another within a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from yoloflow.config.reader import load_config
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.loader import BatchExtent
from yoloflow.losses import create_loss
from yoloflow.losses.loss import Loss
from yoloflow.models import create_model
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.runtime.memory import forget_peak_memory, peak_memory
from yoloflow.runtime.ranks import (
    Ranks,
    count_ranks,
    gather_over_ranks,
    leave_ranks,
    sum_over_ranks,
    without_collectives,
)
from yoloflow.structures import YoloflowError
from yoloflow.train_step.step import StepSettings, TrainStep, create_train_step_fn, get_gradreducer
from yoloflow.trainer.guards.memory import (
    MemoryForecast,
    compute_batch,
    forecast_batch,
    forecast_memory,
)

pytestmark = pytest.mark.process

RANKS, CPU = 2, torch.device("cpu")
EXTENT = BatchExtent(batch_size=24, side=32, label_rows=4)
IMAGE_BYTES = 2**24


class Cramped(nn.Module):
    """A loss of the house on a device that has no room for more than some images."""

    def __init__(self, loss_fn: Loss, limit: int, error: Exception) -> None:
        super().__init__()
        self.loss_fn, self.limit, self.error = loss_fn, limit, error
        self.sizes: list[int] = []

    def forward(self, outputs: Sequence[Tensor], labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise self.error
        loss, items = self.loss_fn(outputs, labels, images)
        return loss, items


@dataclass
class Large:
    """What a forecast asks of a loader."""

    largest_batch: BatchExtent = EXTENT
    cache_memory: int = 0


def make_step(limit: int, error: Exception) -> tuple[TrainStep, Cramped]:
    """With joined statistics, recomputed rows and a loss that is divided by what all ranks count."""
    config = load_config(
        "quickstart", ["network.width_multiple=0.125", "recompute=true", "recompute_layers=4"]
    )
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), 3, sync_bn=True)
    loss_fn = Cramped(
        create_loss(
            config.loss, anchors=config.network.anchors, stride=network.stride, nc=3, variant=config.variant
        ),
        limit,
        error,
    )
    settings, length = config.optimizer, config.run_length(4)
    step = create_train_step_fn(
        network,
        loss_fn,
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        reducer=get_gradreducer(is_parallel=True),
        settings=StepSettings(),
    )
    return step, loss_fn


def of_a_full_device(rank: int) -> dict[str, Any]:
    """The second rank's device is full at more than five images; afterwards a step is taken."""
    step, loss_fn = make_step(5 if rank == 1 else 1000, torch.OutOfMemoryError("out of memory"))
    found: dict[str, Any] = {}
    try:
        forecast_memory(step, cast(ConcatLoader, Large()), Ranks(rank, RANKS, rank))
    except YoloflowError as error:
        found["message"] = str(error)
    found["sizes"] = list(loss_fn.sizes)
    images = torch.full((2, 3, 32, 32), 128 * rank, dtype=torch.uint8)
    step(images, torch.tensor([[[0, 1, 0.5, 0.5, 0.4, 0.4]], [[1, 2, 0.4, 0.4, 0.2, 0.2]]]))
    found["weights"] = sum(float(weight.detach().double().sum()) for weight in step.network.parameters())
    return found


def of_less_room(rank: int) -> MemoryForecast:
    """The second rank has room for about twelve images, the first for all."""
    step, _ = make_step(1000, RuntimeError())

    def compute(batch_size: int) -> None:
        compute_batch(step, EXTENT, batch_size)
        torch.ones(batch_size * IMAGE_BYTES, dtype=torch.uint8)

    with without_collectives():
        compute(8)  # what stays in memory after a first step
    forget_peak_memory()
    room = (peak_memory() or 0) + 12 * IMAGE_BYTES
    return forecast_batch(compute, EXTENT.batch_size, CPU, room if rank == 1 else 2**60)


def of_another_error(rank: int) -> str:
    """The second rank's program is at fault."""
    step, _ = make_step(4 if rank == 1 else 1000, RuntimeError("shapes do not fit\nand more"))
    try:
        forecast_memory(step, cast(ConcatLoader, Large()), Ranks(rank, RANKS, rank))
    except (YoloflowError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def of_sums(rank: int) -> dict[str, Any]:
    """What is summed and gathered among all, by one rank alone, and among all again."""

    def mean_over_ranks(value: Tensor) -> Tensor:
        return sum_over_ranks(value) / count_ranks()

    compiled: Callable[[Tensor], Tensor] = torch.compile(mean_over_ranks, fullgraph=True, backend="aot_eager")
    own = torch.tensor([float(rank)])
    found: dict[str, Any] = {"together": [mean_over_ranks(own), compiled(own)]}
    if rank == 1:
        with without_collectives():
            found["alone"] = [mean_over_ranks(own), compiled(own)]
            with without_collectives():
                found["gathered"] = [gather_over_ranks(rank), count_ranks()]
            found["gathered"] += [gather_over_ranks(rank), count_ranks()]
    found["again"] = [mean_over_ranks(own), compiled(own)]
    return found


def of_kept_bytes(rank: int) -> list[int]:
    """What forward and backward of a batch keep for autograd, together and alone."""
    step, _ = make_step(1000, RuntimeError())
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    def measure() -> int:
        nonlocal kept
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            compute_batch(step, EXTENT, 4)
        return kept

    together = measure()
    with without_collectives():
        return [together, measure()]


SCENES: dict[str, Callable[[int], Any]] = {
    "full": of_a_full_device,
    "room": of_less_room,
    "error": of_another_error,
    "sums": of_sums,
    "bytes": of_kept_bytes,
}


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    torch.save({name: scene(rank) for name, scene in SCENES.items()}, f"{folder}/{rank}.pt")
    leave_ranks()


@pytest.fixture(scope="module")
def of_each_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes find."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_rank, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def test_all_ranks_end_with_one_message_that_names_the_full_device_and_what_fits(
    of_each_rank: list[dict[str, Any]],
) -> None:
    first, second = (found["full"] for found in of_each_rank)
    assert first["message"] == second["message"]
    assert first["message"].startswith(
        "cpu of rank 1 has too little memory for the largest batch to come: 24"
    )
    assert "per_batch_size=5 fits" in first["message"]
    # The ranks of a machine share its memory: they try the same size at the same time.
    assert first["sizes"] == second["sizes"]


def test_after_a_trial_that_failed_on_one_rank_the_ranks_go_on_together(
    of_each_rank: list[dict[str, Any]],
) -> None:
    assert of_each_rank[0]["full"]["weights"] == of_each_rank[1]["full"]["weights"]


@pytest.mark.skipif(peak_memory() is None, reason="only Linux tells a process's memory")
def test_the_least_room_counts_for_all(of_each_rank: list[dict[str, Any]]) -> None:
    first, second = (found["room"] for found in of_each_rank)
    assert first == second
    assert first.rank == 1
    assert 9 <= first.fits <= 13
    assert first.peak > 24 * IMAGE_BYTES


def test_another_error_of_one_rank_ends_the_others_too(of_each_rank: list[dict[str, Any]]) -> None:
    first, second = (found["error"] for found in of_each_rank)
    assert second == "RuntimeError: shapes do not fit\nand more"
    assert first == (
        "YoloflowError: rank 1 failed at a trial batch of 8 images: RuntimeError: shapes do not fit"
    )


def test_alone_a_rank_waits_for_no_other_nor_does_compiled_code(of_each_rank: list[dict[str, Any]]) -> None:
    for found in (found["sums"] for found in of_each_rank):
        assert found["together"] == found["again"] == [torch.tensor([0.5])] * 2
    assert of_each_rank[1]["sums"]["alone"] == [torch.tensor([1.0])] * 2
    assert of_each_rank[1]["sums"]["gathered"] == [[1], 1] * 2


def test_alone_a_batch_needs_the_memory_that_it_needs_together(of_each_rank: list[dict[str, Any]]) -> None:
    for found in of_each_rank:
        together, by_itself = found["bytes"]
        # Together there is a row of statistics more for each layer.
        assert by_itself == pytest.approx(together, rel=0.01)


def test_one_process_says_alone_what_it_says_anyway() -> None:
    with without_collectives():
        assert gather_over_ranks("own") == ["own"]
        assert count_ranks() == 1
    assert count_ranks() == 1
