"""Weights of MindYOLO (MindSpore) networks: their names, and loading them into ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yoloflow.structures import YoloflowError

BATCH_NORM_LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
# MindYOLO stores these as parameters although nothing trains them; our heads hold them as attributes, or not.
_CONSTANTS = ("stride", "anchors", "anchor_grid", "convert_matrix")

_WITHOUT_CONSTANTS = ("yolov4", "yolox")
"""Families whose heads store none in MindYOLO."""


def mindyolo_names(model: nn.Module) -> dict[str, str]:
    """Returns MindYOLO's name of every parameter and running statistic of `model`.

    A module whose children are called otherwise than in MindYOLO carries `mindyolo_names`, a mapping of child
    name to MindYOLO's path (empty where MindYOLO has the child's parts in the module itself); all other names
    are taken as they are. BatchNorm's leaves follow MindSpore.

    Returns:
        our name -> MindYOLO's name; `num_batches_tracked` is left out, as MindSpore does not count batches.
    """
    names: dict[str, str] = {}
    for our_prefix, their_prefix, module in _walk(model, "", ""):
        leaves = [name for name, _ in module.named_parameters(recurse=False)]
        unsaved = module._non_persistent_buffers_set | {"num_batches_tracked"}
        leaves += [name for name, _ in module.named_buffers(recurse=False) if name not in unsaved]
        for leaf in leaves:
            their_leaf = BATCH_NORM_LEAVES[leaf] if isinstance(module, _BatchNorm) else leaf
            names[our_prefix + leaf] = their_prefix + their_leaf
    return names


def mindyolo_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns a network's weights, and the constants that MindYOLO stores with them, by MindYOLO's names."""
    state = model.state_dict()
    tensors = {theirs: state[ours] for ours, theirs in mindyolo_names(model).items()}
    if getattr(model, "model_name", "") in _WITHOUT_CONSTANTS:
        return tensors
    for name, value in constants_of(model).items():
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
        elif name.endswith(".stride") and isinstance(value, list):
            tensors[name] = torch.tensor(value, dtype=torch.int32)
    return tensors


def load_mindyolo(model: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Copies a MindYOLO network's weights into the same network of ours.

    Every name is accounted for on both sides. Constants of the reference's heads (stride, anchors) are
    compared with the model's own. Nothing is copied unless everything fits.

    Args:
        model: a network made by `create_model`.
        arrays: MindYOLO's parameter names -> arrays; float16 is widened.

    Raises:
        YoloflowError: a name has no counterpart, or a shape or a constant differs; all of them are named.
    """
    state = model.state_dict()
    targets = {theirs: state[ours] for ours, theirs in mindyolo_names(model).items()}
    constants = constants_of(model)
    faults: list[str] = [f"missing in the arrays: {name}" for name in targets if name not in arrays]
    for name, array in arrays.items():
        if name in targets:
            if tuple(array.shape) != tuple(targets[name].shape):
                faults.append(
                    f"shape of {name}: {tuple(array.shape)}, the network has {tuple(targets[name].shape)}"
                )
        elif name in constants:
            faults += _compare_constant(name, array, constants[name])
        else:
            faults.append(f"not in the network: {name}")
    if faults:
        raise YoloflowError(
            f"MindYOLO weights do not fit the network, {len(faults)} faults:\n  " + "\n  ".join(faults)
        )
    with torch.no_grad():
        for name, tensor in targets.items():
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))


def _walk(module: nn.Module, our_prefix: str, their_prefix: str) -> list[tuple[str, str, nn.Module]]:
    """Returns every module with both names of it, each ending in a dot."""
    found = [(our_prefix, their_prefix, module)]
    translation: Mapping[str, str] = getattr(module, "mindyolo_names", {})
    for name, child in module.named_children():
        theirs = translation.get(name, name)
        found += _walk(child, f"{our_prefix}{name}.", f"{their_prefix}{theirs}." if theirs else their_prefix)
    return found


def constants_of(model: nn.Module) -> dict[str, object]:
    """Returns the value of each possible constant, None where our module has none, by MindYOLO's name."""
    return {
        their_prefix + name: getattr(module, name, None)
        for _, their_prefix, module in _walk(model, "", "")
        for name in _CONSTANTS
    }


def _compare_constant(name: str, array: np.ndarray, ours: object) -> list[str]:
    if ours is None:
        return []
    expected = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    if expected.shape == array.shape and np.allclose(expected, array):
        return []
    return [f"constant {name}: {array.tolist()}, the network has {expected.tolist()}"]
