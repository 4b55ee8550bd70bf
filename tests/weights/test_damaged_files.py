"""Damaged weights files of every format: read or refused by name, nothing executed, memory bounded."""

from __future__ import annotations

import random
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights, save_weights
from yoloflow.weights.mindspore import write_mindspore

SPARE_BYTES = 1_000_000
"""What reading may take beside a few times the file's size: opening an archive, messages."""

EVENTS = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.remove", "socket.connect"}
EVENTS |= {"pickle.find_class", "compile"}


class Watch:
    """An audit hook, which cannot be removed: it counts what a file could make happen while it is on."""

    is_on = False
    seen: list[str]

    def __init__(self) -> None:
        self.seen = []
        sys.addaudithook(self)

    def __call__(self, event: str, _: object) -> None:
        if self.is_on and event in EVENTS:
            self.seen.append(event)


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


class Trained(nn.Module):
    """A network that is pickled whole."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.names = {0: "cat"}


def write_ckpt(path: Path) -> None:
    write_mindspore(path, {f"model.{n}.weight": torch.rand(3, n + 1) for n in range(6)})


def write_pt(path: Path) -> None:
    tensors = {f"model.{n}.weight": torch.rand(3, n + 1) for n in range(6)}
    torch.save({"model": tensors, "names": ["a"], "epoch": 1}, path)


def write_pickled(path: Path) -> None:
    torch.save({"ema": Trained().half(), "license": "GPL-3.0", "epoch": 1}, path)


def write_safetensors(path: Path) -> None:
    tensors = {f"model.{n}.weight": torch.rand(3, n + 1) for n in range(6)}
    save_weights(path, tensors, {"class_names": ["a"]})


def write_onnx(path: Path) -> None:
    chance = np.random.default_rng(0)
    kernel = numpy_helper.from_array(chance.random((4, 3, 3, 3), np.float32), "w")
    bias = numpy_helper.from_array(chance.random(4, np.float32), "b")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "network",
        [value("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [kernel, bias],
    )
    onnx.save(helper.make_model(graph), path)


def write_darknet(path: Path) -> None:
    path.write_bytes(b"\0\0\0\0\2\0\0\0\5\0\0\0" + bytes(8) + np.arange(90, dtype="<f4").tobytes())


WRITERS = {
    "ckpt": write_ckpt,
    "pt": write_pt,
    "pth": write_pickled,
    "safetensors": write_safetensors,
    "onnx": write_onnx,
    "weights": write_darknet,
}


@pytest.fixture(params=WRITERS)
def good_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"good.{request.param}"
    WRITERS[request.param](path)
    assert read_weights(path).numel > 0
    return path


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Flips, cuts, repeats or inserts some bytes; now and then the end is missing, or much follows it."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place, kind = chance.randrange(len(data)), chance.randrange(6)
        if kind == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[place : place + chance.randint(1, 40)]
        elif kind == 2:
            data[place:place] = data[place : place + chance.randint(1, 40)]
        elif kind == 3:
            data[place:place] = chance.randbytes(chance.randint(1, 8))
        elif kind == 4:
            del data[place:]
        else:
            data += chance.randbytes(chance.randint(1, 2000))
        if not data:
            data.append(0)
    return bytes(data)


def try_damaged_files(good: Path, watch: Watch, cases: int) -> None:
    content, path = good.read_bytes(), good.with_name(f"damaged{good.suffix}")
    tracemalloc.start()
    try:
        for case in range(cases):
            path.write_bytes(damaged(content, random.Random(case)))
            size = path.stat().st_size
            tracemalloc.reset_peak()
            watch.is_on = True
            message = str(path)
            try:
                found = read_weights(path)
            except YoloflowError as error:
                message = str(error)
            else:
                assert sum(tensor.nbytes for tensor in found.tensors.values()) <= 2 * size, case
                assert 2 * found.numel <= 2 * size, case
            finally:
                watch.is_on = False
            assert str(path) in message, case
            assert tracemalloc.get_traced_memory()[1] < 10 * size + SPARE_BYTES, case
    finally:
        tracemalloc.stop()
    assert watch.seen == []


@pytest.mark.fuzz
def test_damaged_files_are_read_or_refused_by_name(good_file: Path, watch: Watch) -> None:
    try_damaged_files(good_file, watch, 1000)


@pytest.mark.full
def test_ten_thousand_damaged_files_are_read_or_refused_by_name(good_file: Path, watch: Watch) -> None:
    try_damaged_files(good_file, watch, 10_000)
