"""The command, run in this process."""

import sys

import pytest

from yoloflow.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["yoloflow", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)
