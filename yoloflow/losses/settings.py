"""Settings of the loss."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from yoloflow.settings import Row, Section


class LossSettings(Section):
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
