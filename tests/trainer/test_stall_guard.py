"""A training that does not get on says where it stands, and ranks do not wait for each other for ever."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.support.toy_training import toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.runtime.ranks import Ranks, leave_ranks
from yoloflow.structures import YoloflowError
from yoloflow.trainer.activity import Activity
from yoloflow.trainer.guards.stall import StallWatchdog


class SleepBefore(BaseCallback):
    """Sleeps before a step."""

    def __init__(self, step: int, seconds: float) -> None:
        self.step, self.seconds = step, seconds

    def on_step_begin(self, context: RunContext) -> None:
        if context.step + 1 == self.step:
            time.sleep(self.seconds)


@pytest.mark.process
def test_what_takes_suspiciously_long_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = toy_trainer(tmp_path, toy_step(), None, SleepBefore(3, 1.5))
    (watchdog,) = (guard for guard in trainer.guards.guards if isinstance(guard, StallWatchdog))
    watchdog.patience_s = 0.6
    with caplog.at_level(logging.WARNING, "yoloflow"):
        trainer.train()
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == "on_step_begin of the callbacks (after step 2) for 0 s and not done yet"


def test_an_error_of_one_process_is_not_explained_by_others() -> None:
    alone, one_of_two = (StallWatchdog(Activity(ranks)) for ranks in (Ranks(), Ranks(0, 2)))
    assert alone.explain(RuntimeError("[gloo] Connection closed by peer")) is None
    assert one_of_two.explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def train_as_a_rank(rank: int, folder: str) -> None:
    """The second of two ranks stands still."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=2)
    )
    step = toy_step(is_parallel=True)
    callbacks = [SleepBefore(8, 6.0)] if rank == 1 else []
    trainer = toy_trainer(Path(folder, "run"), step, None, *callbacks, ranks=Ranks(rank, 2, rank))
    try:
        trainer.train()
    except YoloflowError as error:
        Path(folder, f"rank{rank}.txt").write_text(str(error))
    del trainer, step
    leave_ranks()


def go_on_as_a_rank(rank: int, folder: str) -> None:
    """Each rank has a folder of its own, as on two machines; only the first has a state."""
    torch.set_num_threads(1)
    home = Path(folder, f"machine{rank}")
    if rank == 0:
        toy_trainer(home, toy_step()).train()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        toy_trainer(home, toy_step(is_parallel=True), resumed=True, ranks=Ranks(rank, 2, rank))
    except YoloflowError as error:
        Path(folder, f"rank{rank}.txt").write_text(str(error))
    leave_ranks()


@pytest.mark.process
def test_ranks_that_find_different_states_refuse_to_go_on(tmp_path: Path) -> None:
    mp.spawn(go_on_as_a_rank, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        message = (tmp_path / f"rank{rank}.txt").read_text()
        assert "different steps ([24, 0])" in message
        assert "share save_dir" in message


@pytest.mark.process
def test_a_rank_that_waits_in_vain_says_for_whom_where_and_how_long(tmp_path: Path) -> None:
    mp.spawn(train_as_a_rank, (str(tmp_path),), nprocs=2)
    waiting, late = ((tmp_path / f"rank{rank}.txt").read_text() for rank in range(2))
    assert waiting.startswith("rank 0 of 2: taking step 8, and for 2 s waiting for the other ranks")
    assert "Timed out waiting 2000ms" in waiting
    assert "resume=auto" in waiting
    assert "rank 1 of 2: taking step 8" in late
