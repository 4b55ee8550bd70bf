"""Decides what of the step is compiled: all of it, BatchNorm and SiLU alone, or nothing."""

from __future__ import annotations

import logging
import platform
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

    "auto" is "norm" where its kernel can be built and is faster than torch's: on an x86 CPU under
    Linux, in float32 and channels_last. torch.compile is none of its choices: it takes minutes, and some
    steps gain nothing.

    Args:
        jit: as set.
        device_type: "cpu", "cuda", ...
        channels_last: whether maps lie so.
        is_float32: whether the network computes in float32.
        is_told: whether to log what "auto" is on a CPU.

    Raises:
        YoloflowError: "norm" is asked for, and the kernel cannot be built here.
    """
    if jit == "auto" and not (is_float32 and channels_last and device_type == "cpu" and _is_worth_it()):
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


def _is_worth_it() -> bool:
    """Returns whether the kernel was measured on such a machine: others have vectors of other kinds."""
    return sys.platform == "linux" and platform.machine() == "x86_64"
