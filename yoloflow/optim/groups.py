"""Parameter groups: biases, weights and the rest, each with its own learning rate and decay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from yoloflow.optim.settings import OptimizerSettings, ParameterKind, RunLength
from yoloflow.parameter_choice import choose_parameters
from yoloflow.structures import YoloflowError

_NORM_LAYERS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def create_group_param(
    network: nn.Module, settings: OptimizerSettings, length: RunLength
) -> list[dict[str, Any]]:
    """Divides the trainable parameters as `settings.group_param` says.

    A parameter's kind is read off the module that owns it, never off its place in the network: "bias" (also
    the shift of normalisation layers), "weight" (convolutions and linear layers), "norm" (the scale of
    normalisation layers and any other one-dimensional weight), "other" (free parameters such as YOLOv7's
    implicit vectors).

    Args:
        network: parameters that do not require gradients are left out.
        settings: the recipe's optimizer section.
        length: batch sizes, for the strategies that scale the decay with the images an update.

    Returns:
        groups for `create_optimizer` with "name", "params", "param_names", "weight_decay" and "lr_factor";
        none is empty. After the group of a name come those of the same name with another factor.

    Raises:
        YoloflowError: nothing is trainable, or a pattern of `lr_factors` matches no trainable parameter.
    """
    strategy = settings.strategy
    decay = settings.gp_weight_decay if settings.group_param is not None else settings.weight_decay
    if strategy.is_decay_scaled:
        decay *= length.decay_factor
    factor_of = _factors(network, settings)
    groups: dict[tuple[str, float], dict[str, Any]] = {
        (name, factor): {
            "name": name,
            "params": [],
            "param_names": [],
            "weight_decay": decay if name == strategy.decayed_group else 0.0,
            "lr_factor": factor,
        }
        for name in strategy.group_names
        for factor in dict.fromkeys([1.0, *settings.lr_factors.values()])
    }
    for name, parameter, kind in _parameters_with_kinds(network):
        group = groups[strategy.group_of_kind[kind], factor_of.get(name, 1.0)]
        group["params"].append(parameter)
        group["param_names"].append(name)
    filled = [group for group in groups.values() if group["params"]]
    if not filled:
        raise YoloflowError("freeze: all parameters of the network are frozen, nothing is left to train")
    return filled


def _factors(network: nn.Module, settings: OptimizerSettings) -> dict[str, float]:
    """Returns the factor of the learning rate of each parameter that a pattern matches."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    factors: dict[str, float] = {}
    for pattern, factor in settings.lr_factors.items():
        chosen = choose_parameters(network, pattern, "optimizer.lr_factors")
        if not chosen & trained:
            raise YoloflowError(
                f"optimizer.lr_factors: all that {pattern!r} matches is frozen; leave one out"
            )
        factors |= dict.fromkeys(chosen, factor)
    return factors


def _parameters_with_kinds(network: nn.Module) -> Iterator[tuple[str, nn.Parameter, ParameterKind]]:
    seen: set[nn.Parameter] = set()
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield f"{path}.{name}".lstrip("."), parameter, _kind(module, name, parameter)


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> ParameterKind:
    if name.endswith("bias"):
        return "bias"
    if not name.endswith("weight"):
        return "other"
    return "norm" if isinstance(module, _NORM_LAYERS) or parameter.ndim < 2 else "weight"
