"""Two processes with half a batch each train as one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.runtime.ranks import leave_ranks
from yoloflow.train_step.step import (
    StepSettings,
    TrainStep,
    create_train_step_fn,
    get_gradreducer,
    get_loss_scaler,
)

RANKS = 2
IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.rand(8, 2, 6, generator=torch.Generator().manual_seed(2))


class SumOverImages(nn.Module):
    """As the YOLO losses, which are multiplied by the images of a device."""

    def forward(
        self, outputs: torch.Tensor, labels: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss = (outputs.mean((1, 2, 3)) - labels[:, 0, 2]).square().sum()
        return loss, loss[None]


def make_step(world_size: int, accumulate: int, has_norm: bool, jit: bool = False) -> TrainStep:
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm2d(4) if has_norm else nn.Identity()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), middle, nn.SiLU(), nn.Conv2d(4, 2, 1))
    settings = OptimizerSettings(group_param="yolov8", nesterov=True, lr_init=0.05, gp_weight_decay=0.01)
    length = RunLength(
        epochs=3,
        steps_per_epoch=2 * accumulate,
        total_batch_size=8 // accumulate,
        accumulate=accumulate,
    )
    return create_train_step_fn(
        network,
        SumOverImages(),
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        scaler=get_loss_scaler("static"),
        reducer=get_gradreducer(is_parallel=world_size > 1),
        ema=EMA(network),
        settings=StepSettings(
            accumulate=accumulate, clip_grad=True, clip_grad_value=1.0, jit=jit, jit_backend="aot_eager"
        ),
        loss_ratio=world_size,
    )


# accumulate, has_norm, jit
CASES = {
    "plain": (1, False, False),
    "compiled": (1, False, True),
    "accumulating": (2, False, False),
    "batch_norm": (2, True, False),
}


def train_as_a_rank(rank: int, folder: str) -> None:
    """Every case for three updates, and the accumulating ones for half of a fourth."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    for name in CASES:
        torch.save(state_of_a_rank(rank, name), f"{folder}/{name}{rank}.pt")
    leave_ranks()


def state_of_a_rank(rank: int, case: str) -> dict[str, torch.Tensor]:
    accumulate, has_norm, jit = CASES[case]
    step = make_step(RANKS, accumulate, has_norm, jit)
    for images, labels in micro_batches(accumulate):
        # A micro-batch of one process is cut in two, so the images of an update are the same.
        step(images.chunk(RANKS)[rank], labels.chunk(RANKS)[rank])
    return step.state_dict()[0]


def micro_batches(accumulate: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    one_update = list(zip(IMAGES.chunk(accumulate), LABELS.chunk(accumulate), strict=True))
    return one_update * 3 + one_update[: accumulate - 1]


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, torch.Tensor]]]:
    """The state of both ranks in each case."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_as_a_rank, (str(folder),), nprocs=RANKS)
    return {
        name: [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in range(RANKS)]
        for name in CASES
    }


@pytest.mark.process
@pytest.mark.parametrize("case", ["plain", "compiled", "accumulating"])
def test_two_devices_equal_one_with_the_whole_batch(
    case: str, states: dict[str, list[dict[str, torch.Tensor]]]
) -> None:
    accumulate, has_norm, _ = CASES[case]
    alone = make_step(1, accumulate, has_norm)
    for images, labels in micro_batches(accumulate):
        alone(images, labels)
    first, second = states[case]
    expected, _ = alone.state_dict()
    assert first.keys() - expected.keys() == {
        name.replace("unfinished.0", "unfinished.1") for name in expected if "unfinished" in name
    }
    for name, tensor in expected.items():
        found = first[name]
        if "unfinished" in name:
            # Each device has its own part, of losses that are multiplied by their number.
            found = (found + first[name.replace("unfinished.0", "unfinished.1")]) / RANKS
        torch.testing.assert_close(found, tensor, rtol=1e-5, atol=1e-6 if "gradient" not in name else 1e-3)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.process
def test_devices_hold_the_same_state_with_their_own_batch_norm(
    states: dict[str, list[dict[str, torch.Tensor]]],
) -> None:
    first, second = states["batch_norm"]
    assert any(name.startswith("unfinished.1.gradient.") for name in first)
    for name, tensor in first.items():
        # Only the statistics of the unfinished update are still each device's own.
        if not (name.startswith("network.") and "running" in name):
            assert torch.equal(tensor, second[name]), name
