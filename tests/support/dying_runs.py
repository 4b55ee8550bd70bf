"""Trainings of a small recipe that die at a chosen moment, and what they leave."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from yoloflow.data.digits import SceneRecipe, digits_dataset

SCRIPT = Path(__file__).with_name("dying_training.py")
SCENES = SceneRecipe(num_train=24, num_val=6, side=64, digits_per_scene=(1, 2), digit_side=(16.0, 32.0))
# What tells the time or the checkout, and the sum of a manifest that does.
TIMES = {"images_per_second", "seconds", "waited_share", "wall_seconds", "git_commit", "sum", "time", "taken"}


class Trainings:
    """Trainings of one small recipe: 5 epochs of 3 steps, two stages, a state every 2 steps."""

    def __init__(self, folder: Path, *more: str) -> None:
        cache = folder / "scenes"
        self.folder = folder
        self.settings = [
            f"data.train_set={digits_dataset('train', SCENES, cache)}",
            f"data.val_set={digits_dataset('val', SCENES, cache)}",
            f"save_dir={folder}",
            "img_size=64",
            "per_batch_size=8",
            "epochs=5",
            "network.width_multiple=0.125",
            "data.num_parallel_workers=0",
            "log_interval=1",
            "run_eval_interval=1",
            "save_steps=2",
            "threads=1",
            "resume=auto",
            *more,
        ]

    def start(
        self,
        name: str,
        count: int | str = 0,
        number: int | str = signal.SIGKILL,
        largest_file: int = resource.RLIM_INFINITY,
        ranks: int = 1,
        dying_rank: int | None = None,
        launcher: Sequence[str] = (),
    ) -> subprocess.Popen[str]:
        """A process that trains run `name` and sends itself a signal, or runs a shell command, at a moment.

        Of several ranks the first does so; or `dying_rank`, and torchrun starts all ranks again.
        """

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))

        python = [*launcher, sys.executable]
        if ranks > 1:
            python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            python.append(f"--max-restarts={int(dying_rank is not None)}")
        command = [*python, str(SCRIPT), str(count), str(number), *self.settings, f"name={name}"]
        if ranks > 1:
            command.append(f"per_batch_size={8 // ranks}")
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,  # noqa: PLW1509  no threads run yet in the child
            env=os.environ | {"OMP_NUM_THREADS": "1", "DYING_RANK": str(dying_rank or 0)},
        )

    def start_on_two_machines(
        self, name: str, count: int = 0, dying_rank: int = 0, own_store: bool = False
    ) -> list[subprocess.Popen[str]]:
        """Two torchruns with a rank each, as on two machines that see the same folder.

        With `own_store` the first rank keeps the ranks' store, and not the first torchrun.
        """
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        launcher += [f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-backend=c10d", f"--rdzv-id={name}"]
        command = [*launcher, "--max-restarts=1", str(SCRIPT), str(count), str(int(signal.SIGKILL))]
        mark = {"DYING_RANK": str(dying_rank), "DYING_ONCE": str(self.folder / f"{name}.died")}
        store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(own_store))}
        return [
            subprocess.Popen(
                [*command, *self.settings, f"name={name}", "per_batch_size=4", "rank_timeout=60"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | mark | store,
            )
            for _ in range(2)
        ]

    def run(self, name: str, count: int | str = 0, number: int = signal.SIGKILL) -> tuple[int, str]:
        """Likewise, to its end: exit code and output."""
        process = self.start(name, count, number)
        output, errors = process.communicate(timeout=300)
        assert process.returncode in (0, -number, 128 + number), errors
        return process.returncode, output

    def outcome(self, name: str) -> dict[str, Any]:
        """All that a finished run left, without times."""
        run = self.folder / name
        weights = {path.name: path.read_bytes() for path in sorted((run / "weights").glob("*.safetensors"))}
        numbers = [json.loads(path.read_text()) for path in sorted((run / "weights").glob("state-*.json"))]
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        summary = json.loads((run / "summary.json").read_text())
        return {"weights": weights, **without_times({"n": numbers, "metrics": metrics, "summary": summary})}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in TIMES}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def assert_same(found: dict[str, Any], whole: dict[str, Any]) -> None:
    assert found["weights"].keys() == whole["weights"].keys()
    for file, content in whole["weights"].items():
        assert found["weights"][file] == content, file
    assert found["metrics"] == whole["metrics"]
    assert found == whole
