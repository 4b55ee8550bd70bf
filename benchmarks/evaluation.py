"""Evaluation in whole processes, in turn with peers: a network on images, and figures of a predictions file.

    python benchmarks/evaluation.py --data DATA.yaml --size 320 --size 640 \\
        --peer 'yolo val model=random.pt data={data} imgsz={size} batch={batch} workers={workers} ...'
    python benchmarks/evaluation.py --figures 5000 --figures-peer 'python bench_map.py ultra 5000 100'

Images a second and peak memory are those of the process, start included; medians of the rounds, and the
median of the rounds' ratios. Both sides need weights of the same network: ours are `--weight`, or random
ones; a peer's command names its own. A peer of the figures prints `total 1.23s` and `peak rss 456MB`: its own
time, without imports and without reading (but its CPU seconds are those of the process). On a shared machine
CPU seconds say more than wall seconds. `yoloflow test --predictions` and pycocotools read two json files; "in
memory" is ours measured as such a peer.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
Measured = tuple[float, float, float]
"""Wall seconds, CPU seconds of all its processes, MiB of the largest."""


def run_process(command: str | list[str], threads: int) -> tuple[Measured, str]:
    """What a command takes, and its output."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "YOLO_OFFLINE": "true"}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(f"failed: {command}\n{text}")
    return (seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), text


def measure_in_memory(truth: str, results: str) -> None:
    """Print seconds from content and array in memory to figures, as a peer of the figures does."""
    import numpy as np

    from yoloflow.evaluation.coco import evaluate_coco

    content, rows = (json.loads(Path(file).read_bytes()) for file in (truth, results))
    detections = np.array([[row["image_id"], *row["bbox"], row["score"], row["category_id"]] for row in rows])
    start = time.perf_counter()
    evaluate_coco(content, detections)
    print(time.perf_counter() - start)


def write_random_weights(recipe: str, data: str, path: Path) -> None:
    """In a process of its own, for children inherit the peak memory."""
    program = (
        "import sys, torch\n"
        "from yoloflow import create_model, load_config\n"
        "from yoloflow.weights.files import save_weights\n"
        "recipe, data, path = sys.argv[1:]\n"
        "config = load_config(recipe, ['data=' + data])\n"
        "torch.manual_seed(0)\n"
        "classes = config.data.nc or len(config.data.names)\n"
        "network = create_model(config.network.model_name, config.network_table(), classes)\n"
        "save_weights(path, network.state_dict())\n"
    )
    subprocess.run([sys.executable, "-c", program, recipe, data, str(path)], check=True)


def compare_networks(arguments: argparse.Namespace, size: int, weight: Path, folder: Path) -> None:
    """Rounds of ours and the peers'."""
    figures = folder / "figures.json"
    ours = [
        *(sys.executable, "-m", "yoloflow", "test", arguments.recipe, f"data={arguments.data}"),
        *("--weight", str(weight), f"img_size={size}", "device=cpu", f"per_batch_size={arguments.batch}"),
        *(f"data.num_parallel_workers={arguments.workers}", f"threads={arguments.threads}"),
        *("conf_thres=0.001", "iou_thres=0.7", f"data.test_rect={str(not arguments.square).lower()}"),
        *("--json", str(figures)),
    ]
    filled = {
        "data": arguments.data,
        "size": size,
        "batch": arguments.batch,
        "workers": arguments.workers,
    }
    commands: dict[str, str | list[str]] = {"yoloflow": ours}
    commands |= {f"peer {n}": text.format(**filled) for n, text in enumerate(arguments.peer, start=1)}
    rounds: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            rounds[name].append(run_process(command, arguments.threads)[0])
    content = json.loads(figures.read_text())
    print(f"{content['settings']['shape']} {size} px, {content['num_images']} images:")
    print(f"  our parts, ms an image: {content['speed']['milliseconds_per_image']}")
    report(rounds, content["num_images"])


