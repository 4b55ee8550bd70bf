"""Processes find each other, join a group and end cleanly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch.distributed import TCPStore

from tests.support.ports import free_port
from yoloflow.runtime.ranks import _Collectives, without_collectives

PAIRS = 5
# Without leaving the group, 26 of 60 such pairs were aborted as Python ended.
ENDS_RIGHT_AFTER_A_COLLECTIVE = """
from yoloflow.runtime.ranks import gather_over_ranks, init_ranks
ranks, _ = init_ranks("cpu", threads=1, timeout_s=120)
for number in range(20):
    assert gather_over_ranks({"rank": ranks.rank}) == [{"rank": 0}, {"rank": 1}]
"""


def start_pair() -> list[subprocess.Popen[str]]:
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [start_rank(rank, ENDS_RIGHT_AFTER_A_COLLECTIVE, meeting) for rank in range(2)]


def start_rank(rank: int, program: str, meeting: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_trials_in_threads_that_end_in_any_order_leave_sums_and_gathers_as_they_were() -> None:
    assert not _Collectives.is_off
    first, second = without_collectives(), without_collectives()
    for block in (first, second):
        block.__enter__()
    for block in (first, second):
        assert _Collectives.is_off
        block.__exit__(None, None, None)
    assert not _Collectives.is_off


@pytest.mark.process
def test_ranks_that_end_right_after_a_collective_are_not_aborted() -> None:
    processes = [process for _ in range(PAIRS) for process in start_pair()]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors


@pytest.mark.process
@pytest.mark.parametrize(
    ("present", "complaint"),
    [
        ((0, 1), "of 3 ranks these did not come within 3 seconds (rank_timeout): 2"),
        ((1, 2), "rank 1: rank 0 did not answer within 3 seconds (rank_timeout)"),
    ],
)
def test_a_rank_that_does_not_come_is_named(present: tuple[int, ...], complaint: str) -> None:
    # As under torchrun, which keeps the store while it starts the ranks, here with words of dead ones in it.
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for rank in (1, 2):
        store.set(f"word of rank {rank}", "of a dead rank")
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "3"}
    meeting |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "1"}
    program = 'from yoloflow.runtime.ranks import init_ranks\ninit_ranks("cpu", threads=1, timeout_s=3)'
    processes = [start_rank(rank, program, meeting) for rank in present]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert complaint in errors[0]
    assert all(process.returncode == 1 for process in processes)
