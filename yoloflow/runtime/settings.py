"""Settings of the machine: devices, threads, random generators."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yoloflow.settings import Count, Section

Determinism = Literal["none", "data", "bitwise"]


def command_with(launcher: str) -> str:
    """Returns a command that starts this program by a launcher: the present one, or its beginning."""
    arguments = [text for text in sys.argv[1:] if not text.startswith("device=")]
    if Path(sys.argv[0]).stem not in ("yoloflow", "__main__") or not arguments:
        return f"{launcher} yoloflow train ..."
    return f"{launcher} yoloflow {shlex.join(arguments)}"


def check_device_name(value: object) -> object:
    """Returns the name of a device as text, or refuses other trainers' forms of it: `0,1`, `-1`, `GPU`.

    Raises:
        ValueError: says what to write.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | list):
        return value
    numbers = value if isinstance(value, list) else str(value).lower().removeprefix("cuda:").split(",")
    if len(numbers) > 1:
        chosen = ",".join(str(number).strip().lower().removeprefix("cuda:") for number in numbers)
        torchrun = f"CUDA_VISIBLE_DEVICES={chosen} torchrun --nproc-per-node {len(numbers)} -m"
        raise ValueError(f"a process has one device; to start one for each: {command_with(torchrun)}")
    text = (str(numbers[0]) if isinstance(value, list) and numbers else str(value)).strip()
    if text == "-1":
        raise ValueError("-1 is the CPU to some and a free GPU to others; write device=cpu or device=auto")
    lower = text.lower()
    if text in ("gpu", "", "[]") or (text != lower and lower in ("gpu", "cpu", "cuda", "mps")):
        known = lower if lower in ("cpu", "mps") else "cuda"
        raise ValueError(f"{text!r} is no device; write device={known}")
    return text


DeviceName = Annotated[str, BeforeValidator(check_device_name)]


class MachineSettings(Section):
    """Settings of devices, threads and determinism."""

    seed: int = Field(0, ge=0, description="of weights, order and augmentation")
    determinism: Determinism = Field(
        "data", description="what a second training repeats: none, data (samples and their order), or bitwise"
    )
    device: DeviceName = Field(
        "auto",
        description="auto (the accelerator, else the CPU), the number of an accelerator, or torch's name, "
        "such as cuda:1; each process of torchrun takes its own",
    )
    threads: Count | None = Field(None, description="CPU threads of a process (null: torch's own choice)")
