"""A graph on the CPU, which records torch's operations and runs them again as a CUDA graph does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.support.device_watch import WAITING, WITHOUT_KERNEL
from yoloflow.runtime.cuda_graph import CudaGraph

Result = TypeVar("Result")
# torch does not declare that these change the running statistics.
_CHANGE_STATISTICS = ("aten::native_batch_norm", "aten::batch_norm")


class CpuGraph(CudaGraph):
    """Operations by their tensors; what Python reads or decides is not followed."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []

    def record(self, function: Callable[[], Result]) -> Result:
        """Calls a function; afterwards all that was there before has its value of before."""
        recorder = _Recorder()
        with recorder:
            result = function()
        self._calls = recorder.calls
        for tensor, value in reversed(recorder.changed):
            tensor.detach().copy_(value)
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Runs the operations on the tensors that they had when they were recorded."""
        for call in self._calls:
            call()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], None]] = []
        self.changed: list[tuple[Tensor, Tensor]] = []
        self._noted: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, schema = kwargs or {}, func._schema
        if schema.name in WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {schema.name}")
        self._note_changed(schema, args, kwargs)
        result = func(*args, **kwargs)
        if schema.name in WITHOUT_KERNEL:
            return result
        writes = any(each.alias_info is not None and each.alias_info.is_write for each in schema.arguments)
        is_view = not writes and any(each.alias_info is not None for each in schema.returns)
        if not is_view:
            outputs = [] if writes else [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)]
            self.calls.append(lambda: _run(func, args, kwargs, outputs))
        return result

    def _note_changed(self, schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the values of what an operation changes."""
        given = dict(zip((each.name for each in schema.arguments), args, strict=False)) | kwargs
        changed = [
            given.get(each.name)
            for each in schema.arguments
            if (each.alias_info is not None and each.alias_info.is_write)
            or (schema.name in _CHANGE_STATISTICS and each.name.startswith("running_"))
        ]
        for leaf in tree_flatten(changed)[0]:
            if isinstance(leaf, Tensor) and id(leaf) not in self._noted:
                self._noted.add(id(leaf))
                self.changed.append((leaf, leaf.detach().clone()))


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]) -> None:
    results = [leaf for leaf in tree_flatten(func(*args, **kwargs))[0] if isinstance(leaf, Tensor)]
    for output, result in zip(outputs, results, strict=False):
        output.detach().copy_(result)
