"""A training that dies: `python dying_training.py COUNT SIGNAL OVERRIDE...`.

It trains the quick start and sends itself SIGNAL at its COUNTth call of a Python function (0: never); instead
of a signal's number there may be a shell command, which is run then.
COUNT may also be NAME:N, the Nth call of the functions of this name. It ends by printing the number of calls.
Of several ranks the one in DYING_RANK does so (0), and only the first time that torchrun starts it; or, where
DYING_ONCE names a file, only while that does not exist (machines count the starts differently).
"""

import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import FrameType

from yoloflow.config.reader import load_config
from yoloflow.flow import train
from yoloflow.run.signals import TrainingStopped


def main() -> None:
    name, _, number = sys.argv[1].rpartition(":")
    deadly, misfortune = int(number), sys.argv[2]
    config = load_config("quickstart", sys.argv[3:])
    is_mortal = os.environ.get("RANK", "0") == os.environ.get("DYING_RANK", "0")
    mark = os.environ.get("DYING_ONCE")
    if mark:
        is_mortal = is_mortal and not Path(mark).exists()
    else:
        is_mortal = is_mortal and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and name in ("", frame.f_code.co_name):
            calls += 1
            if calls == deadly and is_mortal:
                if mark:
                    Path(mark).touch()
                if misfortune.isdecimal():
                    os.kill(os.getpid(), int(misfortune))
                else:
                    subprocess.run(misfortune, shell=True, check=True)

    # These imports would be most of the calls, and a training that dies in one has not done anything yet.
    for module in ("torch._inductor", "matplotlib.backends.backend_agg", "matplotlib.figure"):
        import_module(module)
    sys.setprofile(count)
    threading.setprofile(count)  # states are written in a thread
    try:
        train(config)
    except TrainingStopped as stopped:
        raise SystemExit(stopped.exit_code) from None
    finally:
        sys.setprofile(None)
        sys.stdout.write(f"{calls}\n")


if __name__ == "__main__":
    main()
