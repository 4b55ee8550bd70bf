"""Settings of the network: its table, what it starts from, its precision."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from yoloflow.models.layers.normalization import EPS, MOMENTUM
from yoloflow.settings import Count, Section, key_error

Pixels = Literal["rgb_unit", "bgr_byte"]
"""What a network's first row sees: red, green, blue in 0..1, or blue, green, red in 0..255."""


class NetworkSettings(Section):
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
    pixels: Pixels = Field(
        "rgb_unit", description="what the first row sees: RGB in 0..1, or BGR in 0..255 as YOLOX's original"
    )
    norm_momentum: float = Field(
        MOMENTUM,
        gt=0,
        le=1,
        description="part of a batch's statistics in BatchNorm's running ones, each step",
    )
    norm_eps: float = Field(
        EPS, gt=0, description="what BatchNorm adds to the variance; 1e-5 in Darknet's own networks"
    )
    backbone: list[list[Any]] = Field(
        description="rows [name, from, number, module, args] (name may be left out)"
    )
    head: list[list[Any]] = Field(description="rows as in backbone")


class ModelSettings(Section):
    """Settings of the network's start weights and of its computation."""

    weight: str | None = Field(
        None,
        description="weights to start from: a file, a run folder, or published (downloaded, of the recipe)",
    )
    strict_load: bool | Literal["auto"] = Field(
        "auto",
        description="auto: only what depends on the classes may differ; true: nothing may; false: anything",
    )
    finetune: bool | Literal["auto"] = Field(
        "auto",
        description="take the gentle schedule of recipes/finetune.yaml: auto does where weight is given",
    )
    freeze: int | str | list[int | str] = Field(
        default_factory=list,
        description="parameters not to train: so many rows, backbone, or patterns such as stem.*",
    )
    sync_bn: bool = Field(False, description="batch statistics over all devices")
    recompute: bool = Field(
        False, description="compute activations again in the backward pass to save memory"
    )
    recompute_layers: int = Field(0, ge=0, description="how many rows from the first are recomputed")

    amp_level: Literal["auto", "O0", "O1", "O2", "O3"] = Field(
        "auto", description="mixed precision; O0 is float32; auto is O2 on accelerators, else O0"
    )
    amp_dtype: Literal["float16", "bfloat16"] | None = Field(
        None, description="its half type (null: bfloat16 where the device has it, else float16)"
    )
    keep_loss_fp32: bool = Field(True, description="compute the loss in float32 at every level")

    @field_validator("freeze", mode="before")
    @classmethod
    def _choices(cls, freeze: object) -> object:
        for entry in freeze if isinstance(freeze, list) else [freeze]:
            is_row = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
            if not is_row and not (isinstance(entry, str) and entry):
                raise ValueError(
                    "takes a number of rows, backbone, a pattern such as stem.*, or a list of patterns and "
                    f"positions of rows, not {entry!r}"
                )
        return freeze

    @model_validator(mode="after")
    def _finetuning_has_weights(self) -> Self:
        if self.finetune is True and self.weight is None:
            raise key_error(
                "finetune", "true needs the weights to start from: add weight=FILE or weight=published"
            )
        return self
