"""Every setting of a training: the sections of all rooms, composed.

Values are as written in the recipe; what follows from them (steps per epoch, scaled decay, the class count of
a data set) is computed where it is used and never written back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec, Self, TypeVar

from pydantic import Field, model_validator

from yoloflow.callbacks.settings import CallbackSettings
from yoloflow.data.settings import BatchSettings, DataSettings
from yoloflow.data.stages import Stage
from yoloflow.evaluation.settings import EvaluationSettings
from yoloflow.losses.settings import LossSettings
from yoloflow.models.settings import NetworkSettings
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.run.settings import RunSettings
from yoloflow.runtime.settings import MachineSettings
from yoloflow.settings import Count, key_error
from yoloflow.structures import YoloflowError
from yoloflow.train_step.settings import StepSettings
from yoloflow.trainer.settings import StartSettings, TrainerSettings

P = ParamSpec("P")
R = TypeVar("R")


class SharedSettings(BatchSettings):
    """Settings that several rooms use."""

    variant: Literal["published", "mindyolo"] = Field(
        "published", description="follow the papers, or the reference wherever it deviates from them"
    )
    task: Literal["detect", "segment"] = Field(
        "detect", description="boxes, or boxes and masks; network and loss must be made for it"
    )
    epochs: Count = Field(300, description="passes over the training images")
    auto_accumulate: bool = Field(
        False, description="choose accumulate so that about nbs images make an update"
    )
    nbs: Count = Field(
        64, description="nominal batch size: of auto_accumulate and of the weight decay's scale"
    )


# A file has the keys of the last base first.
class Config(
    EvaluationSettings,
    CallbackSettings,
    TrainerSettings,
    StepSettings,
    StartSettings,
    MachineSettings,
    SharedSettings,
    RunSettings,
):
    """The settings of a training run: for each room the section that it takes."""

    data: DataSettings = Field(default_factory=DataSettings, description="images, labels and transforms")
    network: NetworkSettings = Field(description="the network's table")
    loss: LossSettings = Field(description="the loss and its gains")
    optimizer: OptimizerSettings = Field(
        default_factory=OptimizerSettings, description="optimizer and learning rates"
    )

    @model_validator(mode="after")
    def _a_loss_for_each_stage(self) -> Self:
        data, loss = len(self.data.trans_list), len(self.loss.stages)
        if loss and loss != data:
            raise key_error(
                "loss.stages",
                f"has {loss} entries, but data.train_transforms has {data} stages; "
                "give one mapping for each stage, or loss.stages=[]",
            )
        return self

    @model_validator(mode="after")
    def _patience_needs_figures(self) -> Self:
        if self.patience is not None and not self.run_eval:
            raise key_error("patience", "needs run_eval=true: it looks at the AP of the evaluations")
        return self

    @model_validator(mode="after")
    def _maps_of_whole_cells(self) -> Self:
        stride, sizes = max(self.network.stride), self.data.train_img_size
        of_stages = sizes if isinstance(sizes, list) else [sizes or self.img_size]
        for key, values in (("img_size", [self.img_size]), ("data.train_img_size", of_stages)):
            if wrong := [size for size in values if size % stride]:
                larger = (wrong[0] // stride + 1) * stride
                raise key_error(key, f"{wrong[0]} must be a multiple of {stride}, such as {larger}")
        return self

    def micro_batches_per_update(self, world_size: int = 1) -> int:
        """Micro-batches summed for an optimizer update: `accumulate`, or what brings a batch near `nbs`."""
        if not self.auto_accumulate:
            return self.accumulate
        return max(1, round(self.nbs / (self.per_batch_size * world_size)))

    def run_length(self, steps_per_epoch: int, world_size: int = 1) -> RunLength:
        """Returns the length of the training, for `yoloflow.optim`.

        Args:
            steps_per_epoch: micro-batches an epoch on one device.
            world_size: devices that train together.

        Raises:
            YoloflowError: not one optimizer update.
        """
        return RunLength(
            epochs=self.epochs,
            steps_per_epoch=steps_per_epoch,
            total_batch_size=self.per_batch_size * world_size,
            accumulate=self.micro_batches_per_update(world_size),
            nbs=self.nbs,
        )

    def steps_per_epoch(self, num_images: int, world_size: int = 1) -> int:
        """Full micro-batches of a rank in an epoch; 1 where there is none, which the loader refuses."""
        return max(num_images // (self.per_batch_size * world_size), 1)

    def stages(self, steps_per_epoch: int) -> list[Stage]:
        """The stages of the training, in order; those that vanished have no steps."""
        lengths = self.data.stage_steps(self.epochs, steps_per_epoch)
        return [
            Stage(
                steps=steps,
                transforms=rows,
                img_size=self.data.of_stage("train_img_size", number) or self.img_size,
                multi_scale=self.data.of_stage("multi_scale", number),
                rect=self.data.of_stage("rect", number),
                sampler=self.data.of_stage("sampler", number),
                loss=self.loss.stages[number] if self.loss.stages else {},
            )
            for number, (steps, rows) in enumerate(zip(lengths, self.data.trans_list, strict=True))
        ]

    def network_table(self) -> dict[str, Any]:
        """The network section as `create_model` takes it."""
        table = self.network.model_dump(exclude_none=True)
        return {**table, "recompute": self.recompute, "recompute_layers": self.recompute_layers}

    def step_settings(self, world_size: int = 1) -> StepSettings:
        """Returns the settings of the train step, with the accumulation in force on so many devices."""
        return self.model_copy(update={"accumulate": self.micro_batches_per_update(world_size)})

    def loss_ratio(self, reduction: Literal["sum", "mean"], world_size: int = 1) -> float:
        """Returns what `create_train_step_fn` multiplies a loss of this reduction by."""
        ratio = world_size if reduction == "sum" else 1 / self.micro_batches_per_update(world_size)
        return ratio / self.optimizer.loss_scale


def takes_config(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function refuse, in words, a first argument that is no `Config`, such as a recipe's name."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        config = args[0] if args else kwargs.get("config")
        if not isinstance(config, Config):
            name = f"{config!r}" if isinstance(config, str) else "RECIPE"
            raise YoloflowError(
                f"{function.__name__}({config!r}): settings are expected; write "
                f"{function.__name__}(load_config({name}))"
            )
        return function(*args, **kwargs)

    return checked
