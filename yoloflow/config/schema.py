"""Every setting of a training: typed, frozen, described.

Values are as written in the recipe; what follows from them (steps per epoch, scaled decay, the class count of
a data set) is computed where it is used and never written back.
"""

from __future__ import annotations

import os
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from yoloflow.callbacks.settings import CallbackSettings
from yoloflow.config.data_section import DataConfig
from yoloflow.data.stage_loaders import LoaderOptions
from yoloflow.data.stages import Stage
from yoloflow.evaluation.settings import EvaluationSettings
from yoloflow.optim.settings import OptimizerSettings, RunLength
from yoloflow.run.settings import RunSettings
from yoloflow.runtime.settings import MachineSettings
from yoloflow.settings import Count, NotNegative, Row, Section
from yoloflow.structures import DatasetIndex
from yoloflow.train_step.settings import StepSettings
from yoloflow.trainer.settings import TrainerSettings


class NetworkConfig(Section):
    """The network as a table of rows."""

    model_name: str = Field(description="family, such as yolov8")
    depth_multiple: float = Field(1.0, gt=0, description="factor on the repeats of a row")
    width_multiple: float = Field(1.0, gt=0, description="factor on the channels of a row")
    max_channels: Count | None = Field(None, description="limit of a row's channels before the factor")
    scale: str | None = Field(None, description="size letter, for blocks that depend on it")
    stride: list[Count] = Field(description="input pixels for each cell of each output level")
    reg_max: Count = Field(16, description="bins of the box distribution for each side")
    anchors: list[list[float]] | None = Field(
        None, description="anchor widths and heights in pixels, by level"
    )
    pixels: Literal["rgb_unit", "bgr_byte"] = Field(
        "rgb_unit", description="what the first row sees: RGB in 0..1, or BGR in 0..255 as YOLOX's original"
    )
    backbone: list[list[Any]] = Field(
        description="rows [name, from, number, module, args] (name may be left out)"
    )
    head: list[list[Any]] = Field(description="rows as in backbone")


