"""Forward, loss and backward of a micro-batch as one CUDA graph, a graph for each shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from yoloflow.runtime.cuda_graph import CudaGraph
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

Differentiate = Callable[..., tuple[Tensor, Tensor]]
_MOST_GRAPHS = 32
# Of ||difference|| / ||value|| between a graph and its operations one by one: kernels may add in any order.
_TOLERANCE = 0.05


def why_no_graphs(device_type: str, world_size: int, jit: object) -> str:
    """Returns why a training has no CUDA graphs; "" where it can have them."""
    if device_type != "cuda":
        return f"the device is {device_type}"
    if world_size > 1:
        return f"{world_size} processes train together, and their gradients are averaged while backward runs"
    return "torch.compile makes the kernels (jit=true)" if jit is True else ""


def require_graphs(device_type: str, world_size: int, jit: object) -> None:
    """Refuses CUDA graphs where there can be none.

    Raises:
        YoloflowError: says why.
    """
    if reason := why_no_graphs(device_type, world_size, jit):
        raise YoloflowError(f"cuda_graphs=true: {reason}; leave it on auto, or set it to false")


class GraphedPass:
    """Runs a pass operation by operation, and as a graph where its shape came before.

    The host of a small network takes longer to start its thousand operations than the device to run
    them. A graph starts them all in one call. It is recorded when a shape comes for the second time, and
    compared with the operations one by one on that batch. If it cannot be recorded, or computes something
    else, there are no graphs from then on, and a line says why.

    Gradients must stay where they are: whoever ends an update sets them to zero in place.
    """

    def __init__(
        self, differentiate: Differentiate, module: nn.Module, make_graph: Callable[[], CudaGraph] = CudaGraph
    ) -> None:
        """Begins without graphs.

        Args:
            differentiate: (images, *targets) -> () loss and (K,) its items, both detached; adds to the
                gradients of `module`.
            module: all whose parameters and buffers a pass changes.
            make_graph: makes an empty graph.
        """
        self._differentiate, self._module, self._make_graph = differentiate, module, make_graph
        self._graphs: dict[tuple[object, ...], _Recording | None] = {}
        self._is_off = False

    def __call__(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns loss and loss items of a micro-batch; parts are images and targets, on the device."""
        shape = tuple((part.shape, part.dtype) for part in parts)
        if (recording := self._graphs.get(shape)) is not None:
            return recording(parts)
        if self._is_off or (shape not in self._graphs and len(self._graphs) == _MOST_GRAPHS):
            return self._differentiate(*parts)
        if shape in self._graphs:
            return self._record(shape, parts)
        self._graphs[shape] = None
        return self._differentiate(*parts)

    def forget(self) -> None:
        """Drops all graphs, where the loss or the place of a gradient has changed."""
        self._graphs.clear()

    @torch.no_grad()
    def _record(self, shape: tuple[object, ...], parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Takes a pass without a graph, and records one whose results are the same."""
        before = self._changing()
        with torch.enable_grad():
            expected = self._differentiate(*parts)
        after = self._changing()
        if len(before) < len(after) or not all(map(_is_finite, (expected, after))):
            return expected  # a gradient is new, or an overflow tells nothing: another batch will do
        try:
            self._write(before)
            recording = _Recording(self._make_graph(), self._differentiate, parts)
            found = recording(parts)
            if not (_are_near(found, expected) and _are_near(self._live(), after)):
                raise RuntimeError("a recorded step gave other numbers")
            self._graphs[shape] = recording
        except RuntimeError as error:
            self._is_off = True
            self.forget()
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            logger.info("cuda_graphs=false from here on (%s): steps take longer, and learn the same", reason)
        self._write(after)
        return expected

    def _changing(self) -> list[Tensor]:
        """Returns copies of buffers and gradients, which are all that a pass changes."""
        return [tensor.clone() for tensor in self._live()]

    def _write(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._live(), values)

    def _live(self) -> list[Tensor]:
        gradients = [weight.grad for weight in self._module.parameters() if weight.grad is not None]
        return [*self._module.buffers(), *gradients]


class _Recording:
    """A graph with the memory that its inputs are copied to."""

    def __init__(self, graph: CudaGraph, differentiate: Differentiate, parts: Sequence[Tensor]) -> None:
        self._graph = graph
        self._inputs = [part.clone() for part in parts]
        with torch.enable_grad():
            self._results = graph.record(lambda: differentiate(*self._inputs))

    def __call__(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        for own, part in zip(self._inputs, parts, strict=True):
            own.copy_(part)
        self._graph.replay()
        loss, items = self._results
        return loss.clone(), items.clone()


def _floating(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.is_floating_point()]


def _is_finite(tensors: Sequence[Tensor]) -> bool:
    return bool(torch.isfinite(torch.nn.utils.get_total_norm(_floating(tensors))))


def _are_near(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Returns whether tensors are equal as one vector, but for rounding."""
    right = _floating(expected)
    away = torch._foreach_sub(_floating(found), right)
    norm = torch.nn.utils.get_total_norm
    return bool(norm(away) <= _TOLERANCE * norm(right))
