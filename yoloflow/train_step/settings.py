"""Settings of the train step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from yoloflow.settings import Count, Section


class StepSettings(Section):
    """Settings of a step: accumulation, loss scale, clipping, compilation."""

    accumulate: Count = Field(1, description="micro-batches summed for an update")
    loss_scaler: Literal["auto", "static", "dynamic", "none"] = Field(
        "auto",
        description="keeps float16 gradients in range; auto is static on the CPU, where it changes nothing, "
        "and on accelerators dynamic for float16, else none",
    )
    loss_scaler_value: float = Field(1024.0, gt=0, description="its (first) scale")
    overflow_still_update: bool = Field(False, description="apply gradients that are not finite")
    clip_grad: bool = Field(False, description="limit the norm of the accumulated gradient")
    clip_grad_value: float = Field(10.0, gt=0, description="its limit")
    channels_last: bool | Literal["auto"] = Field(
        "auto",
        description="memory layout of maps and weights: auto takes it where convolutions are faster so",
    )
    jit: bool | Literal["auto", "norm"] = Field(
        "auto",
        description="what of the step is compiled: true all, by torch.compile; norm BatchNorm and SiLU, by "
        "the machine's C++ compiler (CPU only); auto is norm where that works, else false",
    )
    jit_backend: str = Field("inductor", description="torch.compile's back end")
    cuda_graphs: bool | Literal["auto"] = Field(
        "auto",
        description="start forward and backward of a batch as one CUDA graph; auto does with a data sink on "
        "one CUDA device where nothing is compiled",
    )
