"""How much of a training a second one repeats."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.runtime.random_generators import set_determinism
from yoloflow.structures import YoloflowError

SCENES = SceneRecipe(num_train=16, num_val=4, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))


def train(folder: Path, name: str, *settings: str) -> dict[str, bytes]:
    """Weights of a training on two threads, in a process of its own."""
    cache = folder / "scenes"
    command = [
        *(sys.executable, "-m", "yoloflow", "train", "quickstart", f"name={name}", f"save_dir={folder}"),
        f"data.train_set={digits_dataset('train', SCENES, cache)}",
        f"data.val_set={digits_dataset('val', SCENES, cache)}",
        *("img_size=64", "per_batch_size=8", "epochs=2", "network.width_multiple=0.125"),
        *("data.num_parallel_workers=0", "threads=2", *settings),
    ]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "2"})
    return {
        path.name: path.read_bytes() for path in sorted((folder / name / "weights").glob("*.safetensors"))
    }


@pytest.mark.training
def test_two_bitwise_trainings_leave_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    first, second = (train(tmp_path, name, "determinism=bitwise") for name in ("first", "second"))
    assert first == second
    other = train(tmp_path, "other", "determinism=bitwise", "seed=1")
    assert other.keys() == first.keys()
    assert all(other[name] != content for name, content in first.items())


@pytest.mark.parametrize(
    ("level", "is_bitwise", "tries_kernels"),
    [("none", False, True), ("data", False, False), ("bitwise", True, False)],
)
def test_each_level_sets_what_it_promises_and_takes_back_what_another_set(
    level: str, is_bitwise: bool, tries_kernels: bool
) -> None:
    try:
        for before in ("none", "data", "bitwise"):
            set_determinism(before, 0)
            set_determinism(level, 0)
            assert torch.are_deterministic_algorithms_enabled() == is_bitwise
            assert torch.backends.cudnn.deterministic == is_bitwise
            assert torch.backends.cudnn.benchmark == tries_kernels
    finally:
        set_determinism("data", 0)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(YoloflowError, match="determinism=bits: did you mean bitwise"):
        set_determinism("bits", 0)
