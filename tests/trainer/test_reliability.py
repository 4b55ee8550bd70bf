"""A run that dies at any moment and is resumed ends with the same bytes as one that was never interrupted."""

import re
import signal
import subprocess
import time
from typing import Any

import numpy as np
import pytest

from tests.support.dying_runs import Trainings, assert_same
from yoloflow.config.reader import load_config
from yoloflow.data.digits import SceneRecipe, digits_dataset
from yoloflow.flow import train
from yoloflow.structures import YoloflowError

pytestmark = pytest.mark.process


def in_full(value: object) -> Any:
    """A case for `.ci/full` only."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.full)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> tuple[dict[str, Any], int]:
    """What an uninterrupted run leaves, and the number of its calls."""
    code, output = trainings.run("whole")
    assert code == 0
    return trainings.outcome("whole"), int(output)


@pytest.fixture(scope="module")
def sunk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainings, tuple[dict[str, Any], int]]:
    """Trainings in sinks of up to three steps, and what an uninterrupted one leaves."""
    more = ("datasink=true", "sink_size=3", "log_interval=100")
    trainings = Trainings(tmp_path_factory.mktemp("sunk"), *more)
    code, output = trainings.run("whole")
    assert code == 0
    return trainings, (trainings.outcome("whole"), int(output))


def assert_resumes(trainings: Trainings, name: str, whole: dict[str, Any]) -> None:
    assert trainings.run(name)[0] == 0
    assert_same(trainings.outcome(name), whole)


MORE_MOMENTS = (
    "begin_stage:3",
    "save_state:3",
    "_sync_folder:9",
    "_conclude:3",
    "_finish:1",
    "on_epoch_begin:2",
)
MOMENTS = ["test:2", *(in_full(moment) for moment in MORE_MOMENTS)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_a_bad_moment_ends_with_the_same_bytes(
    trainings: Trainings, whole: tuple[dict[str, Any], int], moment: str
) -> None:
    name = moment.replace(":", "-")
    assert trainings.run(name, moment)[0] == -signal.SIGKILL
    assert_resumes(trainings, name, whole[0])


def killed_at_random(trainings: Trainings, whole: tuple[dict[str, Any], int], name: str, seed: int) -> None:
    """Kill a run at a random one of all its calls; resumed, it is killed again unless it ends before."""
    rng = np.random.default_rng(seed)
    assert trainings.run(name, int(rng.integers(1, int(0.95 * whole[1]))))[0] == -signal.SIGKILL
    trainings.run(name, int(rng.integers(1, whole[1])))
    assert_resumes(trainings, name, whole[0])


@pytest.mark.parametrize("seed", range(1))
def test_a_run_killed_at_a_random_moment_ends_with_the_same_bytes(
    trainings: Trainings, whole: tuple[dict[str, Any], int], seed: int
) -> None:
    killed_at_random(trainings, whole, f"random{seed}", seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 131))
def test_31_runs_killed_at_random_moments_end_with_the_same_bytes(
    trainings: Trainings, whole: tuple[dict[str, Any], int], seed: int
) -> None:
    killed_at_random(trainings, whole, f"random{seed}", seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(200, 210))
def test_a_data_sink_killed_at_a_random_moment_ends_with_the_same_bytes(
    sunk: tuple[Trainings, tuple[dict[str, Any], int]], seed: int
) -> None:
    killed_at_random(sunk[0], sunk[1], f"random{seed}", seed)


@pytest.mark.full
def test_a_data_sink_ends_with_the_weights_of_the_plain_loop(
    whole: tuple[dict[str, Any], int], sunk: tuple[Trainings, tuple[dict[str, Any], int]]
) -> None:
    plain, sink = whole[0]["weights"], sunk[1][0]["weights"]
    assert plain.keys() == sink.keys()
    assert all(sink[name] == content for name, content in plain.items())


@pytest.mark.full
@pytest.mark.parametrize("seed", range(10))
def test_runs_killed_from_outside_at_10_random_times_end_with_the_same_bytes(
    trainings: Trainings, whole: tuple[dict[str, Any], int], seed: int
) -> None:
    process = trainings.start(f"time{seed}")
    started = time.monotonic()
    while not (trainings.folder / f"time{seed}" / "config.yaml").exists() and process.poll() is None:
        assert time.monotonic() - started < 120
        time.sleep(0.02)
    time.sleep(float(np.random.default_rng(seed).uniform(0, 4)))
    process.kill()
    process.communicate()
    assert_resumes(trainings, f"time{seed}", whole[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, in_full(signal.SIGINT)])
@pytest.mark.parametrize(
    "moment", ["_to_original:2", *map(in_full, ("on_step_end:9", "save_state:2", "on_train_begin:1"))]
)
def test_a_run_that_is_asked_to_stop_saves_at_once_and_goes_on_with_the_same_bytes(
    trainings: Trainings, whole: tuple[dict[str, Any], int], moment: str, number: signal.Signals
) -> None:
    name = f"{moment.replace(':', '-')}-{number.name}"
    assert trainings.run(name, moment, number)[0] == 128 + number
    states = sorted((trainings.folder / name / "weights").glob("state-*.json"))
    assert states
    assert not (trainings.folder / name / "summary.json").exists()
    assert_resumes(trainings, name, whole[0])


def test_a_run_that_goes_on_otherwise_than_it_began_is_refused_and_left_as_it_is(
    trainings: Trainings,
) -> None:
    assert trainings.run("other", "begin_epoch:4", signal.SIGTERM)[0] == 128 + signal.SIGTERM
    run = trainings.folder / "other"
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fewer = SceneRecipe(num_train=16, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
    data = digits_dataset("train", fewer, trainings.folder / "fewer")
    for setting, complaint in (
        ("per_batch_size=4", "images of a step: 8 when the state was written, 4 now"),
        (f"data.train_set={data}", "training set: 24 images (sum "),
        ("network.width_multiple=0.25", "network.width_multiple: 0.125 then, 0.25 now"),
        ("epochs=2", "epochs: the state is that of step 9, this training has 6"),
    ):
        settings = [*Trainings(trainings.folder, setting).settings, "name=other"]
        with pytest.raises(YoloflowError, match=re.escape(complaint)):
            train(load_config("quickstart", settings))
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files
    process = trainings.start("other", ranks=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert (run / "summary.json").exists()


def test_a_full_disk_costs_no_good_state(trainings: Trainings, whole: tuple[dict[str, Any], int]) -> None:
    assert trainings.run("room", "on_evaluation:1", signal.SIGTERM)[0] == 128 + signal.SIGTERM
    process = trainings.start("room", largest_file=100_000)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.search(
        r"state of step \d+ cannot be written \(File too large\); the training goes on", errors
    ), errors
    assert "YoloflowError" in errors
    assert "that there is room" in errors
    assert not list((trainings.folder / "room" / "weights").glob("*.partial"))
    assert_resumes(trainings, "room", whole[0])


def test_a_run_whose_folder_is_removed_says_so(trainings: Trainings) -> None:
    process = trainings.start("gone", "on_epoch_begin:3", f"rm -rf {trainings.folder / 'gone'}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"{trainings.folder / 'gone'}: the folder of this run is gone" in errors


@pytest.mark.full
def test_a_run_whose_folder_becomes_read_only_keeps_its_good_state_and_goes_on_later(
    trainings: Trainings, whole: tuple[dict[str, Any], int]
) -> None:
    private = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    # Not the folder of all runs: what is open there for writing, the run's claim, would hinder the remount.
    folder = trainings.folder / "locked"
    folder.mkdir()
    bind, lock = f"mount --bind {folder} {folder}", f"mount -o remount,bind,ro {folder}"
    if subprocess.run([*private, f"{bind} && {lock}"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a folder of his own")
    process = trainings.start(
        "locked", "on_epoch_begin:3", lock, launcher=[*private, f'{bind} && exec "$@"', "sh"]
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "cannot be written (Read-only file system); the newest good state is untouched" in errors
    assert_resumes(trainings, "locked", whole[0])


@pytest.fixture(scope="module")
def whole_pair(trainings: Trainings) -> tuple[dict[str, Any], int]:
    """What an uninterrupted run of two ranks leaves, and the number of calls of the rank that makes less."""
    process = trainings.start("pair-whole", ranks=2)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return trainings.outcome("pair-whole"), min(map(int, output.split()))


def test_two_ranks_stop_at_the_same_step_and_go_on_with_the_same_bytes(
    trainings: Trainings, whole_pair: tuple[dict[str, Any], int]
) -> None:
    for moment in ("_enter_stage:8", 0):
        process = trainings.start("pair", moment, signal.SIGTERM, ranks=2)
        _, errors = process.communicate(timeout=300)
        assert (process.returncode == 0) == (moment == 0), errors
        assert (trainings.folder / "pair" / "summary.json").exists() == (moment == 0)
    assert_same(trainings.outcome("pair"), whole_pair[0])


@pytest.mark.full
def test_two_ranks_killed_in_a_validation_go_on_with_it(
    trainings: Trainings, whole_pair: tuple[dict[str, Any], int]
) -> None:
    # As a launcher does that does not wait for the end of a long validation.
    process = trainings.start("pair-val", "_to_original:1", "sleep 1; kill -9 $PPID", ranks=2)
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert (trainings.folder / "pair-val" / "weights" / "state-00000003.json").exists()
    process = trainings.start("pair-val", ranks=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert_same(trainings.outcome("pair-val"), whole_pair[0])


@pytest.mark.full
@pytest.mark.parametrize("seed", range(300, 310))
def test_torchrun_starts_killed_ranks_again_and_they_end_with_the_same_bytes(
    seed: int, trainings: Trainings, whole_pair: tuple[dict[str, Any], int]
) -> None:
    moment = int(np.random.default_rng(seed).integers(1, int(0.95 * whole_pair[1])))
    process = trainings.start(f"pair{seed}", moment, ranks=2, dying_rank=seed % 2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "exitcode: -9" in errors, errors
    assert_same(trainings.outcome(f"pair{seed}"), whole_pair[0])


@pytest.mark.parametrize(
    ("dying_rank", "own_store"), [(1, False), *(in_full(case) for case in [(0, False), (0, True), (1, True)])]
)
def test_ranks_on_two_machines_start_again_and_end_with_the_bytes_of_one_machine(
    dying_rank: int, own_store: bool, trainings: Trainings, whole_pair: tuple[dict[str, Any], int]
) -> None:
    name, moment = f"machines{dying_rank}{own_store}", whole_pair[1] // 2
    machines = trainings.start_on_two_machines(name, moment, dying_rank, own_store)
    endings = [process.communicate(timeout=300) for process in machines]
    assert [process.returncode for process in machines] == [0, 0], endings
    assert (trainings.folder / f"{name}.died").exists()
    assert_same(trainings.outcome(name), whole_pair[0])


@pytest.mark.full
@pytest.mark.parametrize("seed", range(400, 406))
def test_a_run_with_loading_processes_killed_at_a_random_moment_ends_with_the_same_bytes(
    trainings: Trainings, whole: tuple[dict[str, Any], int], seed: int
) -> None:
    busy = Trainings(trainings.folder, "data.num_parallel_workers=2")
    moment = int(np.random.default_rng(seed).integers(1, int(0.5 * whole[1])))
    assert busy.run(f"busy{seed}", moment)[0] == -signal.SIGKILL
    assert_resumes(busy, f"busy{seed}", whole[0])
