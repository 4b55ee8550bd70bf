"""A whole training beside Ultralytics' on one data set: how long ours takes to its final AP.

    python -m benchmarks.trainings --data DATA.yaml --size 320 --epochs 30 \\
        --peer-python FILE --peer-scripts FOLDER [--threads 2]

Ours is YOLOv8n's `-small-data` recipe, the peer's yolov8n.yaml by its script ultra_e2e.py; default settings
on both sides, one after the other. With --threads both have so many; Ultralytics' default is one fewer than
there are cores. AP is what each reports; seconds count from the command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE, BATCH = "yolov8n-small-data", 16


def train(data: str, size: int, epochs: int, threads: int, folder: Path) -> list[tuple[float, float]]:
    """Returns seconds and AP of each evaluation of ours."""
    settings = [
        f"data={data}",
        f"img_size={size}",
        f"epochs={epochs}",
        f"per_batch_size={BATCH}",
        "name=ours",
    ]
    settings += [f"threads={threads}"] if threads else []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    start = time.time()
    command = [sys.executable, "-m", "yoloflow", "train", RECIPE, *settings, "seed=0"]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    lines = (folder / "runs" / "ours" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "evaluation"]
    return [(record["time"] - start, record["map"]) for record in records] + [
        (time.time() - start, records[-1]["map"])
    ]


def peer_train(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Returns seconds and final AP of the peer."""
    script, out = arguments.peer_scripts.resolve() / "ultra_e2e.py", folder / "peer.json"
    settings = {"data": arguments.data, "imgsz": arguments.size, "epochs": arguments.epochs, "batch": BATCH}
    settings |= {"workers": 8, "threads": arguments.threads, "out": out}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    environment = os.environ | {"YOLO_OFFLINE": "true"}
    command = [arguments.peer_python, str(script), *words]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    content = json.loads(out.read_text())
    return content["total_s"], content["final_map"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0, help="of both; 0: each side's default")
    parser.add_argument("--peer-python", required=True, help="Python of the peer's environment")
    parser.add_argument(
        "--peer-scripts", type=Path, required=True, help="folder of the scripts that measure it"
    )
    arguments = parser.parse_args()
    arguments.data = str(Path(arguments.data).resolve())
    with tempfile.TemporaryDirectory() as folder:
        given = (arguments.data, arguments.size, arguments.epochs, arguments.threads)
        ours = train(*given, Path(folder))
        seconds, target = peer_train(arguments, Path(folder))
    print(f"Ultralytics: AP {target:.4f} after {seconds:.0f} s")
    print(f"ours: AP {ours[-1][1]:.4f} after {ours[-1][0]:.0f} s")
    reached = next((at for at, score in ours if score >= target), None)
    if reached is None:
        print("ours does not reach its AP")
    else:
        print(f"ours passes its AP after {reached:.0f} s: {reached / seconds:.2f} of its time")


if __name__ == "__main__":
    main()
