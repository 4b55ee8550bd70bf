"""What a thousand ranks do in one process: `python -m benchmarks.ranks [--ranks 1000 --recipe yolov8n]`.

A process group of torch that answers at once without peers ("fake") has the rank's code run as it is: which
images each rank sees and what that costs, how gradients are reduced, what else is sent in a step, and what a
training state takes. Nothing is sent, so it says nothing about the time of a network.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.train_step import random_batch
from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.data.dataset import COCODataset
from yoloflow.data.loader import StageLoader
from yoloflow.data.samplers import UniformSampler
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.run.checkpoint import StateWriter, TrainingState
from yoloflow.runtime.ranks import leave_ranks, sum_over_ranks
from yoloflow.train_step.grad_reducer import DistributedGradReducer
from yoloflow.train_step.step import TrainStep, create_train_step_fn

CLASSES, SIDE = 80, 64


@dataclass(frozen=True, slots=True)
class Shares:
    """What the ranks see of an epoch.

    Attributes:
        steps: of each rank.
        seen, repeated, left_out: images seen at least once, more than once, not at all.
        batch_sizes: the different sizes of all ranks' batches.
        seconds: CPU time of one rank for an epoch, the mean.
        peak_bytes: memory that a rank takes for it at most.
    """

    steps: int
    seen: int
    repeated: int
    left_out: int
    batch_sizes: set[int]
    seconds: float
    peak_bytes: int


class _Images:
    """A data set of which only the number of images is asked."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def share_images(images: int, batch: int, ranks: int, is_training: bool = True) -> Shares:
    """Returns what every rank takes of one epoch.

    Args:
        images: of the set.
        batch: images of a rank's step.
        ranks: how many.
        is_training: in a new order, whole batches only; otherwise every image, as an evaluation does.
    """
    times, sizes = np.zeros(images, np.int64), set()
    began = time.process_time()
    for rank in range(ranks):
        loader = _loader(images, batch, rank, ranks, is_training)
        for key in loader.epoch_batches(0):
            times[list(key.indices)] += 1
            sizes.add(len(key.indices))
    seconds = (time.process_time() - began) / ranks
    tracemalloc.start()
    loader = _loader(images, batch, ranks - 1, ranks, is_training)
    steps = len(loader.epoch_batches(1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Shares(
        steps, int((times > 0).sum()), int((times > 1).sum()), int((times == 0).sum()), sizes, seconds, peak
    )


def _loader(images: int, batch: int, rank: int, ranks: int, is_training: bool) -> StageLoader:
    sampler = UniformSampler(images, shuffle=is_training)
    dataset = cast(COCODataset, _Images(images))
    return StageLoader(dataset, batch, 1, sampler, rank, ranks, drop_last=is_training)


@contextmanager
def fake_ranks(ranks: int) -> Iterator[None]:
    """Makes this process rank 0 of many, none of the others being there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        leave_ranks()


class _WatchedReducer(DistributedGradReducer):
    """Notes the buckets of gradients; the fake group answers none of DDP's own requests.

    Attributes:
        buckets: bytes of each, in the order in which they are sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buckets: list[int] = []

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns the module in DDP."""
        parallel = super().wrap(module)
        assert isinstance(parallel, DistributedDataParallel)
        parallel.register_comm_hook(None, self._note)
        return parallel

    def _note(self, _: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        self.buckets.append(bucket.buffer().nbytes)
        answer: torch.futures.Future[Tensor] = torch.futures.Future()
        answer.set_result(bucket.buffer())
        return answer


class _Collectives(TorchDispatchMode):
    """Counts what is sent beside gradients.

    Attributes:
        calls, bytes: by collective.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func._schema.name.partition("::")
        if space in ("c10d", "_c10d_functional"):
            self.calls[name] += 1
            self.bytes[name] += sum(leaf.nbytes for leaf in tree_leaves(args[0]) if isinstance(leaf, Tensor))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a rank sends in one step, and the state.

    Attributes:
        gradients: bytes of the trained parameters.
        buckets: bytes of each bucket of gradients.
        calls, bytes: of the other collectives by name, that of a logged loss among them.
        state_bytes: of the tensors of a training state.
        unfinished_bytes: that each rank adds to a state in the middle of an update.
        files: of a state, by name, and their bytes.
    """

    gradients: int
    buckets: list[int]
    calls: Counter[str]
    bytes: Counter[str]
    state_bytes: int
    unfinished_bytes: int
    files: dict[str, int]


def watch_step(config: Config, ranks: int) -> Traffic:
    """Returns what one of many ranks sends in a step.

    Args:
        config: of the recipe; its `sync_bn` counts.
        ranks: how many.
    """
    with fake_ranks(ranks):
        reducer = _WatchedReducer()
        step = _make_step(config, reducer, ranks)
        batch = random_batch(2, SIDE, CLASSES)
        for _ in range(2):  # DDP arranges its buckets at the second step
            step(*batch)
        reducer.buckets.clear()
        with _Collectives() as sent:
            sum_over_ranks(step(*batch).loss_items)
        tensors, numbers = step.state_dict()
    trained = [weight for group in step.optimizer.param_groups for weight in group["params"]]
    gradients = sum(weight.nbytes for weight in trained)
    buffers = sum(buffer.nbytes for buffer in step.network.buffers())
    with tempfile.TemporaryDirectory() as folder:
        writer = StateWriter(Path(folder))
        writer.write(2, TrainingState(tensors, dict(numbers)))
        writer.wait()
        files = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
    state_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return Traffic(
        gradients, reducer.buckets, sent.calls, sent.bytes, state_bytes, gradients + 2 * buffers, files
    )


def _make_step(config: Config, reducer: DistributedGradReducer, ranks: int) -> TrainStep:
    network = create_model(
        config.network.model_name,
        config.network_table(),
        CLASSES,
        sync_bn=config.sync_bn,
        variant=config.variant,
    )
    loss_fn = create_loss(
        config.loss, anchors=config.network.anchors, stride=network.stride, nc=CLASSES, variant=config.variant
    )
    length = config.run_length(100, ranks)
    return create_train_step_fn(
        network,
        loss_fn,
        create_optimizer(create_group_param(network, config.optimizer, length), config.optimizer),
        create_schedule(config.optimizer, length),
        reducer=reducer,
        ema=EMA(network),
        settings=config.step_settings(ranks),
        loss_ratio=config.loss_ratio(loss_fn.reduction, ranks),
    )


def describe_shares(name: str, found: Shares) -> str:
    """Returns the line of an epoch."""
    sizes = ", ".join(map(str, sorted(found.batch_sizes)))
    return (
        f"{name}: {found.steps} steps a rank, batches of {sizes}; {found.seen:,} images seen, "
        f"{found.repeated} twice, {found.left_out:,} left out; a rank takes "
        f"{1000 * found.seconds:.1f} CPU ms and {found.peak_bytes / 1e6:.1f} MB"
    )


def describe_traffic(found: Traffic, ranks: int) -> list[str]:
    """Returns the lines of a step and a state."""
    buckets = " + ".join(f"{size / 1e6:.2f}" for size in found.buckets)
    others = ", ".join(f"{count} {name} ({found.bytes[name]:,} bytes)" for name, count in found.calls.items())
    files = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in found.files.items())
    return [
        f"gradients: {found.gradients / 1e6:.2f} MB in {len(found.buckets)} buckets ({buckets} MB); a ring "
        f"sends {2 * (ranks - 1) / ranks * found.gradients / 1e6:.1f} MB from each rank",
        f"other collectives of a logged step: {others}",
        f"state: rank 0 alone writes {len(found.files)} files: {files}",
        f"state in the middle of an update (accumulate): {found.unfinished_bytes / 1e6:.1f} MB more for each "
        f"rank, {ranks * found.unfinished_bytes / 1e9:.2f} GB in all, gathered by every rank",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="yolov8n")
    parser.add_argument("--ranks", type=int, default=1000)
    parser.add_argument("--images", type=int, default=118_287)
    parser.add_argument("--validation", type=int, default=5_000)
    options = parser.parse_args()
    config = load_config(options.recipe)
    batch = config.per_batch_size
    print(f"{options.ranks:,} ranks of {batch} images, {options.recipe}")
    print(describe_shares("training", share_images(options.images, batch, options.ranks)))
    print(describe_shares("validation", share_images(options.validation, batch, options.ranks, False)))
    for sync_bn in (False, True):
        print(f"sync_bn={str(sync_bn).lower()}")
        found = watch_step(load_config(options.recipe, [f"sync_bn={sync_bn}"]), options.ranks)
        for line in describe_traffic(found, options.ranks):
            print(f"  {line}")


if __name__ == "__main__":
    main()
