import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from tests.support.recipe_files import sweep
from yoloflow import load_config
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights
from yoloflow.weights.mindspore import read_mindspore, write_mindspore
from yoloflow.weights.mindyolo import mindyolo_tensors

FIXTURES = ("yolov8", "yolov8_ema", "yolov5_half", "yolox")


@pytest.mark.parametrize("name", FIXTURES)
def test_a_file_of_mindspore_gives_the_output_that_mindspore_gave(name: str, shared: Path) -> None:
    folder = shared / "fixtures/ckpt" / name
    section = yaml.safe_load((folder / "config.yaml").read_text())["network"]
    meta = json.loads((folder / "meta.json").read_text())
    network = create_model(section["model_name"], section, meta["nc"], variant="mindyolo")
    report = load_pretrain(network, folder / "weights.ckpt", strict=True)
    assert (report.dialect, report.format, report.faults()) == ("MindYOLO", "MindSpore", "")
    with np.load(folder / "io.npz") as io:
        shape, expected = tuple(io["image_shape"]), io["eval_0"]
        images = np.random.RandomState(int(io["image_seed"])).uniform(0, 1, shape).astype(np.float32)
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(images))[0].numpy()
    tolerance = 1e-2 if meta["half"] else 2e-4
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_file_is_written_as_mindspore_writes_it_byte_for_byte(
    name: str, shared: Path, tmp_path: Path
) -> None:
    file = shared / "fixtures/ckpt" / name / "weights.ckpt"
    write_mindspore(tmp_path / "w.ckpt", read_mindspore(file))
    assert (tmp_path / "w.ckpt").read_bytes() == file.read_bytes()


def network_of(recipe: str, seed: int) -> Network:
    torch.manual_seed(seed)
    config = load_config(recipe, ["network.width_multiple=0.125"])
    return create_model(config.network.model_name, config.network_table(), 3)


QUICK = {"yolov5n", "yolov8n", "yolov10n", "yolov11n"}


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=() if name in QUICK else pytest.mark.oracle) for name in sweep()]
)
def test_each_kind_of_network_goes_through_a_checkpoint_unchanged(recipe: str, tmp_path: Path) -> None:
    first, second = network_of(recipe, 1), network_of(recipe, 2)
    write_mindspore(tmp_path / "w.ckpt", mindyolo_tensors(first))
    report = load_pretrain(second, tmp_path / "w.ckpt", strict=True)
    assert report.dialect == "MindYOLO"
    state = second.state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(state[name], tensor), name


TENSORS = {
    "float16": torch.arange(6).reshape(2, 3).half(),
    "bfloat16": torch.arange(5).bfloat16(),
    "scalar": torch.tensor(2.5),
    "whole": torch.tensor([1, -2], dtype=torch.int32),
    "truth": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_all_types_and_scalars_come_back(tmp_path: Path) -> None:
    write_mindspore(tmp_path / "w.ckpt", TENSORS)
    assert_equal(read_mindspore(tmp_path / "w.ckpt"), TENSORS)


def block(number: int, body: bytes) -> bytes:
    assert len(body) < 2**14
    return bytes([number << 3 | 2, len(body) & 0x7F | 0x80, len(body) >> 7]) + body


def value(name: str, dims: bytes, kind: str, content: bytes) -> bytes:
    return block(1, block(1, name.encode()) + block(2, dims + block(2, kind.encode()) + block(3, content)))


def test_pieces_packed_dims_and_mindspore_s_scalar_are_read(tmp_path: Path) -> None:
    numbers = struct.pack("<4f", 1, 2, 3, 4)
    pieces = [value("a", b"\x08\x02\x08\x02", "Float32", part) for part in (numbers[:8], numbers[8:])]
    packed = value("b", block(1, b"\x04"), "Float32", numbers)
    scalar = value("c", b"\x08\x00", "Int32", b"\x07\0\0\0")
    (tmp_path / "w.ckpt").write_bytes(b"".join([*pieces, packed, scalar]))
    found = read_mindspore(tmp_path / "w.ckpt")
    assert found["a"].tolist() == [[1, 2], [3, 4]]
    assert found["b"].tolist() == [1, 2, 3, 4]
    assert found["c"].item() == 7


def test_the_checksum_at_the_end_is_compared(tmp_path: Path) -> None:
    write_mindspore(tmp_path / "w.ckpt", TENSORS)
    content = (tmp_path / "w.ckpt").read_bytes()
    with_checksum = content + b"crc_num" + zlib.crc32(content).to_bytes(10, "big")
    (tmp_path / "w.ckpt").write_bytes(with_checksum)
    assert_equal(read_mindspore(tmp_path / "w.ckpt"), TENSORS)
    damaged = bytearray(with_checksum)
    damaged[len(content) // 2] ^= 1
    (tmp_path / "w.ckpt").write_bytes(damaged)
    with pytest.raises(YoloflowError, match=r"w.ckpt: damaged: .* checksum"):
        read_mindspore(tmp_path / "w.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (value("a", b"\x08\x02", "Float32", b"1234"), r"'a' has 4 bytes, but \[2\] of Float32 take 8"),
        (value("a", b"\x08\x01", "Float99", b"1234"), "'a' is of type 'Float99'"),
        (value("a", b"\x08\x01", "Float32", b"1234") * 2, "'a' has 8 bytes"),
        (b"\x0a\xff\xff\xff\x7f" + b"x" * 20, "bytes should follow, but there are"),
        (block(1, block(1, b"a") + block(3, b"")), "is a map"),
        (block(1, block(1, b"a")), "no name or no tensor"),
        (value("a", b"\x08" + b"\xff" * 9 + b"\x01", "Float32", b"1234"), "does not belong there"),
    ],
)
def test_faulty_files_are_refused_with_the_place(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.ckpt").write_bytes(content)
    with pytest.raises(YoloflowError, match=rf"w.ckpt: .*{message}"):
        read_mindspore(tmp_path / "w.ckpt")


def test_a_file_cut_within_a_value_is_refused(tmp_path: Path) -> None:
    write_mindspore(tmp_path / "w.ckpt", {"a": torch.ones(3), "b": torch.ones(2)})
    content = (tmp_path / "w.ckpt").read_bytes()
    write_mindspore(tmp_path / "w.ckpt", {"a": torch.ones(3)})
    first = (tmp_path / "w.ckpt").stat().st_size  # a row of messages has no end mark
    for end in range(1, len(content)):
        (tmp_path / "cut.ckpt").write_bytes(content[:end])
        if end != first:
            with pytest.raises(YoloflowError, match="cut.ckpt"):
                read_weights(tmp_path / "cut.ckpt")
