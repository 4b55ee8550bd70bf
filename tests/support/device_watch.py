"""Real code on fake CUDA tensors: no accelerator is needed, nothing is computed, and what would wait is seen.

A device that is not there cannot answer, so what asks it for a value or copies between host and device is
noticed, and every operation is counted. Kernels, their errors and their speed are not seen.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

CUDA = torch.device("cuda", 0)

WAITING = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"),
    *("aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::bincount"),
    *("torchvision::nms", "aten::repeat_interleave"),
}
_COPYING = {"aten::_to_copy", "aten::copy_", "aten::_foreach_copy_"}
WITHOUT_KERNEL = {
    *("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"),
    *("aten::lift_fresh", "aten::_unsafe_view", "aten::resize_", "aten::set_", "aten::is_same_size"),
    *("prim::device", "prim::layout", "aten::sym_size", "aten::sym_numel"),
}


class Watch(TorchDispatchMode):
    """Counts operations on a device, and what would make the host wait; within a `FakeTensorMode`.

    Attributes:
        operations: that have a kernel.
        waits: by name and place: reads, shapes that depend on values, copies between host and device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.waits: Counter[str] = Counter()

    @staticmethod
    def move(module: nn.Module) -> None:
        """Replaces parameters and buffers by fake ones on the device."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    fresh = torch.empty(parameter.shape, dtype=parameter.dtype, device=CUDA)
                    part._parameters[name] = nn.Parameter(fresh, parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CUDA)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        inputs = _tensors((args, kwargs))
        is_by_value = name.startswith("aten::index") and len(args) > 1 and _has_flags(args[1])
        result = func(*args, **(kwargs or {}))
        kinds = {tensor.device.type for tensor in (*inputs, *_tensors(result))}
        if "cuda" in kinds:
            if name in WAITING or is_by_value or (name in _COPYING and len(kinds) > 1):
                self.waits[f"{name} at {_place()}"] += 1
            self.operations += not (_is_view(func) or name in WITHOUT_KERNEL)
        return result


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def _has_flags(indices: object) -> bool:
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(indices))


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(
        each.alias_info is not None and not each.alias_info.is_write for each in returns
    )


def _place() -> str:
    """The line of yoloflow that called; torch's backward has none."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if "yoloflow" in path.parts and "tests" not in path.parts:
            return f"{path.parent.name}/{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"


@contextmanager
def backward_without_driver() -> Iterator[None]:
    """Lets torch's CUDA build trace backward and autocast on a machine without a driver.

    The autograd engine asks the CUDA hooks whether device 0 has a context, and torch 2.14 raises instead of
    saying no. The question is number 4 in the hooks' table of virtual functions (two destructors, isBuilt,
    isAvailable, hasPrimaryContext); a copy of the table answers it as isAvailable. Fused SGD has no meta
    kernel: it changes its arguments and returns nothing.
    """
    with ExitStack() as restoring:
        if not torch.cuda.is_available() and torch.version.cuda is not None:
            library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
            hooks_of = library._ZN2at6detail12getCUDAHooksEv
            hooks_of.restype = ctypes.c_void_p
            words = ctypes.cast(hooks_of(), ctypes.POINTER(ctypes.c_void_p))
            before = words[0]
            assert before is not None
            size = 200
            table = (ctypes.c_void_p * size).from_buffer_copy(ctypes.string_at(before - 16, 8 * size))
            table[2 + 4] = table[2 + 3]
            words[0] = ctypes.addressof(table) + 16
            restoring.callback(words.__setitem__, 0, before)
        kernels = torch.library.Library("aten", "IMPL")
        for overload in ("_fused_sgd_", "_fused_sgd_.tensor_lr"):
            kernels.impl(overload, lambda *_, **__: None, "Meta")
        restoring.callback(kernels._destroy)
        restoring.enter_context(torch.autograd.set_multithreading_enabled(False))
        for owner, name, answer in (
            (torch.cuda.amp.common, "amp_definitely_not_available", False),
            (torch.cuda, "is_bf16_supported", True),
        ):
            restoring.enter_context(mock.patch.object(owner, name, return_value=answer))
        yield
