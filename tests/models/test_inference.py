"""A network made ready to predict gives what the network gives, and leaves it alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloflow.config.reader import load_config
from yoloflow.evaluation.test_function import EvaluationResult, test
from yoloflow.models import Network, create_model, predict_images, prepare_for_inference
from yoloflow.models.precision import auto_mixed_precision
from yoloflow.structures import Batch, DatasetIndex

# With one-to-one branches, auxiliary branches, re-parameterised layers, other activations.
RECIPES = ("yolov8n", "yolov10n", "yolov9t", "yolov7-tiny", "yolox-nano", "yolov4")


def network_of(recipe: str) -> Network:
    """Random weights with running statistics that matter, in train mode."""
    config = load_config(recipe)
    torch.manual_seed(0)
    narrow = {"width_multiple": 0.25, "depth_multiple": 0.33} if recipe == "yolov4" else {}
    network = create_model(config.network.model_name, config.network_table() | narrow, 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network


def images_of(count: int, side: int = 64) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def evaluated(network: nn.Module, images: Tensor, batch_size: int, **settings: Any) -> EvaluationResult:
    """All images, which have one object each."""
    count, side = len(images), images.shape[-1]
    index = DatasetIndex(
        image_paths=np.array([f"{i}.jpg" for i in range(count)]),
        image_ids=np.arange(count),
        sizes_hw=np.tile((side, side), (count, 1)),
        box_offsets=np.arange(count + 1),
        boxes_xyxy=np.tile((0.0, 0.0, side, side), (count, 1)),
        classes=np.arange(count) % 3,
        is_crowd=np.zeros(count, bool),
        areas=np.full(count, float(side * side)),
        polygon_offsets=np.zeros(count + 1, np.int64),
        polygon_points=np.zeros((0, 2), np.float32),
        names=["a", "b", "c"],
        category_ids=np.arange(3),
    )
    batches = [
        Batch(
            images=part,
            labels=torch.zeros(len(part), 0, 6),
            indices=numbers,
            original_sizes_hw=torch.full((len(part), 2), float(side)),
            scales_xy=torch.ones(len(part), 2),
            pads_xy=torch.zeros(len(part), 2),
        )
        for part, numbers in zip(images.split(batch_size), torch.arange(count).split(batch_size), strict=True)
    ]
    return test(network, batches, index, conf_thres=0.0, **settings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_predicts_the_same_and_the_network_is_left_as_it_was(recipe: str) -> None:
    network = network_of(recipe)
    network.head_layer.eval()  # a mode of its own
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    images, drawn = images_of(2), torch.random.get_rng_state()
    ready = prepare_for_inference(network)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    with torch.inference_mode():
        expected, found = network.eval()(images)[0], ready(images)[0]
    if network.output_kind.end_to_end:  # equal scores may change places
        expected, found = expected[..., 4], found[..., 4]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_its_maps_lie_channels_last_on_a_cpu() -> None:
    ready = prepare_for_inference(network_of("yolov8n"))
    kernels = [module.weight for module in ready.modules() if isinstance(module, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert all(kernel.dtype == torch.float32 for kernel in kernels)


@pytest.mark.parametrize("recipe", ["yolov8n", "yolov7-tiny"])
def test_images_of_one_shape_after_the_other_are_predicted_as_by_the_network(recipe: str) -> None:
    network = network_of(recipe).eval()
    ready = prepare_for_inference(network)
    with torch.inference_mode():
        for count, height, width in ((2, 64, 64), (1, 64, 96), (3, 96, 32), (2, 64, 64)):
            images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
            torch.testing.assert_close(ready(images)[0], network(images)[0], rtol=1e-4, atol=1e-3)
            assert torch.equal(predict_images(ready, images), ready(images)[0])


def test_evaluation_of_a_network_is_that_of_its_fused_copy_twice_alike() -> None:
    network, images = network_of("yolov8n"), images_of(6)
    first, second = evaluated(network, images, 6), evaluated(network, images, 6)
    assert first.settings["fused"]
    assert first.detections.keys() == second.detections.keys()
    for position, found in first.detections.items():
        assert found.boxes_xyxy.tobytes() == second.detections[position].boxes_xyxy.tobytes()
        assert found.scores.tobytes() == second.detections[position].scores.tobytes()
    assert network.training


@pytest.mark.oracle
def test_a_batch_that_goes_through_in_parts_gives_what_single_images_give() -> None:
    network, images = network_of("yolov8n"), images_of(10, side=320)
    whole, single = evaluated(network, images, 10), evaluated(network, images, 1)
    for position, found in whole.detections.items():
        np.testing.assert_allclose(found.scores, single.detections[position].scores, atol=1e-6)


def test_half_precision_takes_a_fused_copy_too() -> None:
    network, images = network_of("yolov8n"), images_of(2)
    whole = evaluated(network, images, 2)
    half = evaluated(network, images, 2, precision=auto_mixed_precision("O2", "cpu"))
    assert (whole.settings["precision"], half.settings["precision"]) == ("float32", "bfloat16")
    for position, found in whole.detections.items():
        others = half.detections[position]
        np.testing.assert_allclose(found.scores[:10], others.scores[:10], rtol=0.05)


def test_a_fused_network_is_fused_again_without_a_change() -> None:
    config = load_config("yolov9t", ["network.width_multiple=0.25"])
    network = create_model("yolov9", config.network_table(), 3)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    once = network.fuse()
    with torch.inference_mode():
        torch.testing.assert_close(once.fuse()(images)[0], once(images)[0])
