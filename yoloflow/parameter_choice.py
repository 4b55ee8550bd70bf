"""Parameters of a network by a pattern of their names, by the position of a row, or as its backbone."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from yoloflow.structures import YoloflowError, nearest_names

BACKBONE = "backbone"
"""Chooses all rows of the network table's section of this name."""


def choose_parameters(network: nn.Module, choice: str | int, setting: str) -> set[str]:
    """Returns the names of the parameters that a setting chooses.

    Args:
        network: of `create_model`.
        choice: a shell pattern of names, such as "stem.*" or "*.bn.weight"; "backbone"; or the position of a
            row in the table, from 0.
        setting: for the message.

    Raises:
        YoloflowError: there is no such row, or a pattern matches no parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    rows = [name for name, _ in network.named_children()]
    if isinstance(choice, int):
        if not 0 <= choice < len(rows):
            raise YoloflowError(f"{setting}={choice}: the network has rows 0 to {len(rows) - 1}")
        return {name for name in names if name.startswith(f"{rows[choice]}.")}
    if choice == BACKBONE and BACKBONE not in rows:
        backbone = rows[: vars(network).get("num_backbone_rows", 0)]
        chosen = {name for name in names if name.partition(".")[0] in backbone}
    else:
        chosen = {name for name in names if fnmatchcase(name, choice)}
    if not chosen:
        hint = nearest_names(choice, [BACKBONE, *(f"{row}.*" for row in rows)])
        raise YoloflowError(f"{setting}: no parameter matches {choice!r}; {hint}")
    return chosen
