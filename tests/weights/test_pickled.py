"""Files of PyTorch are data: nothing in them runs, whatever it is."""

import collections
import io
import pickle
import pickletools
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yoloflow.structures import YoloflowError
from yoloflow.weights.files import read_weights
from yoloflow.weights.pickled import read_pickled


class Detector(nn.Module):
    """As other projects pickle theirs whole."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.names = {0: "cat", 1: "dog"}


@pytest.mark.parametrize("key", ["model", "ema", "state_dict"])
def test_a_pickled_network_gives_its_tensors_names_and_licence(key: str, tmp_path: Path) -> None:
    network = Detector().half()
    content = {"model": None, "ema": None, key: network, "license": "GPL-3.0", "version": "1.2", "epoch": 3}
    torch.save(content, tmp_path / "w.pt")
    found = read_weights(tmp_path / "w.pt")
    assert found.tensors.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.tensors[name], tensor)
    assert (found.class_names, found.licence, found.producer) == (["cat", "dog"], "GPL-3.0", "1.2")


def test_the_average_comes_before_the_network(tmp_path: Path) -> None:
    average, raw = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    torch.save({"model": raw, "ema": average}, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").tensors["w"].item() == 1


def test_mappings_flat_and_nested_are_read_and_other_values_left_out(tmp_path: Path) -> None:
    ordered = collections.OrderedDict(a=torch.arange(6).reshape(2, 3).t(), b=nn.Parameter(torch.ones(2)))
    torch.save(
        {"start_epoch": 3, "model": ordered, "optimizer": {"state": {0: torch.ones(9)}}}, tmp_path / "x.pth"
    )
    found = read_weights(tmp_path / "x.pth").tensors
    assert found["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert set(found) == {"a", "b"}
    torch.save(ordered, tmp_path / "flat.pth")
    assert set(read_weights(tmp_path / "flat.pth").tensors) == {"a", "b"}


def test_a_number_of_numpy_beside_the_tensors_is_left_out(tmp_path: Path) -> None:
    import numpy as np

    torch.save({"model": {"w": torch.ones(1)}, "curr_ap": np.float64(0.3)}, tmp_path / "x.pth")
    assert set(read_weights(tmp_path / "x.pth").tensors) == {"w"}


class Hostile:
    """Pickled, it calls any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def archive(path: Path, content: bytes, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("w/data.pkl", content)
        for name, data in members.items():
            file.writestr(f"w/data/{name.removeprefix('storage')}", data)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_no_function_that_a_file_names_is_called(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    calls = [
        Hostile(Path.touch, mark),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(exec, f"open({str(mark)!r}, 'w')"),
        Hostile(getattr, mark, "touch"),
    ]
    archive(tmp_path / "w.pt", pickle.dumps({"model": calls, "names": calls[0]}, protocol=protocol))
    with pytest.raises(YoloflowError, match="no tensors by name"):
        read_pickled(tmp_path / "w.pt")
    assert not mark.exists()


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> bytes:
    """The pickle of a storage's persistent id."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + kind.encode()
        + b"\nX\x01\x00\x00\x00"
        + key.encode()
        + (b"X\x03\x00\x00\x00cpuJ" + numel.to_bytes(4, "little", signed=True) + b"tQ")
    )


def tensor(where: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle {"w": tensor} with any numbers."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(pickle.dumps(value, 2)[2:-1] for value in values) + b"t"

    whole = pickle.dumps(offset, 2)[2:-1]
    arguments = b"(" + where + whole + numbers(size) + numbers(stride) + b"\x89Nt"
    return b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize(
    ("where", "offset", "size", "stride"),
    [
        (storage(), 1, (4,), (1,)),
        (storage(), 0, (2, 3), (3, 1)),
        (storage(), 0, (10**9, 10**6), (0, 0)),
        (storage(), -1, (2,), (1,)),
        (storage(), 0, (2,), (-1,)),
        (storage(), 0, (2,), (1, 1)),
        (storage(numel=400), 0, (100,), (1,)),
        (storage(key="9"), 0, (2,), (1,)),
        (storage(numel=-4), 0, (2,), (1,)),
    ],
)
def test_a_tensor_beyond_its_data_is_refused(
    where: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    archive(tmp_path / "w.pt", tensor(where, offset, size, stride), storage0=bytes(16))
    with pytest.raises(YoloflowError, match=r"w.pt: (a tensor|the data of a tensor)"):
        read_pickled(tmp_path / "w.pt")


def test_the_made_up_pickle_is_read_where_its_numbers_are_right(tmp_path: Path) -> None:
    archive(tmp_path / "w.pt", tensor(storage(), 0, (2, 2), (1, 2)), storage0=bytes(16))
    pickletools.dis(tensor(storage(), 0, (2, 2), (1, 2)), out=io.StringIO())
    assert read_pickled(tmp_path / "w.pt")["w"].tolist() == [[0, 0], [0, 0]]


def test_deep_and_circular_content_ends(tmp_path: Path) -> None:
    archive(tmp_path / "deep.pt", b"\x80\x02" + b"(" * 200_000 + b"t" * 200_000 + b".")
    circle: dict[str, Any] = {"w": 1}
    circle["again"] = circle
    archive(tmp_path / "circle.pt", pickle.dumps(circle))
    nested: dict[str, Any] = {}
    for _ in range(200):
        nested = {"m": nested}
    archive(tmp_path / "nested.pt", pickle.dumps(nested))
    for name in ("deep.pt", "circle.pt", "nested.pt"):
        with pytest.raises(YoloflowError, match=name):
            read_pickled(tmp_path / name)


def test_a_number_in_a_pickle_takes_no_memory(tmp_path: Path) -> None:
    # LONG_BINPUT: an object is remembered under a number of 32 bits.
    archive(tmp_path / "w.pt", b"\x80\x02}r\xff\xff\xff\x7f.")
    tracemalloc.start()
    with pytest.raises(YoloflowError, match="no tensors by name"):
        read_pickled(tmp_path / "w.pt")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_many_tensors_of_one_storage_are_refused(tmp_path: Path) -> None:
    whole = torch.ones(4000)
    torch.save({f"w{number}": whole[:3999] for number in range(20)}, tmp_path / "w.pt")
    with pytest.raises(YoloflowError, match="w.pt: its tensors are larger than the file"):
        read_pickled(tmp_path / "w.pt")


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w/data.pkl", bytes(10**7))
    with pytest.raises(YoloflowError, match=r"bomb.pt: w/data.pkl in it is compressed"):
        read_pickled(tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (pickle.dumps({"a": 1}), "before 1.6"),
        (bytes(range(200, 256)), "begins with c8 c9"),
        (b"PK\x03\x04 cut", "not a readable PyTorch file"),
    ],
)
def test_other_files_are_told_apart(content: bytes, message: str, tmp_path: Path) -> None:
    for name in ("x.pt", "x.ckpt", "x.bin"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(YoloflowError, match=message):
            read_weights(tmp_path / name)


def test_the_content_counts_not_the_suffix(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "w.ckpt")
    assert read_weights(tmp_path / "w.ckpt").format == "PyTorch"
