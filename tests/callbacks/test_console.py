"""What a training shows while it runs: in plain lines, in a notebook, in terminals of any width."""

import logging
import os
import pty
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.support.toy_training import EPOCHS, STEPS_PER_EPOCH, toy_step, toy_trainer
from yoloflow.callbacks import BaseCallback, RunContext
from yoloflow.callbacks.console import ConsoleCallback
from yoloflow.callbacks.progress import Progress
from yoloflow.runtime.messages import shown_messages, stderr_console

LOSSES = [("loss", 12.345), ("lbox", 1.2), ("lcls", 3.4), ("dfl", 2.2)]
FAR = Progress(30, 300, 1200, 5400, 1234.5, 3723.2, LOSSES)
COUNT_RATE_LEFT = "1200/5400  1234.5 img/s  1:02:03 left"
STEPS = EPOCHS * STEPS_PER_EPOCH
SAID = "said in between"


@pytest.mark.parametrize("width", [37, 40, 59, 60, 72, 80, 100, 132, 250])
def test_count_rate_and_time_left_are_the_last_to_be_cut(width: int) -> None:
    line = FAR.line(width)
    assert COUNT_RATE_LEFT in line
    assert len(line) <= width


def test_more_room_shows_the_epoch_then_the_total_loss_then_a_bar_then_all_losses() -> None:
    assert FAR.line(20) == COUNT_RATE_LEFT[:20]
    assert FAR.line(40) == COUNT_RATE_LEFT
    assert FAR.line(60) == f"epoch 30/300  {COUNT_RATE_LEFT}"
    assert FAR.line(70) == f"epoch 30/300  {COUNT_RATE_LEFT}  loss 12.345"
    assert FAR.line(80) == "[" + "##".ljust(12, ".") + f"]  {FAR.line(70)}"
    assert FAR.line() == f"epoch 30/300  {COUNT_RATE_LEFT}  loss 12.345  lbox 1.200  lcls 3.400  dfl 2.200"
    assert FAR.line(132) == "[" + "######".ljust(29, ".") + f"]  {FAR.line()}"


def test_what_is_not_known_yet_is_a_dash() -> None:
    assert Progress(1, 2, 0, 10).line(40) == "epoch 1/2  0/10  - img/s  -:--:-- left"


def test_a_script_without_logging_shows_plain_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    with shown_messages():
        toy_trainer(tmp_path, toy_step(), None, ConsoleCallback(), log_interval=5).train()
    shown = capfd.readouterr().err
    assert f"training: {EPOCHS} epochs x {STEPS_PER_EPOCH} steps; run folder {tmp_path}" in shown
    assert f"epoch 1/{EPOCHS}  5/{STEPS}  " in shown
    assert f"epoch {EPOCHS}/{EPOCHS}  {STEPS}/{STEPS}  " in shown
    assert "0:00:00 left  loss " in shown


class Cell:
    """A notebook's output that is drawn anew."""

    lines: list[str] = []

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.lines.append(data["text/plain"])


def test_a_notebook_shows_one_line_that_moves(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, python, display = Cell(), ModuleType("IPython"), ModuleType("IPython.display")
    python.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.display = lambda data, raw, display_id: cell  # type: ignore[attr-defined]
    for module in (python, display):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with shown_messages():
        toy_trainer(tmp_path, toy_step(), None, ConsoleCallback(), log_interval=5).train()
    assert cell.lines[0].startswith("[")
    assert f"epoch 1/{EPOCHS}  5/{STEPS}  " in cell.lines[0]
    assert f"  {STEPS}/{STEPS}  " in cell.lines[-1]
    shown = capfd.readouterr()
    assert "training: " in shown.out  # stderr would be red
    assert f"{STEPS}/{STEPS}" not in shown.out + shown.err


def test_a_narrow_terminal_shows_the_count_and_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    stderr_console.cache_clear()
    folder = tmp_path / ("long" * 20)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with shown_messages():
            callbacks = ConsoleCallback(), Speaker()
            toy_trainer(folder, toy_step(), None, *callbacks, log_interval=5).train()
        monkeypatch.undo()
    stderr_console.cache_clear()
    shown = read_all(ours)
    assert f"epoch {EPOCHS}/{EPOCHS}  {STEPS}/{STEPS}  " in shown
    assert str(folder) in shown
    # A message begins where the moving line was wiped away, never behind it.
    before = [text.rpartition("\n")[2] for text in shown.split(SAID)[:-1]]
    assert len(before) == EPOCHS
    assert all(re.split(r"\x1b\[2K|\x1b\[\?25l", text)[-1] == "" for text in before)


def read_all(descriptor: int) -> str:
    """Reads a pseudo-terminal whose other end is closed: one read gives what one buffer holds."""
    parts = []
    with suppress(OSError):
        while part := os.read(descriptor, 100_000):
            parts.append(part)
    os.close(descriptor)
    return b"".join(parts).decode()


class Speaker(BaseCallback):
    """Says something after each epoch."""

    def on_epoch_end(self, context: RunContext) -> None:
        logging.getLogger("yoloflow").info(SAID)
