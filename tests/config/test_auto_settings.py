"""Settings on `auto`: what each kind of machine makes of them, and what stands in the run's config.yaml."""

from __future__ import annotations

import logging
import platform
from typing import Any

import pytest
import torch

from yoloflow.config.auto_settings import resolve_auto
from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.schema import Config
from yoloflow.models.precision import auto_mixed_precision, create_precision
from yoloflow.runtime.device import Machine
from yoloflow.runtime.random_generators import determinism_restorer, set_determinism
from yoloflow.runtime.ranks import Ranks

CPU = Machine("cpu", has_bfloat16=True, cores=64)
HOPPER, TURING = Machine("cuda", True, 64), Machine("cuda", False, 8)
ONE = Ranks()
ACCELERATOR = {"datasink": True, "num_parallel_workers": 16, "test_workers": 16}


def decided(config: Config) -> dict[str, Any]:
    keys = ("amp_level", "amp_dtype", "loss_scaler", "datasink", "channels_last", "cuda_graphs")
    data = {key: getattr(config.data, key) for key in ("num_parallel_workers", "test_workers")}
    return {key: getattr(config, key) for key in keys} | data


@pytest.mark.parametrize(
    ("machine", "overrides", "expected"),
    [
        # As it was before there was an auto.
        (CPU, [], {"amp_level": "O0", "amp_dtype": None, "loss_scaler": "static", "datasink": False}),
        (CPU, [], {"num_parallel_workers": 4, "test_workers": 2}),
        (CPU, ["data.num_parallel_workers=1"], {"num_parallel_workers": 1, "test_workers": 1}),
        (CPU, ["amp_level=O2"], {"amp_level": "O2", "amp_dtype": None, "loss_scaler": "static"}),
        (HOPPER, [], {"amp_level": "O2", "amp_dtype": "bfloat16", "loss_scaler": "none", **ACCELERATOR}),
        (TURING, [], {"amp_level": "O2", "amp_dtype": "float16", "loss_scaler": "dynamic"}),
        (TURING, [], {"num_parallel_workers": 7, "test_workers": 7}),
        (HOPPER, ["amp_level=O0"], {"amp_level": "O0", "amp_dtype": None, "loss_scaler": "none"}),
        (HOPPER, ["amp_dtype=float16"], {"amp_dtype": "float16", "loss_scaler": "dynamic"}),
        (HOPPER, ["loss_scaler=static"], {"amp_dtype": "bfloat16", "loss_scaler": "static"}),
        (CPU, [], {"channels_last": torch.backends.mkldnn.is_available()}),
        (HOPPER, [], {"channels_last": platform.system() != "Windows"}),
        (Machine("mps", False, 8), [], {"channels_last": False}),
        (CPU, ["channels_last=false"], {"channels_last": False}),
        (HOPPER, ["datasink=false"], {"datasink": False}),
        (HOPPER, [], {"cuda_graphs": True}),
        (HOPPER, ["datasink=false"], {"cuda_graphs": False}),
        (HOPPER, ["jit=true"], {"cuda_graphs": False}),
        (HOPPER, ["recompute=true"], {"cuda_graphs": False}),
        (HOPPER, ["cuda_graphs=false"], {"cuda_graphs": False}),
        (CPU, ["datasink=true"], {"cuda_graphs": False}),
        (HOPPER, ["data.num_parallel_workers=3"], {"num_parallel_workers": 3, "test_workers": 3}),
        (HOPPER, ["data.test_workers=0"], {"num_parallel_workers": 16, "test_workers": 0}),
        (Machine("mps", False, 8), [], {"amp_level": "O0", "loss_scaler": "none", "datasink": True}),
    ],
)
def test_a_machine_decides(machine: Machine, overrides: list[str], expected: dict[str, Any]) -> None:
    config = resolve_auto(load_config("yolov8n", overrides), machine, ONE)
    assert expected.items() <= decided(config).items()


