"""Milliseconds of one training step on a fixed random batch: memory layouts, half precision, compiled.

python -m benchmarks.train_step [--recipe yolov8n --classes 80 --size 320 --batch 16 --runs 7 --half --jit]
"""

import argparse
import statistics
import time
from typing import Literal

import torch

from yoloflow import (
    EMA,
    auto_mixed_precision,
    create_group_param,
    create_loss,
    create_model,
    create_optimizer,
    create_train_step_fn,
    load_config,
)
from yoloflow.config.schema import Config
from yoloflow.optim.schedule import create_schedule
from yoloflow.runtime.allocator import keep_freed_memory
from yoloflow.runtime.memory import peak_memory
from yoloflow.train_step.compilation import Jit
from yoloflow.train_step.step import StepSettings, TrainStep

LAYOUTS: dict[str, bool | Literal["auto"]] = {"nchw": False, "channels_last": True, "auto": "auto"}


def build_step(
    config: Config,
    classes: int,
    channels_last: bool | Literal["auto"],
    jit: Jit = "auto",
    amp_level: str = "O0",
) -> TrainStep:
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), classes)
    settings, length = config.optimizer, config.run_length(100)
    return create_train_step_fn(
        network,
        create_loss(
            config.loss,
            anchors=config.network.anchors,
            stride=network.stride,
            nc=classes,
            variant=config.variant,
        ),
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        ema=EMA(network),
        precision=auto_mixed_precision(amp_level, "cpu"),
        settings=StepSettings(channels_last=channels_last, jit=jit),
    )


def random_batch(batch: int, size: int, classes: int, objects: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    labels = torch.full((batch, 16, 6), -1.0)
    labels[..., 0] = torch.arange(batch)[:, None]
    labels[:, :objects, 1] = torch.randint(0, classes, (batch, objects)).float()
    labels[:, :objects, 2:4] = torch.rand(batch, objects, 2) * 0.6 + 0.2
    labels[:, :objects, 4:6] = torch.rand(batch, objects, 2) * 0.3 + 0.05
    return images, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="yolov8n")
    for name, default in (("classes", 80), ("size", 320), ("batch", 16), ("runs", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", choices=LAYOUTS, help="one layout; auto is the default setting")
    parser.add_argument("--half", action="store_true", help="also with amp_level=O2, bfloat16 on a CPU")
    parser.add_argument("--kernels", action="store_true", help="also with torch's kernels alone (jit=false)")
    parser.add_argument("--jit", action="store_true", help="also compiled; its first step takes minutes")
    arguments = parser.parse_args()
    keep_freed_memory()  # as a training does
    config = load_config(arguments.recipe, [f"per_batch_size={arguments.batch}"])
    images, labels = random_batch(arguments.batch, arguments.size, arguments.classes)
    chosen = [arguments.only] if arguments.only else ["nchw", "channels_last"]
    steps = {layout: build_step(config, arguments.classes, LAYOUTS[layout]) for layout in chosen}
    if arguments.half:
        steps["half"] = build_step(config, arguments.classes, channels_last=True, amp_level="O2")
    if arguments.kernels:
        steps["jit=false"] = build_step(config, arguments.classes, "auto", jit=False)
    if arguments.jit:
        compiled = build_step(config, arguments.classes, channels_last=True, jit=True)
        start = time.perf_counter()
        compiled(images, labels).loss_items.tolist()
        print(f"first compiled step: {time.perf_counter() - start:.0f} s")
        steps["inductor"] = compiled
    seconds: dict[str, list[float]] = {layout: [] for layout in steps}
    for run in range(arguments.runs + 1):
        for layout, step in steps.items():
            start = time.perf_counter()
            step(images, labels).loss_items.tolist()
            if run:  # the first of each warms up
                seconds[layout].append(time.perf_counter() - start)
    for layout, times in seconds.items():
        median = statistics.median(times)
        rate = arguments.batch / median
        print(
            f"{layout:14} {1000 * median:7.0f} ms  {rate:6.1f} images/s  (least {1000 * min(times):.0f} ms)"
        )
    print(f"peak {(peak_memory() or 0) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
