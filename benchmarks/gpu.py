"""One command for who has an accelerator: right first, then fast. At most eight minutes.

    python -m benchmarks.gpu                                    # all of it, on the accelerator
    python -m benchmarks.gpu --device cpu --seconds 120 --small # its logic, on any machine

In this order, each part while there is time: what the machine can do at most (copy, products); losses and
gradients of each family's smallest network against the CPU in float32, and 30 steps; images a second, memory
and host waits of a step by recipe, batch and setting; the loader's images a second by worker processes; the
evaluation's; Ultralytics' network beside ours where it is installed. The table comes last, and with all
figures goes into --out, as JSON. What there was no time for is named there. Exit code 1 where a loss or a
gradient is not what the CPU says.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.loader import TRAIN, draw_pictures, images_per_second, index_of
from benchmarks.train_step import random_batch
from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.data.dataset import COCODataset
from yoloflow.data.settings import DataSettings
from yoloflow.evaluation.create import create_test_fn
from yoloflow.evaluation.settings import EvaluationSettings
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.runtime.device import Machine, device_name, select_device
from yoloflow.runtime.memory import forget_peak_memory, peak_memory
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import YoloflowError
from yoloflow.train_step.settings import StepSettings
from yoloflow.train_step.step import TrainStep, create_train_step_fn, get_loss_scaler

NARROW, FLAT = "network.width_multiple=0.125", "network.depth_multiple=0.2"
FAMILIES: dict[str, list[str]] = {
    "yolov8n": [],
    "yolov11n": [],
    "yolov5n": [],
    "yolov10n": [],
    "yolox-nano": [],
    "yolov7-tiny": [],
    "yolov9t": [],
    "yolov8n-seg": [],
    "yolov3": [NARROW, FLAT],
    "yolov4": [NARROW, FLAT],
}
PRECISIONS: dict[str, tuple[str, str | None, bool]] = {  # level, half type, TF32
    "float32": ("O0", None, False),
    "TF32": ("O0", None, True),
    "bfloat16": ("O2", "bfloat16", False),
}
# Largest ||difference|| / ||value|| against the CPU: of the loss, of all gradients as one vector (bfloat16:
# of its length), of the loss after the steps. An accelerator's first run may correct them.
ALLOWED = {"float32": (1e-4, 2e-2, 0.05), "TF32": (5e-3, 0.2, 0.1), "bfloat16": (0.05, 0.5, 0.2)}
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32"},
    "TF32": {"precision": "TF32"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True},
    "bfloat16, channels_last, sink": {"precision": "bfloat16", "channels_last": True, "sink": True},
    "bfloat16, channels_last, sink, graphs": {
        "precision": "bfloat16",
        "channels_last": True,
        "sink": True,
        "cuda_graphs": True,
    },
    "bfloat16, channels_last, sink, jit": {
        "precision": "bfloat16",
        "channels_last": True,
        "sink": True,
        "jit": True,
    },
}
STEPS, IMAGES = 30, 4


@dataclass
class Run:
    """What has been measured, and how long there is to measure more."""

    device: torch.device
    small: bool
    seconds: float
    ends: float
    content: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    part_ends: float = 0.0

    def begin(self, share: float) -> None:
        """Begins a part that ends when so much of all the time is over, for the parts after it."""
        self.part_ends = self.ends - (1 - share) * self.seconds

    def has_time(self, what: str, seconds: float = 0.0) -> bool:
        """Whether so many seconds are left; else it is noted what they would have been for."""
        if time.monotonic() + seconds < self.part_ends:
            return True
        self.left_out.append(what)
        return False

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


@contextmanager
def tf32(is_on: bool) -> Iterator[None]:
    """Products and convolutions of float32 in TF32 or not, as far as the device has it."""
    owners: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [owner.allow_tf32 for owner in owners]
    try:
        for owner in owners:
            owner.allow_tf32 = is_on
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.allow_tf32 = value


def make_step(
    config: Config,
    classes: int,
    device: torch.device,
    precision: str,
    settings: StepSettings | None = None,
) -> TrainStep:
    """The train step of a recipe with weights that are the same on every device."""
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), classes).to(device)
    anchors, stride = config.network.anchors, network.stride
    loss_fn = create_loss(config.loss, anchors=anchors, stride=stride, nc=classes, variant=config.variant)
    length = config.run_length(100)
    level, half, _ = PRECISIONS[precision]
    return create_train_step_fn(
        network,
        loss_fn.to(device),
        create_optimizer(create_group_param(network, config.optimizer, length), config.optimizer),
        create_schedule(config.optimizer, length),
        scaler=get_loss_scaler("none"),
        ema=EMA(network),
        precision=auto_mixed_precision(level, device.type, half),
        settings=settings,
    )


def batch_for(step: TrainStep, images: int, size: int, classes: int, device: torch.device) -> list[Tensor]:
    torch.manual_seed(1)
    pixels, labels = random_batch(images, size, classes)
    return [part.to(device) for part in (pixels, *step.trial_targets(labels, size))]


def measure_ceilings(run: Run) -> None:
    """Bytes of a copy and floating-point operations of a product, a second."""
    size = 2**22 if run.small else 2**28
    source = torch.ones(size, device=run.device)
    target = torch.empty_like(source)
    found = {"copy_GB_per_s": 2 * 4 * size / seconds_of(run, lambda: target.copy_(source), 10) / 1e9}
    side = 512 if run.small else 8192
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        matrix = torch.ones((side, side), device=run.device, dtype=dtype)
        seconds = seconds_of(run, lambda matrix=matrix: matrix @ matrix, 10)  # type: ignore[misc]
        found[f"product_{name}_TFLOP_per_s"] = 2 * side**3 / seconds / 1e12
    run.content["ceilings"] = {name: round(value, 2) for name, value in found.items()}
    print("ceilings:", run.content["ceilings"], flush=True)


def seconds_of(run: Run, call: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call, after three that do not count."""
    times = []
    for number in range(repeats + 3):
        run.wait()
        start = time.perf_counter()
        call()
        run.wait()
        if number >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def check_families(run: Run) -> bool:
    """Losses, gradients and 30 steps of each family against the CPU; whether all are near."""
    rows: list[dict[str, Any]] = []
    steps = 2 if run.small else STEPS
    for recipe, overrides in FAMILIES.items():
        if not run.has_time(f"correctness of {recipe}", 10):
            continue
        config = load_config(recipe, [*overrides, f"per_batch_size={IMAGES}"])
        exact = figures_of(config, torch.device("cpu"), "float32", steps)
        for precision, (_, _, is_tf32) in PRECISIONS.items():
            if is_tf32 and run.device.type != "cuda":
                continue
            has_graphs = precision == "bfloat16" and run.device.type == "cuda"
            with tf32(is_tf32):
                found = figures_of(config, run.device, precision, steps, StepSettings(cuda_graphs=has_graphs))
            pairs = zip(found, exact, strict=True)
            if precision == "bfloat16":  # directions of small gradients are lost in its 8 bits
                pairs = zip(
                    (found[0], found[1].norm(), found[2]), (exact[0], exact[1].norm(), exact[2]), strict=True
                )
            far = tuple(distance(a, b) for a, b in pairs)
            is_near = all(value <= limit for value, limit in zip(far, ALLOWED[precision], strict=True))
            names = ("loss", "gradient", f"loss_after_{steps}_steps")
            rows.append(
                {
                    "recipe": recipe,
                    "precision": precision,
                    **dict(zip(names, far, strict=True)),
                    "near": is_near,
                }
            )
            print("correct:" if is_near else "WRONG:", *rows[-1].values(), flush=True)
    run.content["correctness"] = rows
    return all(row["near"] for row in rows)


