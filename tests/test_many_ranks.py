"""The benchmarks about many ranks and cards say what they mean: on a few ranks, and on simple costs."""

import pytest

from benchmarks.cost import Card, DataSet, StepCost, estimate, slowdown_of, step_cost
from benchmarks.ranks import share_images, watch_step
from yoloflow.config.reader import load_config

CARD = Card(operations=1e12, memory=1e9, links=(1e9, 1e8), in_machine=2)
SET = DataSet("a set", images=1_000, validation=60, classes=3)
COST = StepCost(first=0.1, per_image=0.05, gradients=40_000_000)
TINY = ("network.width_multiple=0.125", "img_size=64")


def test_ranks_see_every_image_once_but_for_those_that_fill_no_step() -> None:
    found = share_images(images=103, batch=4, ranks=6)
    assert (found.steps, found.seen, found.repeated, found.left_out) == (4, 96, 0, 7)
    assert found.batch_sizes == {4}


def test_ranks_evaluate_every_image_once() -> None:
    found = share_images(images=103, batch=4, ranks=6, is_training=False)
    assert (found.seen, found.repeated, found.left_out) == (103, 0, 0)


@pytest.mark.process
@pytest.mark.parametrize("sync_bn", [True, False])
def test_a_rank_sends_every_gradient_and_only_one_writes_two_files(sync_bn: bool) -> None:
    found = watch_step(load_config("yolov8n", [*TINY, f"sync_bn={sync_bn}"]), ranks=5)
    assert sum(found.buckets) == found.gradients
    assert ("_allgather_base_" in found.calls) == sync_bn
    assert [name.partition(".")[2] for name in found.files] == ["json", "safetensors"]
    assert found.state_bytes <= found.files["state-00000002.safetensors"] <= 1.1 * found.state_bytes


def test_one_card_takes_steps_and_evaluations() -> None:
    found = estimate(COST, CARD, SET, cards=1, batch=8, epochs=36, slowdown=2)
    # A step: 2 x (0.1 + 8 x 0.05) s. An epoch: 125 steps, and 60 images of 2 x 0.05 / 3 s.
    assert (found.steps, found.left_out) == (125, 0)
    assert found.images_per_second == pytest.approx(8)
    assert found.hours == pytest.approx(36 * (125 + 2) / 3600)


def test_cards_of_several_machines_exchange_gradients_over_the_slower_links() -> None:
    found = estimate(COST, CARD, SET, cards=4, batch=8, epochs=36, slowdown=2)
    # The gradients go over 0.1 GB/s: 40 MB x 2 x 3 / 4.
    step = 1 + 0.6
    assert (found.steps, found.left_out) == (31, 8)
    assert found.images_per_second == pytest.approx(4 * 8 / step)
    assert found.hours == pytest.approx(36 * (31 * step + 60 / 4 * 2 * 0.05 / 3) / 3600)
    fast = estimate(COST, CARD, SET, cards=2, batch=8, epochs=36, slowdown=2)
    assert fast.images_per_second == pytest.approx(2 * 8 / (1 + 0.04))


def test_the_slowdown_gives_back_the_measured_rate() -> None:
    slowdown = slowdown_of(rate=10, batch=8, cost=COST)
    assert 8 / (COST.seconds(8) * slowdown) == pytest.approx(10)
    assert slowdown_of(rate=10, batch=8, cost=COST, share=0.5) == pytest.approx(2 * slowdown)


@pytest.mark.process
def test_a_step_costs_by_the_rates_of_the_card_and_the_images() -> None:
    config = load_config("yolov8n", TINY)
    slow, fast = (step_cost(config, 3, Card(1e12, rate)) for rate in (1e9, 2e9))
    # All of so small a network is memory traffic.
    assert slow.per_image == pytest.approx(2 * fast.per_image, rel=0.01)
    assert slow.gradients == fast.gradients > 0
