"""A test without a mark has a time limit, and one with a mark has none."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import time
import pytest

CALLS = []

def test_unmarked():
    time.sleep(1)

def test_slow_once():
    CALLS.append(1)
    time.sleep(1 if len(CALLS) == 1 else 0)

def test_wrong_once():
    CALLS.append(1)
    assert len(CALLS) != 3

@pytest.mark.process
def test_marked():
    time.sleep(1)
"""


@pytest.mark.process
def test_a_test_without_a_mark_fails_if_it_is_slow_each_time_or_wrong_once(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = process: starts processes\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--slow-limit", "0.1", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 failed, 2 passed" in done.stdout, done.stdout
    assert "test_unmarked: call took 1.0 s, and a test without a mark has 0.1 s" in done.stdout
