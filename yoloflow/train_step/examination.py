"""Finds what is not finite in a held update, and takes it up again or leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yoloflow.train_step.non_finite import first_not_finite, is_finite
from yoloflow.train_step.step import TrainStep


def rewind(train_step: TrainStep, update: int) -> int:
    """Goes back to the beginning of a held update; returns its first micro-batch, counted over the training.

    Args:
        train_step: everything since that update was held back, so only numbers go back.
        update: as `NonFiniteState.update` says.
    """
    train_step.restart_update(update)
    train_step.non_finite.release()
    return update * train_step.micro_batches_per_update


def skip_update(train_step: TrainStep) -> int:
    """Leaves the coming update out; returns the first micro-batch after it, counted over the training."""
    train_step.scaler.adjust(torch.zeros_like(train_step.non_finite.losses_finite))
    train_step.skipped_updates += 1
    train_step.restart_update(train_step.updates + 1)
    return train_step.updates * train_step.micro_batches_per_update


def examine(train_step: TrainStep, batches: Iterable[tuple[Tensor, ...]]) -> tuple[int, int, str] | None:
    """Finds what is not finite in an update, and leaves the state as it is (call it after `rewind`).

    All devices must call with equally many batches: statistics may be joined over them.

    Args:
        train_step: of the training.
        batches: images and targets of the update's micro-batches on this device.

    Returns:
        the micro-batch, from 0, and as `first_fault` what is not finite in it; None if all is.
    """
    device = train_step.device
    found: tuple[int, int, str] | None = None
    with no_trace(train_step.network):
        for number, batch in enumerate(batches):
            compute_loss = partial(train_step.compute_loss, *(part.to(device) for part in batch))
            fault = first_fault(train_step.network, compute_loss)
            if found is None and fault is not None:
                found = number, *fault
    return found


@contextmanager
def no_trace(network: nn.Module) -> Iterator[None]:
    """Restores a network's buffers and gradients, and torch's random generators, after a block."""
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
    """Finds what is not finite first: a weight, a layer's output, the loss, or a gradient.

    Args:
        network: its gradients are added to.
        compute_loss: runs the network; gives the loss, and what is differentiated.

    Returns:
        its place in the order of the computation (joined statistics carry a fault to other devices) and its
        name; None if everything is finite.
    """
    name = first_not_finite(network)
    if name is not None:
        return 0, f"weight {name}"
    layers: list[str] = []
    leaves = [(name, module) for name, module in network.named_modules() if not list(module.children())]

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not layers and isinstance(output, Tensor) and not is_finite(output):
                layers.append(name)

        return note

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in leaves]
    try:
        loss, scaled = compute_loss()
    finally:
        for hook in hooks:
            hook.remove()
    torch.autograd.backward(scaled)
    if layers:
        return 1 + [name for name, _ in leaves].index(layers[0]), f"output of layer {layers[0]}"
    if not is_finite(loss):
        return 1 + len(leaves), "loss, from finite network outputs"
    bad = [name for name, weight in network.named_parameters() if not is_finite(weight.grad)]
    # Gradients flow from the last layer to the first.
    return (2 + len(leaves), f"gradient of {bad[-1]}") if bad else None
