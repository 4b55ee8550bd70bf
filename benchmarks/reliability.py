"""What it costs that a run can die at any moment: `python -m benchmarks.reliability [--recipe yolov8n]`.

States (how long the training waits, how long the writing takes, how long a resume reads), the memory
forecast, and a training step at each level of determinism and with the guard against non-finite numbers on
and off. Steps are taken in turn, medians of --rounds. That a killed run ends with the same bytes is tested,
not measured: `python -m pytest -m full tests/trainer/test_reliability.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.train_step import build_step, random_batch
from yoloflow.config.reader import load_config
from yoloflow.data.loader import BatchExtent
from yoloflow.run.checkpoint import StateWriter, TrainingState, load_newest_state
from yoloflow.runtime.memory import free_memory
from yoloflow.runtime.random_generators import set_determinism
from yoloflow.train_step.step import TrainStep
from yoloflow.trainer.guards.memory import compute_batch, forecast_batch

CLASSES = 80


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_states(step: TrainStep, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = StateWriter(Path(folder))
        times: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds):
            tensors, numbers = step.state_dict()
            state = TrainingState(tensors, dict(numbers))
            times["the training waits"].append(seconds(partial(writer.write, number, state)))
            times["writing, in its thread"].append(seconds(writer.wait))
            times["a resume reads"].append(seconds(lambda: load_newest_state(Path(folder))))
        size = sum(path.stat().st_size for path in Path(folder).glob(f"state-{rounds - 1:08d}*"))
    print(f"state of {size / 1e6:.0f} MB")
    for name, values in times.items():
        print(f"  {name:24} {1000 * statistics.median(values):7.0f} ms")


def measure_forecast(step: TrainStep, batch: int, side: int) -> None:
    extent = BatchExtent(batch, side, 64)
    start = time.perf_counter()
    told = forecast_batch(
        lambda count: compute_batch(step, extent, count), batch, torch.device("cpu"), free_memory()
    )
    print(f"memory forecast of {batch} images of {side} px: {time.perf_counter() - start:.1f} s, told {told}")


def measure_steps(step: TrainStep, batch: int, side: int, rounds: int) -> None:
    images, labels = random_batch(batch, side, CLASSES)
    ways = [(level, True) for level in ("none", "data", "bitwise")] + [("data", False)]
    times = defaultdict(list)
    for number in range(rounds + 1):
        for level, is_held in ways:
            set_determinism(level, 0)
            step.non_finite.is_on = is_held
            took = seconds(lambda: step(images, labels))
            if number:
                times[f"determinism={level}, guard {'on' if is_held else 'off'}"].append(took)
    print(f"step of {batch} images of {side} px")
    for name, values in times.items():
        print(f"  {name:34} {1000 * statistics.median(values):7.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="yolov8n")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    step = build_step(load_config(options.recipe), CLASSES, channels_last=True)
    measure_states(step, options.rounds)
    measure_steps(step, options.batch, options.size, options.rounds)
    measure_forecast(step, options.batch, options.size)


if __name__ == "__main__":
    main()
