"""Processes that join a group end cleanly."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

PAIRS = 5
# Without leaving the group, 26 of 60 such pairs were aborted as Python ended.
ENDS_RIGHT_AFTER_A_COLLECTIVE = """
from yoloflow.runtime import gather_over_ranks, init_ranks
ranks, _ = init_ranks("cpu", threads=1, timeout_s=120)
for number in range(20):
    assert gather_over_ranks({"rank": ranks.rank}) == [{"rank": 0}, {"rank": 1}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port: int = probe.getsockname()[1]
        return port


def start_pair() -> list[subprocess.Popen[str]]:
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", ENDS_RIGHT_AFTER_A_COLLECTIVE],
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_ranks_that_end_right_after_a_collective_are_not_aborted() -> None:
    processes = [process for _ in range(PAIRS) for process in start_pair()]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
