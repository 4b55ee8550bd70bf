"""The device of each process: what people write, and what they are told where there is none."""

from __future__ import annotations

import sys

import pytest
import torch

from yoloflow.config.reader import load_config
from yoloflow.runtime.device import Accelerators, find_accelerators, require_training_kernels, select_device
from yoloflow.structures import YoloflowError

NONE, FOUR, MAC = Accelerators(), Accelerators("cuda", 4), Accelerators("mps", 1)


@pytest.mark.parametrize(
    ("name", "rank", "size", "found", "device"),
    [
        ("auto", 0, 1, NONE, "cpu"),
        ("cpu", 3, 4, FOUR, "cpu"),
        ("auto", 0, 1, FOUR, "cuda:0"),
        ("auto", 2, 4, FOUR, "cuda:2"),
        ("cuda", 0, 1, FOUR, "cuda:0"),
        ("cuda", 3, 4, FOUR, "cuda:3"),
        ("0", 0, 1, FOUR, "cuda:0"),
        ("3", 0, 1, FOUR, "cuda:3"),
        ("cuda:1", 0, 1, FOUR, "cuda:1"),
        # The networks of `yoloflow.mindyolo` know their device by name already.
        ("cuda:1", 1, 4, FOUR, "cuda:1"),
        ("auto", 0, 1, MAC, "mps:0"),
        ("mps", 0, 1, MAC, "mps:0"),
        ("0", 0, 1, MAC, "mps:0"),
        ("0", 0, 1, Accelerators("xpu", 2), "xpu:0"),
    ],
)
def test_a_process_takes_the_device_that_people_mean(
    name: str, rank: int, size: int, found: Accelerators, device: str
) -> None:
    assert select_device(name, rank, size, found) == torch.device(device)


@pytest.mark.parametrize(
    ("name", "rank", "size", "found", "complaint"),
    [
        ("cuda:7", 0, 1, FOUR, "there is no cuda:7: this machine has 4 cuda devices, numbered from 0"),
        ("7", 0, 1, FOUR, "CUDA_VISIBLE_DEVICES chooses which it sees"),
        ("auto", 5, 8, FOUR, "local rank 5 of 8 has none to itself: this machine has 4 cuda devices"),
        ("cuda", 4, 8, FOUR, "torchrun --nproc-per-node 4 -m yoloflow train ..."),
        ("cuda:0", 1, 2, FOUR, "local rank 1 of 2 would share cuda:0 with another process"),
        ("0", 1, 2, FOUR, "leave device=... out"),
        ("mps", 0, 1, FOUR, "torch has cuda devices here, none of mps; use device=auto or device=cpu"),
        ("mps", 0, 1, NONE, "finds no mps device here"),
        ("auto", 1, 2, MAC, "torchrun --nproc-per-node 1 -m yoloflow"),
        ("mps:1", 0, 1, MAC, "there is no mps:1: this machine has 1 mps device, numbered from 0"),
        ("cuda", 0, 1, NONE, "use device=auto or device=cpu"),
        ("0", 0, 1, NONE, "use device=auto or device=cpu"),
        ("abacus", 0, 1, NONE, "device=abacus: "),
        ("-1", 0, 1, FOUR, "write device=cpu or device=auto"),
        ("0,1", 0, 1, FOUR, "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node 2 -m yoloflow train ..."),
        ("cuda:0,cuda:2", 0, 1, FOUR, "CUDA_VISIBLE_DEVICES=0,2 torchrun --nproc-per-node 2"),
        ("GPU", 0, 1, FOUR, "write device=cuda"),
        ("MPS", 0, 1, MAC, "write device=mps"),
    ],
)
def test_a_device_that_cannot_be_had_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, rank: int, size: int, found: Accelerators, complaint: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])  # else the advice has the options that pytest was called with
    with pytest.raises(YoloflowError) as refusal:
        select_device(name, rank, size, found)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize(
    ("override", "device"), [("0", "0"), ("[1]", "1"), ("' 2 '", "2"), ("cuda", "cuda"), ("cuda:1", "cuda:1")]
)
def test_numbers_are_taken_as_settings(override: str, device: str) -> None:
    assert load_config("yolov8n", [f"device={override}"]).device == device


@pytest.mark.parametrize("override", ["-1", "[-1]", "[]", "''", "[0, 1]", "0,1", "true", "1.5", "null"])
def test_what_is_no_device_is_refused_as_a_setting(override: str) -> None:
    with pytest.raises(YoloflowError, match="device"):
        load_config("yolov8n", [f"device={override}"])


def test_the_command_to_write_is_the_present_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/yoloflow", "train", "yolov8n", "name=my run", "device=1,3"])
    command = "CUDA_VISIBLE_DEVICES=1,3 torchrun --nproc-per-node 2 -m yoloflow train yolov8n 'name=my run'"
    with pytest.raises(YoloflowError) as refusal:
        load_config("yolov8n", ["device=1,3"])
    assert str(refusal.value).endswith(command)


def test_torchrun_tells_the_process_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert select_device("cuda", found=FOUR) == torch.device("cuda", 1)


@pytest.mark.skipif(find_accelerators().kind == "mps", reason="it may have them")
def test_a_device_without_the_kernels_of_a_training_is_refused() -> None:
    require_training_kernels(torch.device("cpu"))
    with pytest.raises(YoloflowError, match=r"device=mps: torch .* cannot train there .*device=cpu"):
        require_training_kernels(torch.device("mps"))