class LossConfig(Section):
    """The loss by name, with its hyper-parameters as further keys."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, bool | int | float | list[int] | list[float]]

    name: str = Field(description="class name, such as YOLOv8Loss; its hyper-parameters are further keys")
    stages: list[Row] = Field(
        default_factory=list,
        description="hyper-parameters that a stage of the training has otherwise, one mapping for each stage",
    )

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """All keys but the name."""
        return dict(self.__pydantic_extra__)


class OptimizerConfig(Section):
    """Optimizer, learning rates and warm-up; lengths in updates are optimizer updates."""

    optimizer: Literal["momentum", "nesterov", "sgd", "adamw"] = Field(
        "momentum", description="update rule (the first three are SGD; nesterov switches its form on)"
    )
    lr_init: float = Field(0.01, gt=0, description="learning rate that the factors multiply")
    start_factor: NotNegative = Field(1.0, description="where the curve starts, times lr_init")
    end_factor: NotNegative = Field(0.01, description="where the curve ends, times lr_init")
    lr_scheduler: Literal["linear", "cosine", "constant", "yolox"] | None = Field(
        None, description="the curve (null: that of group_param)"
    )
    by_epoch: bool | None = Field(
        None, description="constant within an epoch (null: linear and cosine are, yolox is not)"
    )
    cooldown_epochs: int = Field(0, ge=0, description="last epochs at the final rate (yolox)")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum after the warm-up; AdamW's first beta")
    nesterov: bool = Field(False, description="Nesterov's form of the update")
    loss_scale: float = Field(1.0, gt=0, description="divides the gradients")
    warmup_epochs: NotNegative = Field(0.0, description="length of the warm-up")
    warmup_momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum at the first update (null: momentum)"
    )
    warmup_bias_lr: NotNegative = Field(
        0.0, description="learning rate of biases at the first update; others start at 0"
    )
    min_warmup_step: int = Field(0, ge=0, description="updates the warm-up has at least")
    max_warmup_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="part of all updates the warm-up has at most, for small data sets (null: no limit)",
    )
    group_param: Literal["yolov3", "yolov4", "yolov5", "yolov7", "yolov8", "filter_bias_and_bn"] | None = (
        Field(None, description="how parameters are grouped (null: one group)")
    )
    gp_weight_decay: NotNegative = Field(
        0.0, description="weight decay of the decayed group for nbs images an update"
    )
    weight_decay: NotNegative = Field(0.0, description="weight decay where group_param is null")

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Self:
        self.settings()
        return self

    def settings(self) -> OptimizerSettings:
        """The section in the words of `yoloflow.optim`.

        Raises:
            YoloflowError: two keys contradict each other.
        """
        return OptimizerSettings(**self.model_dump())


class Config(
    EvaluationSettings, CallbackSettings, TrainerSettings, StepSettings, MachineSettings, RunSettings
):
    """A training run."""

    variant: Literal["published", "mindyolo"] = Field(
        "published", description="follow the papers, or the reference wherever it deviates from them"
    )
    task: Literal["detect"] = Field("detect", description="what is trained")
    epochs: Count = Field(300, description="passes over the training images")
    per_batch_size: Count = Field(16, description="images in a batch on each device")
    img_size: Count = Field(640, description="side of the square network input in pixels")
    weight: str | None = Field(None, description="weights to start from (.safetensors)")
    ema_weight: str | None = Field(None, description="weights of the averaged network to start from")
    strict_load: bool = Field(True, description="refuse weights with missing, unexpected or misshaped names")
    freeze: list[str] = Field(
        default_factory=list, description="patterns of parameters not to train, such as stem.*"
    )
    sync_bn: bool = Field(False, description="batch statistics over all devices")
    recompute: bool = Field(
        False, description="compute activations again in the backward pass to save memory"
    )
    recompute_layers: int = Field(0, ge=0, description="how many rows from the first are recomputed")

    amp_level: Literal["O0", "O1", "O2", "O3"] = Field("O0", description="mixed precision; O0 is float32")
    amp_dtype: Literal["float16", "bfloat16"] | None = Field(
        None, description="its half type (null: by device)"
    )
    keep_loss_fp32: bool = Field(True, description="compute the loss in float32 at every level")
    ema: bool = Field(True, description="average the weights; evaluation uses the average")
    ema_decay: float = Field(0.9999, gt=0, lt=1, description="decay after many updates")
    ema_tau: float = Field(2000.0, gt=0, description="updates until the decay is near its end")
    auto_accumulate: bool = Field(
        False, description="choose accumulate so that about nbs images make an update"
    )
    nbs: Count = Field(
        64, description="nominal batch size: of auto_accumulate and of the weight decay's scale"
    )
    data: DataConfig = Field(default_factory=DataConfig, description="images, labels and transforms")
    network: NetworkConfig = Field(description="the network's table")
    loss: LossConfig = Field(description="the loss and its gains")
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig, description="optimizer and learning rates"
    )

    @model_validator(mode="after")
    def _a_loss_for_each_stage(self) -> Self:
        data, loss = len(self.data.trans_list), len(self.loss.stages)
        if loss and loss != data:
            raise ValueError(
                f"loss.stages has {loss} entries, but data.train_transforms has {data} stages; "
                "give one mapping for each stage, or loss.stages=[]"
            )
        return self

    @model_validator(mode="after")
    def _maps_of_whole_cells(self) -> Self:
        stride, sizes = max(self.network.stride), self.data.train_img_size
        for size in [self.img_size, *(sizes if isinstance(sizes, list) else [sizes or self.img_size])]:
            if size % stride:
                larger = (size // stride + 1) * stride
                raise ValueError(f"an image size of {size}: must be a multiple of {stride}, such as {larger}")
        return self

    def micro_batches_per_update(self, world_size: int = 1) -> int:
        """Micro-batches summed for an optimizer update: `accumulate`, or what brings a batch near `nbs`."""
        if not self.auto_accumulate:
            return self.accumulate
        return max(1, round(self.nbs / (self.per_batch_size * world_size)))

    def run_length(self, steps_per_epoch: int, world_size: int = 1) -> RunLength:
        """How much training there is, in the words of `yoloflow.optim`.

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

    def read_train_set(self) -> DatasetIndex:
        """The training set as the training uses it, for commands that can do without a validation set."""
        has_val = self.run_eval and self.data.val_set is not None
        return self.data.read_sets(self.img_size, has_val)["train_set"]

    def steps_per_epoch(self, num_images: int, world_size: int = 1) -> int:
        """Full micro-batches of a rank in an epoch; 1 where there is none, which the loader refuses."""
        return max(num_images // (self.per_batch_size * world_size), 1)

    def loader_options(self, rank: int = 0, world_size: int = 1) -> LoaderOptions:
        """What `create_stage_loaders` takes."""
        return LoaderOptions(
            batch_size=self.per_batch_size,
            stride=max(self.network.stride),
            rank=rank,
            world_size=world_size,
            seed=self.seed,
            num_parallel_workers=min(self.data.num_parallel_workers, os.cpu_count() or 1),
            max_labels=self.data.max_labels,
            cache=self.data.cache,
            timeout_s=self.data.load_timeout or 0.0,
        )

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

    def loss_arguments(self, stride: list[int], num_classes: int) -> dict[str, Any]:
        """What `create_loss` takes; `stride` and `num_classes` are the network's."""
        return {
            "name": self.loss.name,
            **self.loss.hyper_parameters,
            "stages": self.loss.stages,
            "anchors": self.network.anchors or 1,
            "stride": stride,
            "nc": num_classes,
            "variant": self.variant,
        }

    def step_settings(self, world_size: int = 1) -> StepSettings:
        """Returns the settings of the train step, with the accumulation in force on so many devices."""
        return self.model_copy(update={"accumulate": self.micro_batches_per_update(world_size)})

    def loss_ratio(self, reduction: Literal["sum", "mean"], world_size: int = 1) -> float:
        """Returns what `create_train_step_fn` multiplies a loss of this reduction by."""
        ratio = world_size if reduction == "sum" else 1 / self.micro_batches_per_update(world_size)
        return ratio / self.optimizer.loss_scale
