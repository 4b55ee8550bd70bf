"""The settings on `auto` that a machine decides."""

from __future__ import annotations

import logging
from typing import Any

from yoloflow.config.schema import Config
from yoloflow.data.settings import CPU_TEST_WORKERS, CPU_WORKERS
from yoloflow.models.precision import level_of
from yoloflow.runtime.device import Machine, float32_convolutions, prefers_channels_last
from yoloflow.runtime.ranks import Ranks
from yoloflow.train_step.compilation import settle_jit
from yoloflow.train_step.graphed_pass import why_no_graphs

logger = logging.getLogger("yoloflow")

_MOST_WORKERS = 16


def resolve_auto(config: Config, machine: Machine, ranks: Ranks, is_training: bool = True) -> Config:
    """Returns the settings with each `auto` that the machine decides replaced by what it stands for.

    The main rank tells those of an accelerator in a line, and where half precision would make a CPU faster,
    or makes it slower.

    Args:
        config: as written.
        machine: the device of this process, and its cores.
        ranks: this process among its peers.
        is_training: whether a training is about to begin; else an evaluation.
    """
    found = _precision(config, machine) | _data(config, machine, ranks)
    if config.channels_last == "auto":
        found["channels_last"] = prefers_channels_last(machine.device_type)
    if is_training and config.jit == "auto":
        found["jit"] = settle_jit(
            config.jit,
            machine.device_type,
            channels_last=bool(found.get("channels_last", config.channels_last)),
            is_float32=found.get("amp_level", config.amp_level) == "O0",
            is_told=ranks.is_main,
        )
    if config.datasink == "auto":
        found["datasink"] = machine.device_type != "cpu"
    if is_training and config.cuda_graphs == "auto":
        can_have = (
            not why_no_graphs(machine.device_type, ranks.world_size, config.jit) and not config.recompute
        )
        found["cuda_graphs"] = can_have and bool(found.get("datasink", config.datasink))
    if ranks.is_main and is_training and found and machine.device_type != "cpu":
        logger.info("%s", _told(found, config, machine))
    if ranks.is_main and is_training and (hint := _hint_about_bfloat16(config.amp_level, machine)):
        logger.info("%s", hint)
    data = {key.removeprefix("data."): found.pop(key) for key in list(found) if key.startswith("data.")}
    return config.model_copy(update={**found, "data": config.data.model_copy(update=data)})


def _precision(config: Config, machine: Machine) -> dict[str, Any]:
    """Returns level and type of mixed precision, and the loss scaler that goes with them."""
    level, is_cpu = level_of(config.amp_level, machine.device_type), machine.device_type == "cpu"
    dtype = config.amp_dtype or ("bfloat16" if machine.has_bfloat16 else "float16")
    found: dict[str, Any] = {"amp_level": level} if config.amp_level == "auto" else {}
    if level != "O0" and not is_cpu and config.amp_dtype is None:
        found["amp_dtype"] = dtype
    if config.loss_scaler == "auto":
        needed = "dynamic" if level != "O0" and dtype == "float16" else "none"
        found["loss_scaler"] = "static" if is_cpu else needed
    return found


def _hint_about_bfloat16(amp_level: str, machine: Machine) -> str:
    """Returns what to know of half precision on this CPU; empty where the setting is what fits it."""
    if machine.cpu_has_bfloat16 is False and amp_level not in ("auto", "O0"):
        return (
            f"amp_level={amp_level}: this CPU has no instructions for bfloat16, in which a step takes longer "
            "than in float32; amp_level=O0 is faster and exact"
        )
    if machine.cpu_has_bfloat16 and amp_level == "auto":
        return (
            "float32 as always on a CPU; this one has instructions for bfloat16: amp_level=O2 takes about "
            "half the time"
        )
    return ""


def _data(config: Config, machine: Machine, ranks: Ranks) -> dict[str, Any]:
    """Returns the worker processes of training and evaluation."""
    is_cpu, training = machine.device_type == "cpu", config.data.num_parallel_workers
    found: dict[str, Any] = {}
    if training == "auto":
        own_cores = machine.cores // ranks.local_size
        training = CPU_WORKERS if is_cpu else max(1, min(own_cores - 1, _MOST_WORKERS))
        found["data.num_parallel_workers"] = training
    if config.data.test_workers == "auto":
        found["data.test_workers"] = min(training, CPU_TEST_WORKERS) if is_cpu else training
    return found


def _told(found: dict[str, Any], config: Config, machine: Machine) -> str:
    """Returns the line that tells what was decided."""
    words = {True: "true", False: "false"}
    decided = ", ".join(f"{key}={words.get(value, value)}" for key, value in found.items())
    kind = machine.device_type
    arithmetic = "" if kind == "cpu" else f"; convolutions in float32 take {float32_convolutions(kind)}"
    return f"on {kind} auto is {decided}{arithmetic}"