@pytest.mark.parametrize(("local_size", "workers"), [(1, 16), (4, 15), (8, 7), (64, 1), (100, 1)])
def test_ranks_of_a_machine_share_its_cores(local_size: int, workers: int) -> None:
    ranks = Ranks(local_size=local_size, world_size=local_size)
    data = resolve_auto(load_config("yolov8n"), HOPPER, ranks).data
    assert (data.num_parallel_workers, data.test_workers) == (workers, workers)


def test_several_processes_have_no_cuda_graphs() -> None:
    assert (
        resolve_auto(load_config("yolov8n"), HOPPER, Ranks(world_size=2, local_size=2)).cuda_graphs is False
    )


def test_what_was_decided_stands_in_the_settings_of_the_run_and_is_told_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "yoloflow"):
        config = resolve_auto(load_config("yolov8n"), HOPPER, ONE)
    (line,) = caplog.messages
    assert line.startswith("on cuda auto is amp_level=O2, amp_dtype=bfloat16, loss_scaler=none")
    assert "convolutions in float32 take TF32 (NVIDIA_TF32_OVERRIDE=0" in line
    text = dump_config(config)
    assert "amp_level: O2\namp_dtype: bfloat16" in text
    assert "num_parallel_workers: 16\n  test_workers: 16" in text
    caplog.clear()
    with caplog.at_level(logging.INFO, "yoloflow"):
        assert resolve_auto(config, TURING, ONE) == config
        resolve_auto(load_config("yolov8n"), HOPPER, Ranks(rank=1, world_size=2))
        resolve_auto(load_config("yolov8n"), HOPPER, ONE, is_training=False)
    assert caplog.messages == []


def test_the_precision_of_a_device_follows_auto_too() -> None:
    assert create_precision(load_config("yolov8n"), "cpu").dtype is None
    assert auto_mixed_precision("auto", "cuda", "bfloat16").dtype is torch.bfloat16
    assert auto_mixed_precision("auto", "mps").dtype is None
    assert create_precision(resolve_auto(load_config("yolov8n"), HOPPER, ONE), "cuda").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("overrides", "has_one_shape"),
    [
        ([], True),
        (["data.multi_scale=[0.5, 1.5]"], False),
        (["data.rect=true"], False),
        (["data.test_rect=true"], False),
    ],
)
@pytest.mark.parametrize("level", ["none", "data", "bitwise"])
def test_kernels_are_tried_where_shapes_are_fixed(
    level: str, overrides: list[str], has_one_shape: bool
) -> None:
    data = load_config("yolov8n", overrides).data
    assert data.has_one_shape is has_one_shape
    restore = determinism_restorer()
    try:
        set_determinism(level, 0, data.has_one_shape)
        expected = {"none": True, "data": has_one_shape, "bitwise": False}[level]
        assert torch.backends.cudnn.benchmark is expected
    finally:
        restore()


@pytest.mark.parametrize(
    ("overrides", "has_bfloat16", "begin"),
    [
        ([], False, "amp_level=O3: this CPU has no instructions"),
        (["amp_level=O0"], False, None),
        (["amp_level=auto"], False, None),
        ([], True, None),
        (["amp_level=O0"], True, None),
        (["amp_level=auto"], True, "float32 as always on a CPU"),
    ],
)
def test_half_precision_that_suits_a_cpu_better_or_worse_is_told(
    caplog: pytest.LogCaptureFixture, overrides: list[str], has_bfloat16: bool, begin: str | None
) -> None:
    config, machine = load_config("yolov5n", overrides), Machine("cpu", True, 2, has_bfloat16)
    with caplog.at_level(logging.INFO, "yoloflow"):
        assert resolve_auto(config, machine, ONE).amp_level == ("O0" if overrides else config.amp_level)
        resolve_auto(config, CPU, ONE)
        resolve_auto(config, machine, ONE, is_training=False)
    hints = [message for message in caplog.messages if "bfloat16" in message]
    assert len(hints) == (begin is not None)
    assert all(message.startswith(begin or "") for message in hints)
