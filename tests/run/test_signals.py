"""Ranks stop together and write their states together, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.support.toy_training import everything, toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.run.signals import StopRequest
from yoloflow.runtime.rank_failures import explain_rank_timeout
from yoloflow.runtime.ranks import Ranks, gather_over_ranks, leave_ranks
from yoloflow.structures import YoloflowError
from yoloflow.train_step.step import StepSettings

pytestmark = pytest.mark.process


def join(rank: int, folder: str, seconds: float) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet"
    timeout = timedelta(seconds=seconds)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timeout)


def agree_as_a_rank(rank: int, folder: str) -> None:
    join(rank, folder, 60)
    stop = StopRequest(Ranks(rank, 2, rank, timeout_s=60))
    assert stop.agree() == (None, False)
    assert stop.agree(wants_state=rank == 1) == (None, True)
    with stop.listen():
        if rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agree() == (signal.SIGTERM, False)
        stop.wait_for_all()
    leave_ranks()


def test_ranks_agree_on_a_signal_and_on_a_state_that_one_of_them_wants(tmp_path: Path) -> None:
    mp.spawn(agree_as_a_rank, (str(tmp_path),), nprocs=2)


class SleepAt(BaseCallback):
    """One rank is slow now and then, so that the clocks of the two disagree."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_step_end(self, context: RunContext) -> None:
        if context.step % 2 == self.rank:
            time.sleep(0.03)


def train_by_the_clock(rank: int, folder: str) -> None:
    join(rank, folder, 20)
    step = toy_step(StepSettings(accumulate=2), is_parallel=True)
    trainer = toy_trainer(
        Path(folder, "run"),
        step,
        None,
        SleepAt(rank),
        ranks=Ranks(rank, 2, rank, timeout_s=20),
        save_minutes=0.05 / 60,
    )
    trainer.train()
    (Path(folder) / f"{rank}.txt").write_text(str(sum(float(x.sum()) for x in everything(step).values())))
    del trainer, step
    leave_ranks()


def test_states_by_the_clock_are_written_by_all_ranks_at_the_same_step(tmp_path: Path) -> None:
    mp.spawn(train_by_the_clock, (str(tmp_path),), nprocs=2)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()


def wait_in_vain(rank: int, folder: str) -> None:
    join(rank, folder, 2)
    stop = StopRequest(Ranks(rank, 2, rank, timeout_s=2))
    if rank == 0:
        with pytest.raises(RuntimeError, match="2000ms"):
            stop.agree()
        complaint = r"rank 0 of 2: looking for data, and for \d s waiting for the other ranks.*Timed out"
        with pytest.raises(YoloflowError, match=complaint), explain_rank_timeout("looking for data"):
            gather_over_ranks(1)
        Path(folder, "done").touch()
    while not Path(folder, "done").exists():
        time.sleep(0.05)
    leave_ranks()


def test_every_wait_for_another_rank_ends_and_says_what_it_was_for(tmp_path: Path) -> None:
    mp.spawn(wait_in_vain, (str(tmp_path),), nprocs=2)


IN_A_COLLECTIVE = """
import os, sys, time
from datetime import timedelta
from torch.distributed import TCPStore
from yoloflow.run.signals import StopRequest
store = TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=300))
with StopRequest().listen():
    print("waiting", flush=True)
    store.get("what nobody sets")
"""


def test_a_second_sigint_ends_a_process_that_waits_for_others_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", IN_A_COLLECTIVE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT


def test_a_launcher_that_passes_on_the_terminals_sigint_is_no_second_one() -> None:
    program = (
        "import os, signal, time\n"
        "from yoloflow.run.signals import leave_at_second_interrupt\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "with leave_at_second_interrupt(1.0):\n"
        "    for pause in (0.2, 1.2):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(pause)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=100)
    assert (finished.returncode, finished.stdout) == (130, b"still here\n"), finished.stderr
