"""A training of a few weights on batches made up in memory, for tests of the loop itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from yoloflow.callbacks import BaseCallback, RunContext, TestFunction
from yoloflow.data.concat_loader import ConcatLoader
from yoloflow.data.loader import BatchExtent
from yoloflow.data.loading_time import LoadingTime
from yoloflow.evaluation.result import EvaluationResult
from yoloflow.models.layers.normalization import synchronize_batch_norm
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.run.folder import RunFolder
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import Batch
from yoloflow.train_step.step import (
    StepSettings,
    TrainStep,
    create_train_step_fn,
    get_gradreducer,
    get_loss_scaler,
)
from yoloflow.trainer.create import create_trainer
from yoloflow.trainer.settings import TrainerSettings
from yoloflow.trainer.trainer import Trainer

SETTINGS = OptimizerSettings(group_param="yolov8", nesterov=True, lr_init=0.05, warmup_epochs=1)
STEPS_PER_EPOCH, EPOCHS, STAGE_END = 6, 4, 15
BATCH = 4


class MeanTimesBatch(nn.Module):
    """As the YOLO losses: a mean over the images, multiplied by their number."""

    def forward(
        self, outputs: torch.Tensor, labels: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert outputs.dtype == labels.dtype == torch.float32
        target = labels[:, 0, 2:5].sum(1) + images.float().mean((1, 2, 3))
        loss = (outputs.mean((1, 2, 3)) - target).square().mean() * len(images)
        return loss, torch.stack([loss, loss / len(images)])


class ByteConv2d(nn.Conv2d):
    """As the networks: images may be bytes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.float())


class ToyLoader:
    """Four epochs of six batches in two stages; batches of chosen steps (from 1) are poisoned."""

    def __init__(self, poisoned: dict[int, float] | None = None) -> None:
        self.poisoned = poisoned or {}
        self.loading_time = LoadingTime()
        self.epochs, self.steps_per_epoch = EPOCHS, STEPS_PER_EPOCH
        self.started_at: list[int] = []

    def stage_of(self, step: int) -> int:
        return int(step >= STAGE_END)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        self.started_at.append(start_step)
        for step in range(start_step, EPOCHS * STEPS_PER_EPOCH):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(BATCH, 3, 8, 8, generator=generator)
        if step + 1 in self.poisoned:
            images[2, 0, 0, 0] = self.poisoned[step + 1]
        labels = torch.rand(BATCH, 2, 6, generator=generator)
        sizes = torch.ones(BATCH, 2)
        return Batch(images, labels, torch.arange(BATCH) + step * BATCH, sizes, sizes, sizes)

    @property
    def largest_batch(self) -> BatchExtent:
        return BatchExtent(BATCH, 8, 2)

    @property
    def cache_memory(self) -> int:
        return 0

    def names_of(self, batch: Batch) -> list[str]:
        return [f"image{index}.jpg" for index in batch.indices.tolist()]


def toy_network() -> nn.Module:
    torch.manual_seed(0)
    parts = {
        "first": ByteConv2d(3, 4, 3, padding=1),
        "norm": nn.BatchNorm2d(4, momentum=0.03),
        "act": nn.SiLU(),
        "last": nn.Conv2d(4, 2, 1),
    }
    network = nn.Sequential()
    for name, part in parts.items():
        network.add_module(name, part)
    return network


def toy_step(
    options: StepSettings | None = None,
    scaler: str = "static",
    amp_level: str = "O0",
    is_parallel: bool = False,
) -> TrainStep:
    options = options or StepSettings()
    network = toy_network()
    if is_parallel:
        synchronize_batch_norm(network)
    length = RunLength(
        epochs=EPOCHS,
        steps_per_epoch=STEPS_PER_EPOCH,
        total_batch_size=BATCH,
        accumulate=options.accumulate,
    )
    return create_train_step_fn(
        network,
        MeanTimesBatch(),
        create_optimizer(create_group_param(network, SETTINGS, length), SETTINGS),
        create_schedule(SETTINGS, length),
        scaler=get_loss_scaler(scaler),
        reducer=get_gradreducer(is_parallel),
        ema=EMA(network),
        precision=auto_mixed_precision(amp_level, "cpu"),
        settings=options,
    )


def toy_trainer(
    folder: Path,
    step: TrainStep,
    loader: ToyLoader | None = None,
    *callbacks: BaseCallback,
    resumed: bool = False,
    ranks: Ranks | None = None,
    test_fn: TestFunction | None = None,
    identity: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Trainer:
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    context = RunContext(RunFolder(folder, resumed), ranks or Ranks(), step, test_fn, ["a"], ["loss", "mean"])
    trainer_settings = TrainerSettings(**{"memory_forecast": False, **settings})
    batches = cast(ConcatLoader, loader or ToyLoader())
    return create_trainer(context, batches, callbacks, trainer_settings, identity=identity)


def everything(step: TrainStep) -> dict[str, torch.Tensor]:
    tensors, numbers = step.state_dict()
    return tensors | {name: torch.tensor(number) for name, number in numbers.items()}


@dataclass
class Figures:
    """The figures of an evaluation, without the rest of it."""

    map: float
    map50: float = 0.5

    def figures(self) -> dict[str, Any]:
        return {"map": self.map, "map50": self.map50, "stats": [], "per_class": []}


@dataclass
class Scores:
    """A test function that gives these scores in turn."""

    scores: list[float]
    seen: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def __call__(self, network: torch.nn.Module) -> EvaluationResult:
        self.seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return cast(EvaluationResult, Figures(self.scores[len(self.seen) - 1]))
