"""The memory of a training on a card that is not here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from yoloflow.cli import app
from yoloflow.config.reader import load_config
from yoloflow.losses import create_loss
from yoloflow.memory_plan import GIB, MemoryNeed, largest_side, peak_of_step, plan_memory
from yoloflow.models import create_model

TINY = ["network.width_multiple=0.125", "img_size=64", "data.nc=3"]
SMALLEST = {
    "yolov3": ["network.width_multiple=0.25"],
    "yolov4": ["network.width_multiple=0.25"],
    **{
        name: []
        for name in ("yolov5n", "yolov7-tiny", "yolov8n", "yolov9t", "yolov10n", "yolov11n", "yolox-nano")
    },
    **{name: [] for name in ("yolov8s", "yolov8m", "yolov8n-seg", "yolov8s-seg")},
}
MEASURE = """
import ctypes, gc, json, sys, torch
torch.set_num_threads(1)
from yoloflow.config.reader import load_config
from yoloflow.losses import create_loss, segment
from yoloflow.losses.loss import full_masks
from yoloflow.memory_plan import OBJECTS
from yoloflow.models import create_model
from yoloflow.runtime.memory import forget_peak_memory, peak_memory

segment._losses_by_object = segment._losses_by_image  # as on a card
config = load_config(sys.argv[1], sys.argv[2:])
network = create_model(config.network.model_name, config.network_table(), 80)
network = network.to(memory_format=torch.channels_last)
loss_fn = create_loss(config.loss, anchors=config.network.anchors, stride=network.stride, nc=80)

def step(number):
    images = torch.zeros((number, 3, 320, 320)).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros((number, OBJECTS, 6))
    labels[..., 0] = torch.arange(number)[:, None]
    labels[..., 2:4] = torch.linspace(0.1, 0.9, OBJECTS)[:, None]
    labels[..., 4:6] = 0.2
    loss_fn(network(images), labels, images, *full_masks(loss_fn, labels, 320))[0].backward()
    network.zero_grad()

step(1)
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
forget_peak_memory()
before = peak_memory()
step(8)
print(json.dumps(peak_memory() - before))
"""


@pytest.mark.training
@pytest.mark.parametrize("recipe", ["yolov8n", "yolov8n-seg", "yolox-nano"])
def test_half_precision_needs_less_for_each_image(recipe: str) -> None:
    full, half = plan_memory(load_config(recipe, TINY))
    assert (full.precision, half.precision) == ("float32", "bfloat16")
    assert full.weights == full.average == half.weights
    assert 0.4 * full.per_image < half.per_image < 0.95 * full.per_image
    assert full.largest_batch(8) < half.largest_batch(8)


def test_the_largest_batch_is_the_last_that_fits() -> None:
    need = MemoryNeed("float32", GIB // 10, GIB // 10, GIB // 10, 0.2 * GIB, 0.15 * GIB)
    room = (24 - 0.8) * GIB
    images = need.largest_batch(24)
    assert need.of_batch(images) <= room < need.of_batch(images + 1)
    assert need.largest_batch(1) == 0


def test_the_network_has_its_own_weights_afterwards() -> None:
    config = load_config("yolov8n", TINY)
    network = create_model(config.network.model_name, config.network_table(), 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert (
        peak_of_step(network, create_loss(config.loss, stride=network.stride, nc=3, anchors=None), 2, 64) > 0
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_largest_images_of_all_stages_count() -> None:
    assert largest_side(load_config("yolov8n", ["img_size=320"])) == 320
    assert largest_side(load_config("yolov8n", ["img_size=320", "data.multi_scale=[0.5, 1.5]"])) == 480


@pytest.mark.training
def test_plan_shows_it_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["plan", "yolov8n", "memory=24", *TINY])
    assert shown.exit_code == 0, shown.output
    assert "GiB; 64 px, 3 classes" in shown.output
    assert "largest batch for 24 GiB" in shown.output
    assert all(len(line) <= 80 for line in shown.output.splitlines())
    assert not list(tmp_path.iterdir())


@pytest.mark.training
def test_plan_keeps_it_beside_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["plan", "yolov8n", "memory=24GiB", "--steps-per-epoch", "100", *TINY]
    assert CliRunner().invoke(app, command).exit_code == 0
    (full, half) = json.loads((tmp_path / "plan" / "plan.json").read_text())["memory"]
    assert full["batch"] > half["batch"] > 0


@pytest.mark.training
def test_masks_for_each_object_are_planned_with() -> None:
    together, separate = (
        plan_memory(load_config("yolov8n-seg", [*TINY, f"loss.overlap={overlap}"]))[0]
        for overlap in ("true", "false")
    )
    assert separate.per_image > together.per_image


@pytest.mark.parametrize("text", ["abc", "", "0", "-3", "0.5", "nan"])
def test_memory_is_a_number_of_gib(text: str) -> None:
    shown = CliRunner().invoke(app, ["plan", "yolov8n", f"memory={text}"])
    assert shown.exit_code != 0
    assert "such as memory=24" in str(shown.exception)


@pytest.mark.full
@pytest.mark.parametrize("recipe", SMALLEST)
def test_it_is_within_15_percent_of_what_a_step_takes_on_the_cpu(recipe: str) -> None:
    changes = ["img_size=320", *SMALLEST[recipe]]
    (need, _) = plan_memory(load_config(recipe, changes))
    command = [sys.executable, "-c", MEASURE, recipe, *changes]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert need.of_step(8) == pytest.approx(measured, rel=0.15)
