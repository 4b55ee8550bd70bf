"""Numbers that are not finite: noticed on the device, held back there, and traced to a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteState:
    """Once an update is faulty it and all after it are held back, until the host has looked.

    So the device can go on with steps that were already queued, and the state is that before the fault.
    All tensors are on the device.

    Attributes:
        is_on: whether updates are held; otherwise nothing is.
        losses_finite: () bool, whether the losses of the update in progress are.
        update: () int64, the first update that was held back; -1: none.
        broken: () int64, the first update that left weights which are not finite; -1: none. What comes after
            it is held back, whether `is_on` or not.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is held."""
        self.is_on = False
        self.losses_finite = torch.ones((), dtype=torch.bool, device=device)
        self.update = torch.full((), -1, dtype=torch.int64, device=device)
        self.broken = torch.full((), -1, dtype=torch.int64, device=device)

    def is_clear(self) -> bool:
        """Whether nothing is held back (waits for the device)."""
        return int(torch.maximum(self.update, self.broken)) < 0

    def note_loss(self, loss: Tensor) -> Tensor:
        """Take note of a micro-batch; returns () bool, whether its loss is finite."""
        finite = torch.isfinite(loss)
        self.losses_finite.logical_and_(finite)
        return finite

    def note_update(self, is_fault: Tensor, number: int) -> Tensor:
        """Take note of an update; returns () bool, whether it is held back."""
        if self.is_on:
            is_first = is_fault & (self.update < 0) & (self.broken < 0)
            self.update.copy_(torch.where(is_first, number, self.update))
        return (self.update >= 0) | (self.broken >= 0)

    def note_weights(self, weights: list[nn.Parameter], number: int) -> None:
        """Look at the weights that an update has left; those whose norm overflows are lost too."""
        norm = torch.nn.utils.get_total_norm(weights)
        is_first = ~torch.isfinite(norm) & (self.broken < 0) & (self.update < 0)
        self.broken.copy_(torch.where(is_first, number, self.broken))

    def release(self) -> None:
        """Hold nothing back any more."""
        self.update.fill_(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """What an unfinished update has of it."""
        return {"losses_finite": self.losses_finite}


@contextmanager
def no_trace(network: nn.Module) -> Iterator[None]:
    """A block after which a network's buffers and gradients, and torch's draws, are as before it."""
    device = next(network.parameters()).device
    buffers = [buffer.clone() for buffer in network.buffers()]
    gradients = [parameter.grad for parameter in network.parameters()]
    others = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(others, device_type=device.type if others else "cuda"):
        try:
            network.zero_grad(set_to_none=True)
            yield
        finally:
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.grad = gradient
            for buffer, kept in zip(network.buffers(), buffers, strict=True):
                buffer.copy_(kept)


def first_fault(
    network: nn.Module, compute_loss: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[int, str] | None:
    """What is not finite first: a weight, a layer's output, the loss, or a gradient; None if nothing is.

    Its number comes first, in the order of the computation: joined statistics carry a fault to other devices.

    Args:
        network: its gradients are added to.
        compute_loss: runs the network; gives the loss, and what is differentiated.
    """
    name = first_not_finite(network)
    if name is not None:
        return 0, f"weight {name}"
    layers: list[str] = []
    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not layers and isinstance(output, Tensor) and not _is_finite(output):
                layers.append(name)

        return note

    hooks = [module.register_forward_hook(watch(name)) for name, module in leaves]
    try:
        loss, scaled = compute_loss()
    finally:
        for hook in hooks:
            hook.remove()
    torch.autograd.backward(scaled)
    if layers:
        return 1 + [name for name, _ in leaves].index(layers[0]), f"output of layer {layers[0]}"
    if not _is_finite(loss):
        return 1 + len(leaves), "loss, from finite network outputs"
    bad = [name for name, weight in network.named_parameters() if not _is_finite(weight.grad)]
    # Gradients flow from the last layer to the first.
    return (2 + len(leaves), f"gradient of {bad[-1]}") if bad else None


def first_not_finite(network: nn.Module) -> str | None:
    """The first weight of a network that is not finite, or None; waits for the device once."""
    weights = dict(network.named_parameters())
    # A largest value cannot overflow as a sum of squares does.
    if bool(torch.isfinite(torch.nn.utils.get_total_norm(weights.values(), float("inf")))):
        return None
    return next((name for name, weight in weights.items() if not _is_finite(weight)), None)


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