def figures_of(
    config: Config, device: torch.device, precision: str, steps: int, settings: StepSettings | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a batch, its gradient as one vector, and the loss after some steps."""
    step = make_step(config, 4, device, precision, settings)
    parts = batch_for(step, IMAGES, 4 * max(config.network.stride), 4, device)
    kept = copy.deepcopy(step.network.state_dict())
    loss, scaled = step.compute_loss(*parts)
    torch.autograd.backward(scaled)
    gradients = [weight.grad for weight in step.network.parameters() if weight.grad is not None]
    gradient = torch.cat([each.flatten() for each in gradients]).double().cpu()
    step.network.zero_grad(set_to_none=True)
    step.network.load_state_dict(kept)
    last = loss
    for _ in range(steps):
        last = step(*parts).loss_items[0]
    return loss.detach().double().cpu(), gradient, last.detach().double().cpu()


def distance(found: Tensor, exact: Tensor) -> float:
    """||found - exact|| / ||exact||; infinite where it is not finite."""
    value = float((found - exact).norm() / exact.norm().clamp(min=1e-12))
    return value if math.isfinite(value) else math.inf


def measure_steps(run: Run, recipes: list[str], batches: list[int], size: int) -> None:
    """Images a second, memory and host waits by recipe, batch and setting."""
    rows: list[dict[str, Any]] = []
    counts = (2, 3) if run.small else (10, STEPS)
    for recipe in recipes:
        for batch in batches:
            for name, setting in SETTINGS.items():
                if run.small and setting.get("jit"):
                    run.left_out.append(f"{name}: --small")
                    continue
                if setting.get("cuda_graphs") and run.device.type != "cuda":
                    run.left_out.append(f"{name}: no CUDA device")
                    continue
                what = f"step of {recipe}, batch {batch}, {name}"
                slow = 150 if setting.get("jit") else 15
                if run.has_time(what, 5 if run.small else slow):
                    rows.append({"recipe": recipe, "batch": batch, "setting": name})
                    rows[-1] |= measure_step(run, recipe, batch, size, setting, counts)
                    print(*rows[-1].values(), flush=True)
    run.content["steps"] = rows


def measure_step(
    run: Run, recipe: str, batch: int, size: int, setting: dict[str, Any], counts: tuple[int, int]
) -> dict[str, Any]:
    """One row: medians of the second half of the counted steps, too, for what drifts."""
    chosen = {key: setting[key] for key in ("channels_last", "jit", "cuda_graphs") if key in setting}
    warm_up, steps = counts
    forget_peak_memory(run.device)
    try:
        with tf32(PRECISIONS[setting["precision"]][2]):
            config = load_config(recipe)
            step = make_step(config, 80, run.device, setting["precision"], StepSettings(**chosen))
            parts = batch_for(step, batch, size, 80, torch.device("cpu"))
            if run.device.type == "cuda":
                parts = [part.pin_memory() for part in parts]
            for _ in range(warm_up):
                step(*parts)
            run.wait()
            times, waits = [], 0
            begin = time.perf_counter()
            for _ in range(steps):
                start = time.perf_counter()
                with counted_waits(run.device) as counter:
                    step(*parts)
                waits += len(counter)
                if not setting.get("sink"):
                    step.non_finite.is_clear()  # as the loop does after each step
                times.append(time.perf_counter() - start)
            run.wait()
            seconds = (time.perf_counter() - begin) / steps
    except (RuntimeError, YoloflowError) as error:  # no memory, no compiler
        return {"failed": str(error).splitlines()[0][:200]}
    peak = peak_memory(run.device)
    return {
        "images_per_second": round(batch / seconds, 1),
        "milliseconds": round(1000 * seconds, 2),
        "host_milliseconds": round(1000 * statistics.median(times), 2),
        "waits_a_step": round(waits / steps, 2) if run.device.type == "cuda" else None,
        "peak_MiB": None if peak is None else round(peak / 2**20),
    }


@contextmanager
def counted_waits(device: torch.device) -> Iterator[list[Any]]:
    """The warnings of what makes the host wait for a CUDA device in a block."""
    if device.type != "cuda":
        yield []
        return
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def measure_data(run: Run, size: int, batch: int) -> None:
    """The loader's and the evaluation's images a second, on drawn photographs."""
    cores = Machine.of(run.device).cores
    workers = sorted({min(number, cores) for number in ((1, 2) if run.small else (4, 8, 15))})
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        index = index_of(draw_pictures(Path(folder), 64 if run.small else 512))
        for number in workers:
            if run.has_time(f"loader with {number} workers", 5):
                dataset = COCODataset(index, size, TRAIN, is_training=True, augment=True, cache="ram")
                rates[str(number)] = round(
                    images_per_second(dataset, number, 1.0 if run.small else 5.0, True, anywhere=False), 1
                )
        print("loader, images a second by workers:", rates, flush=True)
        run.content["loader"] = {"size": size, "images_per_second_by_workers": rates}
        if run.has_time("evaluation", 5):
            config = load_config("yolov8n")
            torch.manual_seed(0)
            network = create_model(config.network.model_name, config.network_table(), 4).to(run.device)
            settings = EvaluationSettings(img_size=size, per_batch_size=batch)
            data = DataSettings(test_workers=workers[-1])
            precision = auto_mixed_precision("auto", run.device.type)
            test_fn = create_test_fn(index, settings, data, config.network, precision, Ranks())
            result = test_fn(network)
            run.content["evaluation"] = {
                "images_per_second": round(result.images_per_second, 1),
                "milliseconds_per_image": result.milliseconds_per_image,
                "peak_memory_mb": result.peak_memory_mb,
            }
            print("evaluation:", run.content["evaluation"], flush=True)


def measure_peer(run: Run, batches: list[int], size: int) -> None:
    """Forward, loss and backward of Ultralytics' yolov8n by its public calls, where it is installed."""
    if find_spec("ultralytics") is None:
        run.content["ultralytics"] = "not installed here"
        return
    ultralytics: Any = import_module("ultralytics")
    rows = []
    for batch in batches:
        if not run.has_time(f"Ultralytics, batch {batch}", 15):
            continue
        network = ultralytics.YOLO("yolov8n.yaml").model.to(run.device).train()
        network.args = ultralytics.utils.DEFAULT_CFG
        torch.manual_seed(1)
        images, labels = random_batch(batch, size, 80)
        numbers, places = (labels[..., 1] >= 0).nonzero(as_tuple=True)
        parts = {"img": images.to(run.device).float() / 255, "batch_idx": numbers.float().to(run.device)}
        rows_of = labels[numbers, places].to(run.device)
        parts |= {"cls": rows_of[:, 1:2], "bboxes": rows_of[:, 2:6]}

        def step(network: Any = network, parts: dict[str, Tensor] = parts) -> None:
            with torch.autocast(run.device.type, torch.bfloat16):
                loss, _ = network(parts)
            loss.sum().backward()
            network.zero_grad(set_to_none=True)

        seconds = seconds_of(run, step, 3 if run.small else STEPS)
        rows.append({"batch": batch, "images_per_second": round(batch / seconds, 1)})
    run.content["ultralytics"] = {"version": ultralytics.__version__, "bfloat16, no update": rows}
    print("Ultralytics:", run.content["ultralytics"], flush=True)


def table_of(content: dict[str, Any]) -> str:
    """The figures of the steps as a Markdown table."""
    lines = [
        "| recipe | batch | setting | images/s | ms | host ms | waits a step | peak MiB |",
        "|---|--:|---|" + "--:|" * 5,
    ]
    keys = ("recipe", "batch", "setting", "images_per_second", "milliseconds", "host_milliseconds")
    for row in content["steps"]:
        cells = [row.get(key, "") for key in (*keys, "waits_a_step", "peak_MiB")]
        if "failed" in row:
            cells[3] = row["failed"]
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=460.0, help="for all of it")
    parser.add_argument("--small", action="store_true", help="tiny networks, images and batches")
    parser.add_argument("--recipes", nargs="+")
    parser.add_argument("--batches", nargs="+", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    given = parser.parse_args()
    recipes = given.recipes or (["yolov8n"] if given.small else ["yolov8n", "yolov8s", "yolov8x"])
    batches = given.batches or ([2] if given.small else [16, 64, 128])
    size = given.size or (64 if given.small else 640)
    started = time.monotonic()
    try:
        device = select_device(given.device)
    except YoloflowError as error:
        print(error, file=sys.stderr)
        return 2
    run = Run(device, given.small, given.seconds, started + given.seconds)
    run.content |= {
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(device),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "size": size,
    }
    print(run.content, flush=True)
    measure_ceilings(run)
    run.begin(0.35)
    is_right = check_families(run)
    run.begin(0.75)
    measure_steps(run, recipes, batches, size)
    run.begin(0.9)
    measure_data(run, size, batches[0])
    run.begin(1.0)
    measure_peer(run, batches, size)
    run.content |= {"left_out": run.left_out, "seconds": round(time.monotonic() - started, 1)}
    given.out.write_text(json.dumps(run.content, indent=1), encoding="utf-8")
    print(table_of(run.content))
    for what in run.left_out:
        print("left out:", what)
    print(
        f"{run.content['seconds']} s; all figures in {given.out}; correctness "
        f"{'holds' if is_right else 'FAILS'}"
    )
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main())
