"""Steps as graphs learn what steps without learn; a graph of the CPU stands in for one of CUDA."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor

from tests.support.cpu_graph import CpuGraph
from tests.support.toy_training import ToyLoader, everything, toy_step
from yoloflow.config.reader import load_config
from yoloflow.losses import create_loss, segment
from yoloflow.models import create_model
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import RunLength
from yoloflow.runtime.cuda_graph import CudaGraph
from yoloflow.structures import YoloflowError
from yoloflow.train_step.graphed_pass import GraphedPass
from yoloflow.train_step.step import StepSettings, TrainStep, create_train_step_fn, get_loss_scaler

Result = TypeVar("Result")
SMALL = ["network.width_multiple=0.125", "network.depth_multiple=0.2"]
FAMILIES = {
    "yolov3": SMALL,
    "yolov4": SMALL,
    "yolov5n": [],
    "yolov7-tiny": [],
    "yolov7-w6": SMALL[:1],
    "yolov8n": [],
    "yolov8n-seg": [],
    "yolov9t": [],
    "yolov10n": [],
    "yolov11n": [],
    "yolox-nano": [],
}
CLASSES = 3


class CountedGraph(CpuGraph):
    """Counts what is recorded and run again."""

    recorded = replayed = 0

    def record(self, function: Callable[[], Result]) -> Result:
        type(self).recorded += 1
        return super().record(function)

    def replay(self) -> None:
        type(self).replayed += 1
        super().replay()


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    CountedGraph.recorded = CountedGraph.replayed = 0


def with_graphs(step: TrainStep, make_graph: Callable[[], CudaGraph] = CountedGraph) -> TrainStep:
    step._graphed = GraphedPass(step._differentiate, step.forward_loss, make_graph)
    return step


def real_step(recipe: str, amp_level: str, options: StepSettings) -> TrainStep:
    config = load_config(recipe, FAMILIES[recipe])
    torch.manual_seed(0)
    network = create_model(config.network.model_name, config.network_table(), CLASSES)
    settings, length = config.optimizer, RunLength(epochs=100, steps_per_epoch=20, total_batch_size=2)
    return create_train_step_fn(
        network,
        create_loss(config.loss, anchors=config.network.anchors, stride=network.stride, nc=CLASSES),
        create_optimizer(create_group_param(network, settings, length), settings),
        create_schedule(settings, length),
        scaler=get_loss_scaler("dynamic"),
        ema=EMA(network),
        precision=auto_mixed_precision(amp_level, "cpu"),
        settings=options,
    )


def batch(step: TrainStep, number: int, rows: int) -> list[Tensor]:
    side = 2 * max(step.network.stride)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    labels = torch.rand((2, rows, 6), generator=generator) / 2 + 0.1
    labels[..., 0] = torch.arange(2)[:, None]
    labels[..., 1] = torch.randint(-1, CLASSES, (2, rows), generator=generator)
    return [images, *step.trial_targets(labels, side)]


@pytest.mark.parametrize(
    ("recipe", "amp_level"),
    [
        pytest.param(recipe, level, marks=[] if (recipe, level) == ("yolov8n", "O2") else pytest.mark.oracle)
        for recipe in FAMILIES
        for level in ("O0", "O2")
    ],
)
def test_every_family_learns_the_same_to_the_bit(
    recipe: str, amp_level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a CPU masks are computed by their sizes, which a graph cannot ask for.
    monkeypatch.setattr(segment, "_losses_by_object", segment._losses_by_image)
    options = StepSettings(accumulate=2, channels_last=True, jit=False)
    plain, graphed = real_step(recipe, amp_level, options), with_graphs(real_step(recipe, amp_level, options))
    for number in range(6):
        parts = batch(plain, number, 4 if number == 2 else 3)
        results = [step(*parts) for step in (plain, graphed)]
        assert torch.equal(results[0].loss_items, results[1].loss_items)
        assert torch.equal(results[0].finite, results[1].finite)
    # The first shape is recorded when it comes again; the other one comes once.
    assert CountedGraph.recorded == 1
    assert CountedGraph.replayed == 4
    expected, found = everything(plain), everything(graphed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("options", [StepSettings(), StepSettings(accumulate=4, clip_grad=True)])
def test_a_state_in_the_middle_of_an_update_is_gone_on_from(options: StepSettings) -> None:
    batches = [ToyLoader().batch(number) for number in range(12)]
    plain, graphed = toy_step(options), with_graphs(toy_step(options))
    for each in batches[:6]:
        plain(each.images, each.labels)
        graphed(each.images, each.labels)
    tensors, numbers = graphed.state_dict()
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    graphed(batches[11].images, batches[11].labels)
    graphed.load_state_dict(kept, numbers)
    for each in batches[6:]:
        plain(each.images, each.labels)
        graphed(each.images, each.labels)
    expected = everything(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(graphed).items())
    assert CountedGraph.recorded == 2


def test_a_new_stage_is_recorded_anew() -> None:
    step, each = with_graphs(toy_step()), ToyLoader().batch(0)
    for _ in range(2):
        for _ in range(3):
            step(each.images, each.labels)
        step.begin_stage(1)
    assert CountedGraph.recorded == 2


def test_an_overflow_is_not_recorded() -> None:
    loader = ToyLoader({2: float("nan")})
    plain, graphed = toy_step(), with_graphs(toy_step())
    for number in range(5):
        each = loader.batch(number)
        plain(each.images, each.labels)
        graphed(each.images, each.labels)
        assert CountedGraph.recorded == int(number > 1)
    expected = everything(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(graphed).items())


class NotRecordable(CpuGraph):
    def record(self, function: Callable[[], Result]) -> Result:
        function()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")


class Wrong(CpuGraph):
    def replay(self) -> None:
        super().replay()
        super().replay()


@pytest.mark.parametrize(
    ("graph", "reason"),
    [(NotRecordable, "operation not permitted when stream is capturing"), (Wrong, "gave other numbers")],
)
def test_where_graphs_fail_the_training_goes_on_without_and_says_so_once(
    graph: type[CudaGraph], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain, graphed = toy_step(), with_graphs(toy_step(), graph)
    with caplog.at_level(logging.INFO, logger="yoloflow"):
        for number in range(6):
            each = ToyLoader().batch(number)
            plain(each.images, each.labels)
            graphed(each.images, each.labels)
    assert [record.getMessage() for record in caplog.records if reason in record.getMessage()] == [
        message for message in caplog.messages if "cuda_graphs=false from here on" in message
    ]
    assert len(caplog.messages) == 1
    expected = everything(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in everything(graphed).items())


def test_graphs_where_there_can_be_none_are_refused() -> None:
    with pytest.raises(YoloflowError, match=r"cuda_graphs=true: the device is cpu; leave it on auto"):
        toy_step(StepSettings(cuda_graphs=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_graph_runs_what_it_recorded() -> None:
    total, added = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda")
    graph = CudaGraph()
    result = graph.record(lambda: total.add_(added) * 2)
    assert total.tolist() == [0.0] * 3
    for _ in range(2):
        graph.replay()
    added.fill_(5.0)
    graph.replay()
    assert total.tolist() == [7.0] * 3
    assert result.tolist() == [14.0] * 3
