"""Mixed precision: the dtype that the network computes in; the loss stays in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from yoloflow.models.settings import ModelSettings
from yoloflow.runtime.device import has_bfloat16
from yoloflow.structures import YoloflowError, nearest_names

AMP_LEVELS = ("O0", "O1", "O2", "O3")
AMP_DTYPES: Mapping[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Precision:
    """The precision of the forward pass; parameters, statistics and optimizer are always float32.

    Attributes:
        device_type: "cpu", "cuda", ...
        dtype: half-precision type of the network, or None for float32 throughout.
        keep_loss_fp32: whether the loss is computed in float32 outside autocast.
    """

    device_type: str
    dtype: torch.dtype | None = None
    keep_loss_fp32: bool = True

    def autocast(self) -> torch.autocast:
        """Returns the context for the forward pass."""
        return torch.autocast(self.device_type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)


def auto_mixed_precision(
    amp_level: str, device_type: str, dtype: str | None = None, keep_loss_fp32: bool = True
) -> Precision:
    """Returns the precision that a recipe's `amp_level` asks for.

    O0 is float32. O1, O2 and O3 are one thing here, `torch.autocast`: convolutions and matrix products in
    half precision on float32 parameters, normalisation statistics and reductions in float32. (O3 of the
    reference casts the statistics too, which loses accuracy.) "auto" is O2 on accelerators, and O0 on the
    CPU and on mps.

    Args:
        amp_level: "O0" to "O3", or "auto".
        device_type: type of the device that the network is on.
        dtype: "float16", "bfloat16", or None: bfloat16 where the device has it, else float16.
        keep_loss_fp32: compute the loss in float32, outside autocast.

    Raises:
        YoloflowError: unknown level or dtype.
    """
    amp_level = level_of(amp_level, device_type)
    if amp_level not in AMP_LEVELS:
        raise YoloflowError(f"amp_level={amp_level}: unknown; {nearest_names(amp_level, AMP_LEVELS)}")
    if dtype is not None and dtype not in AMP_DTYPES:
        raise YoloflowError(f"amp_dtype={dtype}: unknown; {nearest_names(dtype, AMP_DTYPES)}")
    if amp_level == "O0":
        return Precision(device_type, None, keep_loss_fp32)
    name = dtype or ("bfloat16" if has_bfloat16(device_type) else "float16")
    return Precision(device_type, AMP_DTYPES[name], keep_loss_fp32)


def level_of(amp_level: str, device_type: str) -> str:
    """Returns a level, with "auto" decided for a type of device."""
    if amp_level != "auto":
        return amp_level
    return "O0" if device_type in ("cpu", "mps") else "O2"


def create_precision(settings: ModelSettings, device_type: str) -> Precision:
    """Returns the precision that the settings ask for on a device."""
    return auto_mixed_precision(settings.amp_level, device_type, settings.amp_dtype, settings.keep_loss_fp32)


def to_float32(outputs: object) -> object:
    """Returns network outputs (tensors in lists, tuples and dicts) with half-precision tensors as float32."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, dict):
        return {name: to_float32(value) for name, value in outputs.items()}
    if isinstance(outputs, list):
        return [to_float32(value) for value in outputs]
    if isinstance(outputs, tuple):
        return tuple(to_float32(value) for value in outputs)
    return outputs
