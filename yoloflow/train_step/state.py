"""The state of a train step: all tensors that continuing needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from yoloflow.optim.ema import EMA
from yoloflow.structures import YoloflowError
from yoloflow.train_step.grad_reducer import GradReducer
from yoloflow.train_step.loss_scaler import LossScaler
from yoloflow.train_step.non_finite import NonFiniteState
from yoloflow.train_step.running_statistics import RunningStatistics

_UNFINISHED = "unfinished."


class OtherStateError(YoloflowError):
    """A training state has other tensors than the training that should go on from it."""


class StepState:
    """Collects the tensors of network, EMA and its counter, optimizer, scaler and an unfinished update."""

    def __init__(
        self,
        network: nn.Module,
        ema: EMA | None,
        optimizer: torch.optim.Optimizer,
        scaler: LossScaler,
        non_finite: NonFiniteState,
        skipped_updates: Tensor,
        statistics: RunningStatistics,
        reducer: GradReducer,
    ) -> None:
        """Takes the parts of a train step."""
        self._network, self._ema, self._optimizer, self._scaler = network, ema, optimizer, scaler
        self._non_finite, self._skipped_updates = non_finite, skipped_updates
        self._statistics, self._reducer = statistics, reducer

    def state_dict(self, is_unfinished: bool) -> dict[str, Tensor]:
        """Returns the live tensors, to be written before the next step.

        Args:
            is_unfinished: whether an update is unfinished; each device has its own part of it, so all of them
                must call.
        """
        tensors = self._live_tensors()
        if is_unfinished:
            for rank, part in enumerate(self._reducer.gather(self._unfinished_tensors())):
                tensors |= {f"{_UNFINISHED}{rank}.{name}": tensor for name, tensor in part.items()}
        return tensors

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state_dict` gave, from any device.

        Raises:
            YoloflowError: a tensor is missing, unexpected or of another shape.
        """
        own = self._live_tensors()
        unfinished = self._reducer.own_part(tensors, _UNFINISHED)
        weights = {f"gradient.{name}": weight for name, weight in self._trained().items()}
        _require_same_names(own, {n: t for n, t in tensors.items() if not n.startswith(_UNFINISHED)})
        gradients = {name: tensor for name, tensor in unfinished.items() if name.startswith("gradient.")}
        _require_same_names({name: weights[name] for name in gradients if name in weights}, gradients)
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        for name, gradient in gradients.items():
            weights[name].grad = torch.empty_like(weights[name]).copy_(gradient)
        self._statistics.load_state_dict(unfinished)

    def _trained(self) -> dict[str, nn.Parameter]:
        trained = {weight for group in self._optimizer.param_groups for weight in group["params"]}
        return {name: value for name, value in self._network.named_parameters() if value in trained}

    def _unfinished_tensors(self) -> dict[str, Tensor]:
        """Returns this device's part of an unfinished update."""
        gradients = {
            f"gradient.{name}": parameter.grad
            for name, parameter in self._trained().items()
            if parameter.grad is not None
        }
        return gradients | self._statistics.state_dict()

    def _live_tensors(self) -> dict[str, Tensor]:
        tensors = {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
        if self._ema is not None:
            tensors |= {f"ema.{name}": tensor for name, tensor in self._ema.state_dict().items()}
        for name, parameter in self._trained().items():
            for key, tensor in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = tensor
        tensors |= {f"hold.{name}": tensor for name, tensor in self._non_finite.state_dict().items()}
        tensors["skipped_updates"] = self._skipped_updates
        return tensors | {f"scaler.{name}": tensor for name, tensor in self._scaler.state_dict().items()}


def _require_same_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Checks that a state is of the training that takes it.

    Args:
        own: the training's tensors by name.
        given: the state's.

    Raises:
        OtherStateError: a tensor is missing, unexpected or of another shape.
    """
    missing = sorted(own.keys() - given.keys())
    unexpected = sorted(given.keys() - own.keys())
    misshaped = [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
    for fault, names in (
        ("lacks", missing),
        ("has unknown", unexpected),
        ("has misshaped", sorted(misshaped)),
    ):
        if names:
            raise OtherStateError(
                f"the training state {fault} {len(names)} tensors, first {names[0]}: "
                "it is of another network or config; resume with the run's own config.yaml"
            )
