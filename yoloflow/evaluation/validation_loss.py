"""The loss of the images that are evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from yoloflow.evaluation.test_function import in_mode
from yoloflow.losses.loss import takes_masks
from yoloflow.models.precision import Precision, to_float32
from yoloflow.runtime.ranks import gather_over_ranks, without_collectives
from yoloflow.structures import Batch


class ValidationLoss:
    """Adds up the loss items of a network over the batches of an evaluation, in a forward pass of its own.

    The network runs whole, as in training (what is evaluated is a copy without training-only branches), but
    normalises with its running statistics. Each rank divides by what its own images hold.

    Attributes:
        seconds: that it took so far.
    """

    def __init__(self, network: nn.Module, loss_fn: nn.Module, precision: Precision) -> None:
        """Takes a network on its device and the loss of its training."""
        self._network, self._loss_fn, self._precision = network, loss_fn, precision
        self._names: list[str] = loss_fn.loss_item_name  # type: ignore[assignment]
        self._sums = torch.zeros(len(self._names))
        self._num_images, self.seconds = 0, 0.0

    def watching(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches, each when its loss is added; they have masks where the loss takes them."""
        for batch in batches:
            started = time.perf_counter()
            self._sums += self._items(batch).cpu() * len(batch.images)
            self._num_images += len(batch.images)
            self.seconds += time.perf_counter() - started
            yield batch

    def means(self) -> dict[str, float]:
        """Returns the mean of each item over the images of all ranks, which must all call."""
        sums, numbers = zip(*gather_over_ranks((self._sums, self._num_images)), strict=True)
        return dict(zip(self._names, (torch.stack(sums).sum(0) / sum(numbers)).tolist(), strict=True))

    def _items(self, batch: Batch) -> Tensor:
        device = next(self._network.parameters()).device
        # Not in inference mode: the tensors that a loss keeps must be usable in later steps.
        with torch.inference_mode(mode=False), torch.no_grad(), without_collectives():
            images, labels, *masks = (part.to(device) for part in (batch.images, *batch.targets))
            with _as_trained(self._network), self._precision.autocast():
                outputs = self._network(images)
            wanted = masks if takes_masks(self._loss_fn) else []
            items: Tensor = self._loss_fn(to_float32(outputs), labels, images, *wanted)[1]
        return items


@contextmanager
def _as_trained(network: nn.Module) -> Iterator[None]:
    """Makes a network predict as its loss takes it, with the running statistics; the modes come back."""
    with in_mode(network, training=True):
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        yield
