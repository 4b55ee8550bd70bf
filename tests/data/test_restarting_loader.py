"""Worker processes are killed, hang, or cannot share memory: no image is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.toy_loader import COUNT, assert_equal_batches, toy_loader
from yoloflow.data.restarting_loader import RestartingLoader
from yoloflow.structures import Batch, YoloflowError


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for first, second in zip(found, expected, strict=True):
        assert_equal_batches(first, second)


def kill_a_worker() -> None:
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()


def lose_workers_at(*lost: int) -> Callable[[int, int], Iterator[int]]:
    """Batches 0 to 9; each of `lost` dies the first times it is asked for, as often as it is listed."""
    left = list(lost)

    def load_from(start: int, num_workers: int) -> Iterator[int]:
        for number in range(start, 10):
            if number in left:
                left.remove(number)
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
            yield number

    return load_from


def test_batches_go_on_after_a_lost_worker_and_stop_after_the_second_loss_of_one() -> None:
    describe = "batch {}".format
    assert list(RestartingLoader(lose_workers_at(0, 3, 4, 9), 0, 0, describe)) == list(range(10))
    assert list(RestartingLoader(lose_workers_at(7), 6, 0, describe)) == [6, 7, 8, 9]
    batches = RestartingLoader(lose_workers_at(1, 1), 0, 0, describe)
    assert next(batches) == 0
    with pytest.raises(YoloflowError, match=r"pid 7.* at batch 1: for the second time"):
        next(batches)


def test_an_error_of_the_batch_itself_is_not_taken_for_a_lost_worker() -> None:
    def load_from(start: int, num_workers: int) -> Iterator[int]:
        raise RuntimeError("out of cheese")
        yield start

    with pytest.raises(RuntimeError, match="cheese"):
        next(RestartingLoader(load_from, 0, 0, str))


@pytest.mark.process
@pytest.mark.parametrize(("at", "timeout_s"), [(1, 300), (6, 0), (12, 300)])
def test_a_killed_process_is_replaced_soon_and_the_batches_are_the_same(
    at: int, timeout_s: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    batches = []
    started = time.monotonic()
    for number, batch in enumerate(toy_loader(tmp_path, timeout_s=timeout_s)):
        batches.append(batch)
        if number == at:
            kill_a_worker()
            time.sleep(0.2)  # the consumer is at work, and is not disturbed
    assert time.monotonic() - started < 60  # far from the limit, which is for processes that hang
    assert_equal(batches, list(toy_loader(tmp_path, 0)))
    assert "DataLoader worker (pid" in caplog.text
    assert "no image is lost" in caplog.text


class HangingImages:
    """Images that hang when they are read: pipes into which nobody writes, until somebody does."""

    def __init__(self, folder: Path, *numbers: int) -> None:
        self.contents = {folder / f"{number}.png": b"" for number in numbers}
        for path in self.contents:
            self.contents[path] = path.read_bytes()
            path.unlink()
            os.mkfifo(path)

    def heal(self) -> None:
        for path, content in self.contents.items():
            path.unlink()
            path.write_bytes(content)


@pytest.mark.process
def test_a_hung_read_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = list(toy_loader(tmp_path, 0))
    loader = toy_loader(tmp_path, 2, timeout_s=2)
    pipes = HangingImages(tmp_path, *range(COUNT))
    threading.Timer(1, pipes.heal).start()
    assert_equal(list(loader), expected)
    assert "timed out after 2" in caplog.text
    assert "batch 1 of epoch 1" in caplog.text


@pytest.mark.process
def test_a_read_that_hangs_again_is_refused_with_the_images_of_its_batch(tmp_path: Path) -> None:
    loader = toy_loader(tmp_path, 1, timeout_s=2)
    second = loader.epoch_batches(0)[1].indices
    HangingImages(tmp_path, second[2])
    batches = iter(loader)
    next(batches)
    with pytest.raises(YoloflowError, match=r"batch 2 of epoch 1.*for the second time") as refusal:
        next(batches)
    assert all(str(tmp_path / f"{number}.png") in str(refusal.value) for number in second)


WITHOUT_GUARD = """
import multiprocessing, sys
from pathlib import Path
multiprocessing.set_start_method(sys.argv[1], force=True)
sys.path.insert(0, sys.argv[2])
from tests.support.toy_loader import toy_loader
batches = iter(toy_loader(Path(sys.argv[3]), 1, timeout_s=300))
next(batches)
"""


@pytest.mark.process
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_script_without_its_guard_is_told_so_at_once(start_method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_GUARD)
    command = [sys.executable, str(script), start_method, str(Path(__file__).parents[2]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"each of them first runs {script} once more" in done.stderr
    assert done.stderr.rstrip().endswith("or set data.num_parallel_workers=0")
    assert "started anew" not in done.stderr


WITHOUT_SHARED_MEMORY = """
import logging, sys
from collections.abc import Callable, Iterator
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support.toy_loader import toy_loader
logging.basicConfig()
print(sum(len(batch.images) for batch in toy_loader(Path(sys.argv[2]))))
"""


@pytest.mark.process
@pytest.mark.parametrize("size", ["nr_inodes=1", "size=4k"])
def test_without_shared_memory_the_training_process_loads(size: str, tmp_path: Path) -> None:
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o {size} none /dev/shm"
    if subprocess.run([*private, mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small /dev/shm")
    script = [sys.executable, "-c", WITHOUT_SHARED_MEMORY, str(Path(__file__).parents[2]), str(tmp_path)]
    done = subprocess.run(
        [*private, f'{mount} && exec "$@"', "sh", *script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "images are loaded in the training process" in done.stderr
    assert "Exception ignored" not in done.stderr
    assert int(done.stdout) == 3 * COUNT
