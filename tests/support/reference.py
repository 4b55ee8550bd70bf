"""The reference's network, loss, weights, images and boxes, the numbers drawn again from their seed.

The reference figures were made with one `np.random.RandomState(1234)`: first every parameter in the order of
`figures/<family>_params.json`, then the images, then the boxes. So the large arrays need not be stored: equal
draws give equal bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from yoloflow.config.reader import read_with_bases
from yoloflow.losses import create_loss
from yoloflow.losses.loss import Loss
from yoloflow.models import Network, create_model
from yoloflow.weights.mindyolo import load_mindyolo

FIGURES = Path(__file__).parent / "figures"
SEED = 1234
PADDED_ROWS = 160
NUM_CLASSES = 5


def reference_config(family: str) -> dict[str, Any]:
    """The reference's own configuration file of the figures, read as every MindYOLO file is."""
    config: dict[str, Any] = read_with_bases(FIGURES / f"{family}_config.yaml").plain()
    return config


def reference_network(family: str) -> Network:
    """Our network in the reference's variant, with the reference's weights."""
    section = reference_config(family)["network"]
    network = create_model(section["model_name"], section, NUM_CLASSES, variant="mindyolo")
    load_mindyolo(network, reference_arrays(family))
    return network


def reference_loss(family: str) -> Loss:
    """Our loss in the reference's variant, for such a network."""
    config = reference_config(family)
    section = config["network"]
    facts = {"stride": section["stride"], "anchors": section.get("anchors", 1), "nc": NUM_CLASSES}
    return create_loss(**config["loss"], **facts, variant="mindyolo")


def reference_arrays(family: str) -> dict[str, np.ndarray]:
    """Every parameter, running statistic and constant of a reference network, by the reference's names."""
    return _draw_arrays(_read_params(family), np.random.RandomState(SEED))


def reference_inputs(family: str) -> tuple[np.ndarray, np.ndarray]:
    """The reference's batch.

    Returns:
        images (2, 3, H, W) float32 in 0..1 and targets (2, 160, 6) float32 of image index, class, cx, cy,
        w, h with the box in 0..1; unused rows are (image index, -1, -1, -1, -1, -1).
    """
    params, random = _read_params(family), np.random.RandomState(SEED)
    _draw_arrays(params, random)
    images = random.uniform(0, 1, params["image_shape"]).astype(np.float32)
    targets = np.full((len(images), PADDED_ROWS, 6), -1, np.float32)
    for image_index, num_boxes in enumerate(params["boxes_per_image"]):
        targets[image_index, :, 0] = image_index
        for row in range(num_boxes):
            width, height = random.uniform(0.12, 0.6, 2)
            cx = random.uniform(width / 2, 1 - width / 2)
            cy = random.uniform(height / 2, 1 - height / 2)
            class_number = random.randint(0, params["num_classes"])
            targets[image_index, row, 1:] = class_number, cx, cy, width, height
    return images, targets


def _read_params(family: str) -> dict[str, Any]:
    params: dict[str, Any] = json.loads((FIGURES / f"{family}_params.json").read_text())
    return params


def _draw_arrays(params: dict[str, Any], random: np.random.RandomState) -> dict[str, np.ndarray]:
    arrays = {}
    for name, shape in params["shapes"].items():
        if name in params["constants"]:
            values = params["constants"][name]
            arrays[name] = np.array(values, np.int32 if name.endswith("stride") else np.float32).reshape(
                shape
            )
        else:
            drawn = _draw(name.rpartition(".")[2], shape, random)
            start = np.array(params["bias_start"].get(name, 0), np.float32)
            start = start.reshape(shape) if start.ndim else start
            # The start value is a float32 of the reference's own; the noise was added in float64.
            arrays[name] = (start.astype(np.float64) + drawn).astype(np.float32)
    return arrays


def _draw(leaf: str, shape: list[int], random: np.random.RandomState) -> np.ndarray:
    if leaf == "weight":
        return random.normal(0, np.sqrt(1.6 / np.prod(shape[1:])), shape)
    if leaf == "gamma":
        return random.uniform(0.7, 1.3, shape)
    if leaf == "moving_variance":
        return random.uniform(0.5, 1.5, shape)
    if leaf == "implicit":
        return random.normal(0, 0.02, shape)
    return random.normal(0, 0.1, shape)  # beta, moving_mean, bias
