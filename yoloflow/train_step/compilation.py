"""Decides what of the step is compiled: all of it, BatchNorm and SiLU alone, or nothing."""

from __future__ import annotations

import logging
import sys
import time
from typing import Literal

from yoloflow.models.layers.norm_silu import require_norm_silu
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

Jit = bool | Literal["auto", "norm"]


def settle_jit(
    jit: Jit, device_type: str, *, channels_last: bool, is_float32: bool = True, is_told: bool = False
) -> bool | Literal["norm"]:
    """Returns what "auto" stands for, and the other values as they are.

    "auto" is "norm" where its kernel can be built and is of use: in a step on the CPU in float32 and
    channels_last. torch.compile is none of its choices: it takes minutes, and makes some steps no faster.

    Args:
        jit: as set.
        device_type: "cpu", "cuda", ...
        channels_last: whether maps lie so.
        is_float32: whether the network computes in float32.
        is_told: whether to log what "auto" is on a CPU.

    Raises:
        YoloflowError: "norm" is asked for, and the kernel cannot be built here.
    """
    if jit == "auto" and not (
        device_type == "cpu" and channels_last and is_float32 and sys.platform == "linux"
    ):
        return False
    if jit not in ("auto", "norm"):
        return bool(jit)
    start = time.perf_counter()
    try:
        require_norm_silu()
    except YoloflowError as error:
        if jit == "norm":
            raise YoloflowError(
                f"jit=norm: {error}; jit=false takes torch's kernels, with which a step takes a little longer"
            ) from error
        if is_told:
            logger.info("jit=auto: %s, so torch's kernels are taken; a step takes a little longer", error)
        return False
    if is_told and jit == "auto":
        seconds = time.perf_counter() - start
        logger.info("BatchNorm and SiLU run in one kernel, built in %.1f s (jit=norm)", seconds)
    return "norm"
