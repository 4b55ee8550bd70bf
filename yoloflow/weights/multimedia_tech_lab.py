"""Names of YOLOv9 in MultimediaTechLab's YOLO (MIT): layers by number, the main head before auxiliary rows.

Source: github.com/MultimediaTechLab/YOLO, yolo/model/module.py and yolo/config/model/v9-*.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

# The heads' branches -> name inside a level.
_BRANCHES = {"box_branches": "anchor_conv", "class_branches": "class_conv"}
_LEAF = "anc2vec.anc2vec.weight"


def multimedia_tech_lab_names(network: nn.Module, numbered: Mapping[str, str]) -> dict[str, str]:
    """Returns our name -> theirs, for a network of YOLOv9.

    Args:
        network: with rows that only training needs.
        numbered: our name -> the original's, after "model.".
    """
    rows = [name for name, _ in network.named_children()]
    with_tensors = {ours.partition(".")[0] for ours in numbered}
    main, _ = network.inference_part()  # type: ignore[operator]
    head = main[-1]
    # Their tables have no row that hands the images on.
    order = main if main[0] in with_tensors else main[1:]
    order += [row for row in rows if row not in main]
    places = {row: number for number, row in enumerate(order)}
    # Of two convolutions or more each has a number.
    several = {
        ours.partition(".")[0] for ours, path in numbered.items() if path.split(".")[1] not in ("cv1", "conv")
    }
    names = {}
    for ours, path in numbered.items():
        row, inner = ours.partition(".")[0], path.partition(".")[2]
        if row == head:
            names[ours] = _of_head(ours, places[head], len(order))
        else:
            names[ours] = (
                f"{places[row]}.{_inner(inner) if row in several else re.sub('^cv1', 'conv', inner)}"
            )
    return names


def _inner(path: str) -> str:
    """Returns their name inside a row of several convolutions: cv1 to cv5 are conv1 to conv5."""
    path = re.sub(r"(^|\.)m\.", r"\1bottleneck.", path)
    return re.sub(r"(^|\.)cv(\d)(?=\.)", r"\1conv\2", path)


def _of_head(ours: str, main: int, auxiliary: int) -> str:
    """Returns their name of a head's tensor."""
    _, child, rest = ours.split(".", 2)
    place = auxiliary if child.startswith("auxiliary_") else main
    child = child.removeprefix("auxiliary_")
    if child == "dfl":
        return f"{place}.heads.0.{_LEAF}"
    level, _, leaf = rest.partition(".")
    return f"{place}.heads.{level}.{_BRANCHES[child]}.{leaf}"


def with_one_kernel_of_bins(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of a file with the bins 0, 1, ... once for each head, in the original's shape.

    They have them for each level. Others than these stay as they are.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(_LEAF) and torch.equal(
            tensor.flatten().float(), torch.arange(tensor.numel()).float()
        ):
            if ".heads.0." in f".{name}":
                found[name] = tensor.view(1, -1, 1, 1)
            continue
        found[name] = tensor
    return found
