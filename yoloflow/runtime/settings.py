"""Settings of the machine: devices, threads, random generators."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yoloflow.settings import Count, Section

Determinism = Literal["none", "data", "bitwise"]


def check_device_name(value: object) -> object:
    """Returns the name of a device as it is, or refuses other trainers' forms of it: `0`, `0,1`, `GPU`.

    Raises:
        ValueError: says what to write.
    """
    numbers = value if isinstance(value, list) else str(value).lower().removeprefix("cuda:").split(",")
    if len(numbers) > 1:
        chosen = ",".join(str(number).strip() for number in numbers)
        raise ValueError(
            f"a process has one device; `torchrun --nproc-per-node {len(numbers)} -m yoloflow train ...` "
            f"starts one for each, where the environment variable CUDA_VISIBLE_DEVICES={chosen} chooses which"
        )
    text = str(value).strip()
    if text.isdecimal():
        raise ValueError(f"{text} is no device; write device=cuda:{text}, or device=auto")
    if text.lower() in ("gpu", "cpu", "cuda", "") and text != text.lower() or text in ("gpu", ""):
        raise ValueError(f"{text!r} is no device; write device={'cpu' if text.lower() == 'cpu' else 'cuda'}")
    return value


DeviceName = Annotated[str, BeforeValidator(check_device_name)]


class MachineSettings(Section):
    """Settings of devices, threads and determinism."""

    seed: int = Field(0, ge=0, description="of weights, order and augmentation")
    determinism: Determinism = Field(
        "data", description="what a second training repeats: none, data (samples and their order), or bitwise"
    )
    device: DeviceName = Field(
        "auto", description="auto (the accelerator, else the CPU) or torch's name, such as cuda:1"
    )
    threads: Count | None = Field(None, description="CPU threads of a process (null: torch's own choice)")
