"""Many trainings in one process leave nothing behind."""

import gc
import os
import threading
from pathlib import Path

import pytest

from yoloflow import load_config, train
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.runtime.memory import forget_peak_memory, peak_memory

pytestmark = pytest.mark.training

SCENES = SceneRecipe(num_train=16, num_val=4, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
WARM_UP, TRAININGS = 6, 20


def resident_bytes() -> int:
    gc.collect()
    forget_peak_memory()
    return peak_memory() or 0


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells open files and memory")
def test_20_trainings_in_one_process_leave_memory_files_and_threads_as_they_were(tmp_path: Path) -> None:
    cache = tmp_path / "scenes"
    settings = [
        f"data.train_set={digits_dataset('train', SCENES, cache)}",
        f"data.val_set={digits_dataset('val', SCENES, cache)}",
        *("img_size=64", "per_batch_size=8", "epochs=1", "network.width_multiple=0.125", "threads=1"),
        *("data.num_parallel_workers=1", "report=false", f"save_dir={tmp_path}"),
    ]
    memory, files, threads = [], [], []
    for _ in range(TRAININGS):
        train(load_config("quickstart", settings))
        memory.append(resident_bytes())
        files.append(len(os.listdir("/proc/self/fd")))
        threads.append(threading.active_count())
    assert files[-1] == files[WARM_UP], files
    assert threads[-1] == threads[WARM_UP], threads
    # A training holds some 40 MB of batches, weights and states: one that stays would show.
    growth = memory[-1] - memory[WARM_UP]
    assert growth < 15e6, [round(size / 1e6) for size in memory]
