"""The command watch: plain where there is no terminal, a screen that follows the run where there is one."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.growing_run import write_growing_run
from yoloflow.cli import app


def test_without_a_terminal_the_run_is_printed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["watch", str(write_growing_run(Path("run"), 7.3))])
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert "epoch 7.3/10" in done.stdout


@pytest.mark.process
def test_the_command_imports_no_heavy_module_and_its_output_is_plain(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 7.3)
    code = (
        "import sys, yoloflow.cli\n"
        f"sys.argv = ['yoloflow', 'watch', {str(run)!r}]\n"
        "try: yoloflow.cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'cv2', 'matplotlib', 'hotcoco'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "\x1b" not in done.stdout
    assert "epoch 7.3/10" in done.stdout


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, run: Path) -> None:
        main_end, its_end = pty.openpty()
        command = [sys.executable, "-m", "yoloflow", "watch", str(run), "--interval", "0.1"]
        self.process = subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end)
        os.close(its_end)
        self.main_end, self.output = main_end, ""

    def read_until(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.output and time.monotonic() < end:
            if select.select([self.main_end], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.main_end, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    break
        assert text in self.output

    def exit_code(self) -> int:
        code = self.process.wait(60)
        os.close(self.main_end)
        return code


@pytest.mark.process
def test_the_screen_follows_the_run_and_ends_with_it(tmp_path: Path) -> None:
    run = write_growing_run(tmp_path / "run", 2.0)
    terminal = Terminal(run)
    terminal.read_until("epoch 2/10")
    write_growing_run(run, 3.5)
    terminal.read_until("epoch 3.5/10")
    write_growing_run(run, 10)
    # In one move, as a training writes it: the command may look at any moment.
    (tmp_path / "summary.json").write_text('{"wall_seconds": 4000}')
    (tmp_path / "summary.json").replace(run / "summary.json")
    terminal.read_until("finished in 67 min")
    assert terminal.exit_code() == 0


@pytest.mark.process
def test_ctrl_c_ends_the_command_and_not_the_run(tmp_path: Path) -> None:
    terminal = Terminal(write_growing_run(tmp_path / "run", 2.0))
    terminal.read_until("epoch 2/10")
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_until("\x1b[?1049l")  # back from the whole screen
    assert terminal.exit_code() == 0
