"""Freed memory stays in the process while a training runs, and goes back to the system afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells page faults")

# In a process of its own: what is kept depends on all that was allocated before.
SCRIPT = """
import ctypes, os, resource, torch
from yoloflow.runtime.allocator import give_back_freed_memory, keep_freed_memory
ctypes.CDLL(None).gnu_get_libc_version

def faults_of_a_step(count=3, values=12 * 2**20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large = [torch.ones(values) for _ in range(count)]
    del large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def steps():
    return [faults_of_a_step() for _ in range(8)][-1]

torch.set_num_threads(1)
begin, first = resident(), steps()
restore = keep_freed_memory()
kept, within = steps(), resident()
give_back_freed_memory()
given_back = resident()
again = steps()
restore()
at_the_end = resident()
# Larger than any hole that the heap may have kept without its pages.
after = [faults_of_a_step(1, 2**28) for _ in range(2)][-1]
print(first, kept, again, after, *((size - begin) >> 20 for size in (within, given_back, at_the_end)))
"""


def figures(**environment: str) -> list[int]:
    known = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=known | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "gnu_get_libc_version" in done.stderr:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return [int(figure) for figure in done.stdout.split()]


@pytest.mark.process
def test_freed_memory_is_used_again_and_given_back_at_the_end() -> None:
    before, kept, again, after, within, given_back, at_the_end = figures()
    assert kept < before / 10
    assert again < before / 10
    assert after > before
    assert within > 100
    assert given_back < 50
    assert at_the_end < 50


@pytest.mark.process
@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_"])
def test_an_allocator_that_the_user_has_set_stays_as_it_is(name: str) -> None:
    before, kept, *_ = figures(**{name: "" if name == "GLIBC_TUNABLES" else "131072"})
    assert kept > before / 2
