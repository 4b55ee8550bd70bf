"""States on disk are complete, checked and never half written."""

import hashlib
import json
import logging
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.data_sets import Bomb
from yoloflow.run.checkpoint import StateWriter, TrainingState, load_newest_state, save_state


def state_of(step: int) -> TrainingState:
    return TrainingState({"weight": torch.full((3,), float(step))}, {"trainer": {"step": step}})


def test_the_newest_state_is_read_back(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_state(tmp_path, step, state_of(step))
    state = load_newest_state(tmp_path)
    assert state is not None
    assert state.numbers == {"trainer": {"step": 30}}
    assert torch.equal(state.tensors["weight"], torch.full((3,), 30.0))


def test_only_the_two_newest_states_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_state(tmp_path, step, state_of(step))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "state-00000020.json",
        "state-00000020.safetensors",
        "state-00000030.json",
        "state-00000030.safetensors",
    ]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "newer"])
def test_a_damaged_state_is_named_and_the_one_before_is_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        save_state(tmp_path, step, state_of(step))
    tensors = tmp_path / "state-00000020.safetensors"
    manifest = tmp_path / "state-00000020.json"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    elif damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(bytes(data))
    elif damage == "remove":
        tensors.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**content, "schema": 99}))
    with caplog.at_level(logging.WARNING, logger="yoloflow"):
        state = load_newest_state(tmp_path)
    assert state is not None
    assert state.numbers["trainer"]["step"] == 10
    assert "state-00000020.json" in caplog.text


def large_state(step: int) -> TrainingState:
    """Some 20 KB of tensors and 2 KB of numbers."""
    tensors = {"weight": torch.arange(5000.0) + step, "rng": torch.get_rng_state()[:100]}
    return TrainingState(tensors, {"trainer": {"step": step, "best": {"map": 0.5}, "many": list(range(300))}})


def newest(folder: Path) -> TrainingState:
    state = load_newest_state(folder)
    assert state is not None
    return state


@pytest.mark.fuzz
def test_a_state_cut_at_any_kilobyte_or_with_any_bit_flipped_does_not_count(tmp_path: Path) -> None:
    for step in (10, 20):
        save_state(tmp_path, step, large_state(step))
    files = [tmp_path / "state-00000020.safetensors", tmp_path / "state-00000020.json"]
    rng = np.random.default_rng(0)
    refused = 0
    for path in files:
        whole = path.read_bytes()
        damaged = [whole[:cut] for cut in range(0, len(whole), 1024)]
        for position in rng.integers(0, len(whole), 500):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << int(rng.integers(8))
            damaged.append(bytes(flipped))
        for content in damaged:
            path.write_bytes(content)
            state = newest(tmp_path)
            step = state.numbers["trainer"]["step"]
            # A flipped blank between two words of JSON may still be a blank.
            assert state.numbers == large_state(step).numbers
            assert torch.equal(state.tensors["weight"], large_state(step).tensors["weight"])
            refused += step == 10
        path.write_bytes(whole)
        assert newest(tmp_path).numbers["trainer"]["step"] == 20
    assert refused > 1000


@pytest.mark.parametrize(
    "case", ["swapped", "renamed", "older schema", "a list", "pickle", "numbers changed"]
)
def test_a_foreign_or_evil_state_is_refused_and_nothing_is_executed(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20):
        save_state(tmp_path, step, large_state(step))
    tensors, manifest = tmp_path / "state-00000020.safetensors", tmp_path / "state-00000020.json"
    content = json.loads(manifest.read_text())
    if case == "swapped":
        manifest.write_bytes((tmp_path / "state-00000010.json").read_bytes())
    elif case == "renamed":
        for path in (tensors, manifest):
            path.rename(path.with_stem("state-00000030"))
    elif case == "a list":
        manifest.write_text("[1]")
    elif case == "numbers changed":
        content["numbers"]["trainer"]["step"] = 21
        manifest.write_text(json.dumps(content))
    else:
        if case == "pickle":
            tensors.write_bytes(pickle.dumps(Bomb()))
            content["sha256"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
        else:
            content["schema"] = 1
        del content["sum"]
        content["sum"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        manifest.write_text(json.dumps(content))
    assert newest(tmp_path).numbers["trainer"]["step"] == 10
    assert "skipped" in caplog.text


def test_a_folder_without_states_gives_none(tmp_path: Path) -> None:
    assert load_newest_state(tmp_path) is None


def test_a_state_is_that_of_the_moment_although_the_training_goes_on(tmp_path: Path) -> None:
    state, writer = large_state(10), StateWriter(tmp_path)
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    state.numbers["kept"] = [1]
    writer.write(10, state)
    for tensor in state.tensors.values():
        tensor.zero_()
    state.numbers["kept"].append(2)
    writer.write(20, large_state(20))
    writer.wait()
    assert [path.name for path in sorted(tmp_path.glob("*.json"))] == [
        "state-00000010.json",
        "state-00000020.json",
    ]
    (tmp_path / "state-00000020.json").unlink()
    found = load_newest_state(tmp_path)
    assert found is not None
    assert found.numbers["kept"] == [1]
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in before.items())


def test_no_thread_is_left_when_a_state_is_written(tmp_path: Path) -> None:
    """One would keep the OpenMP threads of its torch operations, and slow those of the training down."""
    before, writer = threading.active_count(), StateWriter(tmp_path)
    writer.write(10, large_state(10))
    writer.wait()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
