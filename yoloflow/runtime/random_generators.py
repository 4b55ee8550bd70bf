"""Random generators, and determinism of a training."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import torch

from yoloflow.runtime.settings import Determinism
from yoloflow.structures import YoloflowError, nearest_names

_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def set_determinism(level: str, seed: int, has_one_shape: bool = False) -> None:
    """Sets how much of a training a second one repeats, and seeds Python, NumPy and torch.

    Call it before anything runs on the device. Data samples have generators of their own.

    What is learnt from (samples, their order, what is drawn for them, first weights) is a function of the
    seed at every level. "none": the device may try several kernels and take the fastest. "data": it may where
    all batches have one shape, and it may add up in any order. "bitwise": kernels that give the same bits
    each time; an operation without such a kernel is an error of torch's that names it.

    Args:
        level: "none", "data" or "bitwise".
        seed: of the three global generators.
        has_one_shape: whether all batches have one shape, so that kernels are tried once.

    Raises:
        YoloflowError: another level.
    """
    if level not in get_args(Determinism):
        raise YoloflowError(f"determinism={level}: {nearest_names(level, get_args(Determinism))}")
    is_bitwise = level == "bitwise"
    if is_bitwise:
        # Read by cuBLAS when it starts: without a fixed workspace its sums depend on the stream.
        os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")
    _use_deterministic_algorithms(is_bitwise, warn_only=False)
    # It would fill all new memory, which costs a fifth of a step and matters only to a read of it by mistake.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = is_bitwise
    torch.backends.cudnn.benchmark = level == "none" or (level == "data" and has_one_shape)
    seed_everything(seed)


def determinism_restorer() -> Callable[[], None]:
    """Returns a function that restores what `set_determinism` sets, as it is now."""
    is_on = torch.are_deterministic_algorithms_enabled()
    is_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    switches: list[tuple[Any, str]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory"),
        (torch.backends.cudnn, "deterministic"),
        (torch.backends.cudnn, "benchmark"),
    ]
    values = [getattr(owner, name) for owner, name in switches]
    workspace = os.environ.get(_CUBLAS_WORKSPACE)

    def restore() -> None:
        _use_deterministic_algorithms(is_on, is_warning)
        for (owner, name), value in zip(switches, values, strict=True):
            setattr(owner, name, value)
        if workspace is None:
            os.environ.pop(_CUBLAS_WORKSPACE, None)

    return restore


def _use_deterministic_algorithms(is_on: bool, warn_only: bool) -> None:
    """Calls torch's function where it changes something: it imports torch's compiler, a second's work."""
    now = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if now != (is_on, warn_only):
        torch.use_deterministic_algorithms(is_on, warn_only=warn_only)


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch with `seed`; data samples have generators of their own."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  third-party code may still draw from the global generator
    torch.manual_seed(seed)


def rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns the state of all global random generators: torch's, the device's, NumPy's and Python's."""
    state = {"torch": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(device)
    _, keys, *rest = np.random.get_state()  # noqa: NPY002  third-party code may draw from it
    state["numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    state["numpy_rest"] = torch.tensor(rest, dtype=torch.float64)
    version, words, following = random.getstate()
    state["python"] = torch.tensor([version, *words])
    state["python_rest"] = torch.tensor([np.nan if following is None else following], dtype=torch.float64)
    return state


def set_rng_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Restores what `rng_state` returned; a generator of another kind of device is left as it is."""
    torch.set_rng_state(state["torch"].cpu())
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type].cpu(), device)
    position, has_normal, normal = state["numpy_rest"].tolist()
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_normal), normal))  # noqa: NPY002
    version, *words = state["python"].tolist()
    following = state["python_rest"].item()
    random.setstate((version, tuple(words), None if np.isnan(following) else following))
