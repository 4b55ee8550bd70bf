"""The averaged network: an exponential moving average of weights and running statistics."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

_Pairs = tuple[list[Tensor], list[Tensor]]


class EMA:
    """A second network that follows the trained one.

    Update number n keeps d = decay * (1 - exp(-n / tau)) of the average and takes 1 - d of the network, for
    parameters and floating-point buffers alike; other buffers are copied. The counter lies on the device, so
    that an update can be skipped there without asking the host.

    Attributes:
        network: the average, in eval mode, without gradients.
    """

    def __init__(
        self, network: nn.Module, decay: float = 0.9999, tau: float = 2000.0, updates: int = 1
    ) -> None:
        """Copies the network.

        Args:
            network: the network that is trained.
            decay: limit of the kept part.
            tau: updates after which the kept part is 63 % of its limit.
            updates: where the counter starts: making the copy counts as one update; 0 where `network` is
                overwritten by averaged weights from a file.
        """
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._source = network
        self._decay, self._tau = decay, tau
        device = next(network.parameters()).device
        self._updates = torch.tensor(float(updates), device=device)

    @property
    def updates(self) -> int:
        """Updates so far (waits for the device)."""
        return int(self._updates.item())

    def update(self, skip: Tensor | None = None) -> None:
        """Takes one step towards the network.

        Args:
            skip: () float tensor; where it is 1 the average and its counter stay as they are.
        """
        done = 1.0 if skip is None else 1.0 - skip
        self._updates += done
        taken = (1.0 + self._decay * torch.expm1(-self._updates / self._tau)) * done
        with torch.no_grad():
            (averaged, followed), (counters, sources) = self._pairs
            if taken.device.type == "cpu":
                # One weight a tensor, for the overload that takes it from the device and needs no copy.
                torch._foreach_lerp_(averaged, followed, [taken] * len(averaged))
            else:
                # That overload would launch a kernel for each tensor there.
                step_towards(averaged, followed, taken)
            if counters:
                torch._foreach_copy_(counters, sources)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the network's tensors as `network.<name>`, and the counter as `updates`."""
        state = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return state | {"updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a `state_dict`."""
        prefix = "network."
        self.network.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        )
        self._updates.copy_(state["updates"])

    @cached_property
    def _pairs(self) -> tuple[_Pairs, _Pairs]:
        """Tensors of the average and those they follow: of floating point, and the others.

        Looked up once, at the first update: by then the networks have their final device and memory format,
        and from then on their tensors are written in place.
        """
        floats: _Pairs = ([], [])
        others: _Pairs = ([], [])
        source = self._source.state_dict()
        for name, tensor in self.network.state_dict().items():
            averaged, followed = floats if tensor.is_floating_point() else others
            averaged.append(tensor)
            followed.append(source[name])
        return floats, others


def step_towards(averaged: list[Tensor], followed: list[Tensor], taken: Tensor) -> None:
    """Brings tensors a part `taken`, () on their device, of the way to others, in three fused kernels."""
    steps = torch._foreach_sub(followed, averaged)
    torch._foreach_mul_(steps, taken)
    torch._foreach_add_(averaged, steps)
