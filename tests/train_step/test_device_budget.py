"""A step on an accelerator: nothing in it waits for the device, and its operations are counted."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from tests.support.device_watch import CUDA, Watch, backward_without_driver
from yoloflow.config.reader import load_config
from yoloflow.losses import create_loss
from yoloflow.models import create_model
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.optim.ema import EMA
from yoloflow.optim.groups import create_group_param
from yoloflow.optim.optimizer import create_optimizer
from yoloflow.optim.schedule import create_schedule
from yoloflow.optim.settings import RunLength
from yoloflow.train_step.step import TrainStep, create_train_step_fn, get_loss_scaler

CLASSES, IMAGES, OBJECTS = 80, 2, 16
NARROW = "network.width_multiple=0.125"
FLAT = "network.depth_multiple=0.2"
# The smallest network of each family, and the operations that its whole step may take in any precision and
# variant: the most that was measured, and 3 % (torch 2.14.1).
FAMILIES: dict[str, tuple[list[str], int]] = {
    "yolov3": ([NARROW, FLAT], 1860),
    "yolov4": ([NARROW, FLAT], 2090),
    "yolov5n": ([], 2180),
    "yolov7-tiny": ([], 2340),
    "yolov7-w6": ([NARROW], 5190),
    "yolov8n": ([], 1580),
    "yolov8n-seg": ([], 1850),
    "yolov9t": ([], 5920),
    "yolov10n": ([], 2700),
    "yolov11n": ([], 1980),
    "yolox-nano": ([], 2210),
}
QUICK = [(recipe, "published", "bfloat16") for recipe in ("yolov5n", "yolov8n", "yolox-nano")]
PRECISIONS = {"float32": ("O0", None), "bfloat16": ("O2", "bfloat16"), "float16": ("O2", "float16")}
CASES = [
    pytest.param(
        recipe,
        variant,
        precision,
        marks=pytest.mark.oracle if (recipe, variant, precision) in QUICK else pytest.mark.full,
        id=f"{recipe}-{variant}-{precision}",
    )
    for recipe in FAMILIES
    for variant in ("published", "mindyolo")
    for precision in PRECISIONS
]


def step_of(recipe: str, variant: str, precision: str) -> TrainStep:
    """The step of a training on the device, within a `FakeTensorMode`."""
    config = load_config(recipe, [*FAMILIES[recipe][0], f"variant={variant}", "clip_grad=true"])
    level, dtype = PRECISIONS[precision]
    with unset_fake_temporarily():  # copies of fake modules corrupt memory in torch 2.14
        network = create_model(
            config.network.model_name, config.network_table(), CLASSES, variant=config.variant
        )
        loss_fn = create_loss(
            config.loss,
            anchors=config.network.anchors,
            stride=network.stride,
            nc=CLASSES,
            variant=config.variant,
        )
        ema = EMA(network)
    for module in (network, ema.network, loss_fn):
        Watch.move(module)
    ema._updates = torch.ones((), device=CUDA)
    settings = config.optimizer
    length = RunLength(epochs=2, steps_per_epoch=100, total_batch_size=IMAGES)
    # `Module.to` changes tensors in a way that fake ones refuse; they are where they should be.
    with mock.patch.object(nn.Module, "to", lambda self, *_, **__: self):
        step = create_train_step_fn(
            network,
            loss_fn,
            create_optimizer(create_group_param(network, settings, length), settings),
            create_schedule(settings, length),
            scaler=get_loss_scaler("dynamic" if precision == "float16" else "none"),
            ema=ema,
            precision=auto_mixed_precision(level, "cuda", dtype),
            settings=config.step_settings(),
        )
    step.non_finite.is_on = True
    return step


@pytest.mark.parametrize(("recipe", "variant", "precision"), CASES)
def test_a_step_waits_for_nothing_and_keeps_its_budget(recipe: str, variant: str, precision: str) -> None:
    with backward_without_driver(), FakeTensorMode(allow_non_fake_inputs=True):
        step = step_of(recipe, variant, precision)
        side = 2 * max(step.network.stride)  # type: ignore[arg-type]
        images = torch.empty((IMAGES, 3, side, side), dtype=torch.uint8, device=CUDA)
        batch = [images, *step.trial_targets(torch.zeros((IMAGES, OBJECTS, 6), device=CUDA), side)]
        step(*batch)  # the first call looks up what later ones keep
        with Watch() as watch:
            step(*batch)
    assert not watch.waits
    assert watch.operations <= FAMILIES[recipe][1]
