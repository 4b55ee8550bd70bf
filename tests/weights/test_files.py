"""Weights on disk and MindYOLO's weights: every byte and every name accounted for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.reference import reference_arrays, reference_config
from yoloflow.files import write_atomically
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.structures import YoloflowError
from yoloflow.weights.files import load_weights, read_weights, save_weights
from yoloflow.weights.mindyolo import load_mindyolo, mindyolo_names


def small_network(num_classes: int = 5) -> Network:
    section = reference_config("yolov8")["network"] | {"nc": num_classes}
    return create_model("yolov8", section, num_classes)


def test_equal_weights_give_equal_bytes_whatever_the_file_is_called(tmp_path: Path) -> None:
    state = small_network().state_dict()
    save_weights(tmp_path / "a.safetensors", state)
    save_weights(tmp_path / "b.safetensors", dict(reversed(state.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_saved_weights_come_back_unchanged_views_and_shared_memory_too(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32)
    state = {"a": base, "b": base.view(3, 4).t(), "c": base[4:6], "count": torch.tensor(3)}
    save_weights(tmp_path / "w.safetensors", state)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)


def test_a_failing_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_weights_files_are_refused_by_name(tmp_path: Path) -> None:
    for name, content in (("cut.safetensors", b"\x10\0\0"), ("bad.pt", b"text"), ("w.ckpt", b"")):
        (tmp_path / name).write_bytes(content)
    torch.save({"epoch": 3}, tmp_path / "nothing.pt")
    for name, message in (
        ("cut.safetensors", "not a readable safetensors file"),
        ("bad.pt", "damaged"),
        ("w.ckpt", "is empty"),
        ("none.safetensors", "no such weights file"),
        ("nothing.pt", "no tensors by name"),
    ):
        with pytest.raises(YoloflowError, match=message) as caught:
            load_weights(tmp_path / name)
        assert name in str(caught.value)


def test_one_changed_bit_in_a_file_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = {"half": torch.ones(5, dtype=torch.bfloat16), "count": torch.tensor(3), "none": torch.zeros(0, 4)}
    save_weights(path, state, {"recipe": "yolov8n"})
    assert read_weights(path).facts == {"recipe": "yolov8n"}
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(YoloflowError, match=r"w\.safetensors: its values differ .* copy it again"):
        load_weights(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_network_continues_from_its_own_weights(tmp_path: Path, suffix: str) -> None:
    first, second = small_network(), small_network()
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(first.state_dict(), path)
    else:
        save_weights(path, first.state_dict())
    report = load_pretrain(second, path)
    assert len(report.loaded) == len(first.state_dict())
    assert report.faults() == ""
    after = second.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in first.state_dict().items())


def test_create_model_starts_from_a_checkpoint(tmp_path: Path) -> None:
    first = small_network()
    save_weights(tmp_path / "w.safetensors", first.state_dict())
    section = reference_config("yolov8")["network"]
    second = create_model("yolov8", section, 5, checkpoint_path=tmp_path / "w.safetensors")
    torch.testing.assert_close(second.get_parameter("0.conv.weight"), first.get_parameter("0.conv.weight"))


def test_strict_loading_names_every_key_that_does_not_fit_and_changes_nothing(tmp_path: Path) -> None:
    network = small_network()
    before = network.get_parameter("1.conv.weight").clone()
    state = dict(small_network().state_dict())
    del state["0.conv.weight"], state["0.bn.bias"]
    state |= {"extra.weight": torch.zeros(2), "4.merge.conv.weight": torch.zeros(1, 2, 3, 3)}
    save_weights(tmp_path / "w.safetensors", state)
    with pytest.raises(YoloflowError) as caught:
        load_pretrain(network, tmp_path / "w.safetensors", strict=True)
    message = str(caught.value)
    assert "w.safetensors" in message
    assert "strict_load=false" in message
    for line in (
        "missing in the file: 0.conv.weight",
        "missing in the file: 0.bn.bias",
        "not in the network: extra.weight",
        "shape: 4.merge.conv.weight: (1, 2, 3, 3) in the file, (32, 64, 1, 1) here",
    ):
        assert line in message
    torch.testing.assert_close(network.get_parameter("1.conv.weight"), before, rtol=0, atol=0)


def test_lenient_loading_takes_what_fits_and_says_what_did_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many_classes, few_classes = small_network(40), small_network(5)
    save_weights(tmp_path / "w.safetensors", many_classes.state_dict())
    with caplog.at_level(logging.WARNING, logger="yoloflow"):
        report = load_pretrain(few_classes, tmp_path / "w.safetensors", strict=False)
    assert report.missing == report.unexpected == report.misshaped == []
    assert {entry.split(".")[1] for entry in report.anew} == {"class_branches"}
    torch.testing.assert_close(
        few_classes.get_parameter("0.conv.weight"),
        many_classes.get_parameter("0.conv.weight"),
        rtol=0,
        atol=0,
    )


def test_lenient_loading_of_a_file_that_fits_nowhere_is_an_error(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"other": torch.zeros(1)})
    with pytest.raises(YoloflowError, match=r"none of its 1 names \(other\) is of this network"):
        load_pretrain(small_network(), tmp_path / "w.safetensors", strict=False)


def test_every_reference_name_has_a_parameter_of_ours_and_back() -> None:
    arrays = reference_arrays("yolov8")
    network = small_network()
    names = mindyolo_names(network)
    assert set(names.values()) == set(arrays) - {"model.model.22.stride"}
    state = network.state_dict()
    assert set(names) == {name for name in state if not name.endswith("num_batches_tracked")}
    load_mindyolo(network, arrays)
    for ours, theirs in names.items():
        np.testing.assert_array_equal(state[ours].numpy(), arrays[theirs], err_msg=ours)


def test_reference_weights_that_do_not_fit_are_all_named_and_none_is_copied() -> None:
    network = small_network()
    before = network.get_parameter("1.conv.weight").clone()
    arrays = reference_arrays("yolov8")
    del arrays["model.model.3.bn.gamma"]
    arrays["model.model.99.conv.weight"] = np.zeros(1, np.float32)
    arrays["model.model.0.conv.weight"] = np.zeros((8, 3, 1, 1), np.float32)
    arrays["model.model.22.stride"] = np.array([16, 32, 64], np.int32)
    with pytest.raises(YoloflowError) as caught:
        load_mindyolo(network, arrays)
    message = str(caught.value)
    for line in (
        "4 faults",
        "missing in the arrays: model.model.3.bn.gamma",
        "not in the network: model.model.99.conv.weight",
        "shape of model.model.0.conv.weight: (8, 3, 1, 1), the network has (8, 3, 3, 3)",
        "constant model.model.22.stride: [16, 32, 64], the network has [8, 16, 32]",
    ):
        assert line in message
    torch.testing.assert_close(network.get_parameter("1.conv.weight"), before, rtol=0, atol=0)


def test_half_precision_reference_weights_are_widened() -> None:
    network = small_network()
    arrays = {
        name: array.astype(np.float16) if array.dtype == np.float32 else array
        for name, array in reference_arrays("yolov8").items()
    }
    load_mindyolo(network, arrays)
    assert network.get_parameter("0.conv.weight").dtype == torch.float32


def test_weights_in_a_folder_whose_name_is_no_utf_8_are_read(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    weights = {"a": torch.arange(6.0).reshape(2, 3)}
    save_weights(folder / "a.safetensors", weights)
    found = load_weights(folder / "a.safetensors")
    assert torch.equal(found["a"], weights["a"])
    (folder / "a.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:-1])
    with pytest.raises(YoloflowError, match="not a readable safetensors file"):
        load_weights(folder / "a.safetensors")
