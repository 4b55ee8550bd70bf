"""The state of the process that a training changes for itself, restored for the caller afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from yoloflow.runtime.allocator import keep_freed_memory
from yoloflow.runtime.random_generators import determinism_restorer, rng_state, set_rng_state

_mutex = threading.Lock()
_inside: list[ExitStack] = []
"""What restores the state, once for each training that runs: trainings in threads share the state."""


@contextmanager
def restored_process_state() -> Iterator[None]:
    """Restores after a block (or a decorated function) what `train` sets for a whole process.

    These are the generators of Python, NumPy, torch and the accelerator, the number of threads, the switches
    of determinism, and the environment variable that goes with them. Inside, freed memory stays in the
    process (`keep_freed_memory`). Of blocks that overlap in several threads the first saves and the last
    restores. An accelerator that has not been used before is left as it is then.
    """
    with _mutex:
        restoring = _inside[0] if _inside else _saved()
        _inside.append(restoring)
    try:
        yield
    finally:
        with _mutex:
            _inside.remove(restoring)
            if not _inside:
                restoring.close()


def _saved() -> ExitStack:
    """Returns a stack that restores the present state when it is closed."""
    restoring = ExitStack()
    device = _device_in_use()
    restoring.callback(set_rng_state, rng_state(device), device)
    restoring.callback(torch.set_num_threads, torch.get_num_threads())
    restoring.callback(determinism_restorer())
    restoring.callback(keep_freed_memory())
    if device.type != "cpu":
        restoring.callback(torch.accelerator.set_device_index, torch.accelerator.current_device_index())
    return restoring


def _device_in_use() -> torch.device:
    """Returns the accelerator if this process has used it, else the CPU: asking it would start it."""
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        module = torch.get_device_module(kind)
        if not hasattr(module, "is_initialized") or module.is_initialized():
            return torch.device(kind.type, torch.accelerator.current_device_index())
    return torch.device("cpu")