def compare_figures(arguments: argparse.Namespace, folder: Path) -> None:
    """Rounds of `yoloflow test --predictions`, pycocotools and the peers; the figures must be equal."""
    count, each = arguments.figures, arguments.detections
    maker = (
        f"import coco_metric, pathlib; coco_metric.write_data(pathlib.Path({str(folder)!r}), {count}, {each})"
    )
    subprocess.run([sys.executable, "-c", maker], check=True, cwd=HERE)
    truth, results, found = (str(folder / f"{stem}.json") for stem in ("truth", "results", "found"))
    ours = [sys.executable, "-m", "yoloflow", "test", "--predictions", results, "--annotations", truth]
    metric = [sys.executable, str(HERE / "coco_metric.py"), "--measure", "pycocotools", truth, results]
    in_memory = [sys.executable, __file__, "--in-memory", truth, results]
    names = [
        "yoloflow",
        "in memory",
        "pycocotools",
        *(f"peer {n}" for n in range(1, len(arguments.figures_peer) + 1)),
    ]
    rounds: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        rounds["yoloflow"].append(run_process([*ours, "--json", found], arguments.threads)[0])
        (_, cpu, megabytes), text = run_process(in_memory, arguments.threads)
        rounds["in memory"].append((float(text), cpu, megabytes))
        if number < arguments.pycocotools_rounds:
            measured, text = run_process(metric, arguments.threads)
            rounds["pycocotools"].append(measured)
            equal = json.loads(text)["stats"] == json.loads(Path(found).read_text())["stats"]
            print(f"twelve figures of yoloflow and pycocotools: {'bit-equal' if equal else 'DIFFERENT'}")
        for n, command in enumerate(arguments.figures_peer, start=1):
            (_, cpu, _), text = run_process(command, arguments.threads)
            told = re.search(r"total ([\d.]+)s.*peak rss ([\d.]+)MB", text)
            if told is None:
                raise SystemExit(f"no `total ...s` and `peak rss ...MB` in the output of {command}:\n{text}")
            rounds[f"peer {n}"].append((float(told[1]), cpu, float(told[2])))
    print(f"{count} images x {each} detections:")
    report(rounds, count)


def report(rounds: dict[str, list[Measured]], num_images: int) -> None:
    """Medians of each, and of the ratios to ours round by round."""
    ours = rounds["yoloflow"]
    for name, measured in rounds.items():
        if not measured:
            continue
        seconds, cpu, megabytes = (statistics.median(values) for values in zip(*measured, strict=True))
        pairs = list(zip(measured, ours, strict=False))
        ratios = [statistics.median(theirs[k] / mine[k] for theirs, mine in pairs) for k in range(3)]
        print(
            f"  {name:12} {seconds:8.2f} s  {cpu:8.2f} CPU s  {num_images / seconds:8.1f} images/s  "
            f"{megabytes:6.0f} MB; times ours: {ratios[0]:.2f} wall, {ratios[1]:.2f} CPU, "
            f"{ratios[2]:.2f} memory  ({len(measured)} rounds)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="data set file with the validation set; without it no network is run")
    parser.add_argument("--recipe", default="yolov8n")
    parser.add_argument("--weight", help="our weights (default: random ones)")
    parser.add_argument("--size", type=int, action="append", default=[], help="pixels; may be repeated")
    parser.add_argument("--square", action="store_true", help="squares instead of rectangles on our side")
    parser.add_argument("--peer", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--figures", type=int, default=0, metavar="IMAGES", help="0: not measured")
    parser.add_argument("--figures-peer", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--pycocotools-rounds", type=int, default=1, help="it takes minutes")
    numbers = {"detections": 100, "batch": 16, "workers": 1, "threads": 1, "rounds": 5}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--in-memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_memory:
        measure_in_memory(*arguments.in_memory)
        return
    print(f"load averages at the start: {os.getloadavg()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.data is not None:
            arguments.data = str(Path(arguments.data).resolve())
            weight = Path(arguments.weight) if arguments.weight else folder / "random.safetensors"
            if arguments.weight is None:
                write_random_weights(arguments.recipe, arguments.data, weight)
            for size in arguments.size or [320, 640]:
                compare_networks(arguments, size, weight, folder)
        if arguments.figures:
            compare_figures(arguments, folder)
    print(f"load averages at the end: {os.getloadavg()}")


if __name__ == "__main__":
    main()
