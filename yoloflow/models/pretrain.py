"""Loading weights into a network, with an account of every key; and freezing parameters by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from yoloflow.structures import YoloflowError, nearest_names
from yoloflow.weights.files import load_weights

logger = logging.getLogger("yoloflow")


@dataclass(slots=True)
class LoadReport:
    """An account of every key of a weights file and of the network.

    Attributes:
        loaded: keys taken over.
        missing: keys of the network that the file lacks.
        unexpected: keys of the file that the network lacks.
        misshaped: keys of both, with different shapes; "key: shape in the file, shape in the network".
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)

    def faults(self) -> str:
        """Returns a line for each key that was not taken over, "" where there is none."""
        kinds = (
            ("missing in the file", self.missing),
            ("not in the network", self.unexpected),
            ("shape", self.misshaped),
        )
        return "".join(f"\n  {kind}: {key}" for kind, keys in kinds for key in keys)


def load_pretrain(network: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Loads the weights of a file into a network.

    Args:
        network: takes the weights in place.
        path: .safetensors, or .pt or .pth with a plain state dict.
        strict: refuse the file unless all keys and shapes agree; otherwise the keys that agree are taken over
            and the others are named in the log.

    Returns:
        the account of every key.

    Raises:
        YoloflowError: the file is not readable, or does not fit (strict), or nothing in it fits.
    """
    weights = load_weights(path)
    state = network.state_dict()
    report = LoadReport(
        missing=[key for key in state if key not in weights],
        unexpected=[key for key in weights if key not in state],
    )
    for key, tensor in weights.items():
        if key in state and tensor.shape != state[key].shape:
            report.misshaped.append(
                f"{key}: {tuple(tensor.shape)} in the file, {tuple(state[key].shape)} here"
            )
        elif key in state:
            report.loaded.append(key)
    faults = report.faults()
    if faults and strict:
        raise YoloflowError(
            f"{path}: does not fit the network; strict_load=false takes over the {len(report.loaded)} keys "
            f"that do:{faults}"
        )
    if not report.loaded:
        raise YoloflowError(f"{path}: none of its {len(weights)} keys fits the network:{faults}")
    if faults:
        logger.warning("%s: %d of %d keys taken over:%s", path, len(report.loaded), len(state), faults)
    with torch.no_grad():
        for key in report.loaded:
            state[key].copy_(weights[key])
    return report


def freeze_layers(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Keeps parameters as they are in training.

    A BatchNorm with all its parameters frozen keeps its running statistics as well, and normalises with them.

    Args:
        network: a network of `create_model`.
        patterns: shell patterns for parameter names, such as "stem.*" or "*.bn.weight".

    Returns:
        names of the frozen parameters.

    Raises:
        YoloflowError: a pattern matches no parameter.
    """
    parameters = dict(network.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        matched = {name for name in parameters if fnmatchcase(name, pattern)}
        if not matched:
            rows = [f"{name}.*" for name, _ in network.named_children()]
            raise YoloflowError(f"freeze: no parameter matches {pattern!r}; {nearest_names(pattern, rows)}")
        frozen |= matched
    for name in frozen:
        parameters[name].requires_grad_(False)
    network.train(network.training)
    return [name for name in parameters if name in frozen]
