"""Settings of the machine: devices, threads, random generators."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from yoloflow.settings import Count, Section

Determinism = Literal["none", "data", "bitwise"]


class MachineSettings(Section):
    """Settings of devices, threads and determinism."""

    seed: int = Field(0, ge=0, description="of weights, order and augmentation")
    determinism: Determinism = Field(
        "data", description="what a second training repeats: none, data (samples and their order), or bitwise"
    )
    device: str = Field(
        "auto", description="auto (the accelerator, else the CPU) or torch's name, such as cuda:1"
    )
    rank_timeout: float = Field(900.0, gt=0, description="seconds that a rank waits for the others at most")
    threads: Count | None = Field(None, description="CPU threads of a process (null: torch's own choice)")
