"""The benchmarks that have a peer, in turn with it: `make bench`, or

python -m benchmarks.compare [--rounds 5] [--peer-python FILE --peer-scripts FOLDER] [--out FOLDER]

Each round runs each measurement once, ours and the peer's one after the other, so that a busy neighbour
hits both. A peer is measured by scripts in an environment of its own (Ultralytics: bench_step.py and
bench_loader.py); without it its column stays empty and a line says so. The machine's own limits are measured
in the same rounds.
Writes figures.json and table.md: medians, least and most, and how many times ours is better.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.loader import draw_pictures

THREADS = 2


class Source(NamedTuple):
    """A command (arguments of Python) and the patterns of the figures that it prints, by name."""

    command: Sequence[str]
    patterns: Mapping[str, str]


class Measurement(NamedTuple):
    """What is measured of both.

    Attributes:
        name: what it is.
        figures: the unit of each figure; of images a second more is better, else less.
        ours, peer: where the figures come from.
    """

    name: str
    figures: Mapping[str, str]
    ours: Source
    peer: Source


def measurements(images: Path, seconds: float) -> list[Measurement]:
    """Returns all measurements; the loaders read the data set file data.yaml in the folder `images`."""
    found = [
        Measurement(
            f"train step, YOLOv8n, 80 classes, {size} px, batch 16, default settings",
            {"step": "ms", "peak memory": "MiB"},
            Source(
                ["-m", "benchmarks.train_step", "--runs", "5", "--only", "auto", "--size", str(size)],
                {"step": r"([\d.]+) ms", "peak memory": r"peak (\d+) MiB"},
            ),
            Source(
                ["bench_step.py", "yolov8n", "80", str(size), "16", "eager", "5"],
                {"step": r" all (\d+) ms", "peak memory": r"rss (\d+)MB"},
            ),
        )
        for size in (320, 640)
    ]
    script, data = str(Path(__file__).parent / "commands.py"), ["--data", str(images / "data.yaml")]
    seconds_of = {"time": r"seconds: ([\d.]+)"}
    for what, name in (
        ("first-step", "from the command of a training to the end of its first step, 320 px"),
        ("test", "evaluation, YOLOv8n, 320 px, one thread, 512 images, whole process"),
    ):
        ours = [script, what, *data, "--weight", str(images / "w.safetensors")]
        theirs = [script, what, *data, "--weight", str(images / "w.pt"), "--peer"]
        sides = (Source(ours, seconds_of), Source(theirs, seconds_of))
        found.append(Measurement(name, {"time": "s"}, *sides))
    for size in (320, 640):
        for cache in ("none", "ram"):
            own = ["benchmarks/loader.py", "--data", str(images), "--modes", "train", "--repeats", "1"]
            own += ["--workers", "1", "--sizes", str(size), "--caches", cache, "--seconds", str(seconds)]
            peer = ["bench_loader.py", str(images / "data.yaml"), "train", str(size), "1", "16", str(seconds)]
            name = "decoding" if cache == "none" else "from memory (the peer decodes)"
            found.append(
                Measurement(
                    f"training loader, {size} px, one worker, {name}",
                    {"rate": "images/s"},
                    Source(own, {"rate": r"([\d.]+) images/s"}),
                    Source(peer, {"rate": r": (\d+) img/s"}),
                )
            )
    return found


def run(python: str, source: Source, folder: Path) -> dict[str, float]:
    """Returns the figures that a command prints.

    Raises:
        RuntimeError: it fails, or prints no such figure.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "YOLO_OFFLINE": "true"}
    done = subprocess.run(
        [python, *source.command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    figures = {}
    for name, pattern in source.patterns.items():
        match = re.search(pattern, done.stdout)
        if match is None:
            raise RuntimeError(f"{' '.join(source.command)}: no {name}:\n{done.stdout}{done.stderr}")
        figures[name] = float(match[1])
    return figures


def limits() -> dict[str, float]:
    """Returns what the machine can do now: a product of matrices, and a copy."""
    torch.set_num_threads(THREADS)
    matrix, result = torch.ones(2048, 2048), torch.empty(2048, 2048)
    large, copy = torch.ones(2**26), torch.empty(2**26)
    figures = {}
    works: list[tuple[str, float, Callable[[], object]]] = [
        ("matrix product, GFLOP/s", 2 * 2048**3 / 1e9, lambda: torch.mm(matrix, matrix, out=result)),
        ("copy, GB/s", 2 * large.nbytes / 1e9, lambda: copy.copy_(large)),
    ]
    for name, amount, work in works:
        work()
        start = time.perf_counter()
        work()
        figures[name] = amount / (time.perf_counter() - start)
    return figures


def table(rows: Sequence[Measurement], figures: Mapping[str, list[float]]) -> list[str]:
    """Returns the lines of the table."""
    lines = ["| what | ours | peer | times better |", "|---|---|---|---|"]
    for row in rows:
        for name, unit in row.figures.items():
            ours, peer = (figures.get(f"{row.name}: {name}: {side}", []) for side in ("ours", "peer"))
            better = ""
            if ours and peer:
                one, other = statistics.median(ours), statistics.median(peer)
                better = f"{one / other if unit == 'images/s' else other / one:.2f}"
            lines.append(f"| {row.name}: {name} | {_spread(ours, unit)} | {_spread(peer, unit)} | {better} |")
    for name in ("matrix product, GFLOP/s", "copy, GB/s"):
        lines.append(f"| the machine: {name} | {_spread(figures[name], '')} | | |")
    return lines


def _spread(values: Sequence[float], unit: str) -> str:
    if not values:
        return "not measured"
    middle, least, most = (
        f"{value:.2f}" if unit == "s" else f"{value:.0f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} {unit} ({least} to {most})"


def write_data_file(images: Path) -> None:
    """Makes the generated images below `images` a data set that a peer reads: a box in each."""
    labels = images / "labels"
    labels.mkdir()
    (images / "images").mkdir()
    for path in draw_pictures(images / "images"):
        (labels / f"{path.stem}.txt").write_text("0 0.5 0.5 0.4 0.4\n1 0.3 0.3 0.2 0.2\n")
    names = "[a, b, c, d]"
    (images / "data.yaml").write_text(f"path: {images}\ntrain: images\nval: images\nnames: {names}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each loader")
    parser.add_argument("--peer-python", help="Python of the peer's environment")
    parser.add_argument("--peer-scripts", type=Path, help="folder of the scripts that measure it")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    has_peer = bool(arguments.peer_python and arguments.peer_scripts)
    if not has_peer:
        print("no peer: --peer-python and --peer-scripts name one")
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        write_data_file(Path(folder))
        weights = [str(here / "benchmarks" / "commands.py"), "weights", "--weight"]
        subprocess.run([sys.executable, *weights, f"{folder}/w.safetensors"], check=True, cwd=here)
        if has_peer:
            subprocess.run([arguments.peer_python, *weights, f"{folder}/w.pt", "--peer"], check=True)
        rows = measurements(Path(folder), arguments.seconds)
        for number in range(arguments.rounds):
            for name, value in limits().items():
                figures[name].append(value)
            for row in rows:
                sides = [("ours", sys.executable, row.ours, here)]
                if has_peer:
                    sides.append(("peer", arguments.peer_python, row.peer, arguments.peer_scripts.resolve()))
                for side, python, source, where in sides:
                    for name, value in run(python, source, where).items():
                        figures[f"{row.name}: {name}: {side}"].append(value)
            print(
                f"round {number + 1} of {arguments.rounds}, load average {os.getloadavg()[0]:.1f}", flush=True
            )
    machine = (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
    )
    machine += (
        f"Python {platform.python_version()}, {time.strftime('%d %B %Y')}, {THREADS} threads, medians of "
    )
    lines = [f"{machine}{arguments.rounds} rounds (least to most)", "", *table(rows, figures)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "table.md").write_text("\n".join(lines) + "\n")
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
