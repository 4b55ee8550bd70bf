"""Run folders with tiny networks of random weights, some with masks; images and videos to predict on."""

import re
from pathlib import Path

import cv2
import numpy as np
import torch

from yoloflow.config.reader import dump_config, load_config
from yoloflow.models import create_model
from yoloflow.structures import Uint8Array
from yoloflow.weights.files import load_weights, save_weights

NAMES = ["ant", "bee", "7"]
NUM_MASKS = 8
SEGMENTS = f"""# Recipe: two levels, a few convolutions, masks
__BASE__: yolov8n-seg
loss: {{nm: {NUM_MASKS}}}
network:
  stride: [8, 16]
  backbone:
    - [stem, -1, 1, ConvNormAct, [16, 3, 2]]
    - [p2, -1, 1, ConvNormAct, [32, 3, 2]]
    - [p3, -1, 1, ConvNormAct, [32, 3, 2]]
    - [p4, -1, 1, ConvNormAct, [32, 3, 2]]
  head:
    - [head, [p3, p4], 1, YOLOv8SegHead, [nc, reg_max, {NUM_MASKS}, 64, stride]]
"""


def tiny_run(folder: Path, recipe: str = "yolov8n", *settings: str) -> Path:
    """Write a run of a tenth-width network at 64 pixels, with scores that differ."""
    (folder / "weights").mkdir(parents=True)
    config = load_config(
        recipe, ["img_size=64", "network.width_multiple=0.1", "data.names=[ant, bee, '7']", *settings]
    )
    (folder / "config.yaml").write_text(dump_config(config))
    torch.manual_seed(5)
    network = create_model(config.network.model_name, config.network_table(), len(NAMES))
    _liven(network)
    save_weights(folder / "weights" / "best.safetensors", network.state_dict())
    return folder


def tiny_segment_run(folder: Path, *settings: str) -> Path:
    """Write a run of a network of six layers that segments, at 64 pixels; its masks follow the image."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe = folder.parent / f"{folder.name}.yaml"
    recipe.write_text(SEGMENTS)
    run = tiny_run(folder, str(recipe), *settings)
    weights = run / "weights" / "best.safetensors"
    state = load_weights(weights)
    for name, tensor in state.items():
        if re.fullmatch(r"head\.class_branches\.\d\.2\.bias", name):
            tensor.fill_(-0.5)
        if re.fullmatch(r"head\.class_branches\.\d\.2\.weight", name):
            tensor *= 5
        if re.fullmatch(r"head\.mask_branches\.\d\.2\.bias", name):
            tensor.uniform_(-0.3, 0.3)
    save_weights(weights, state)
    return run


def _liven(network: torch.nn.Module) -> None:
    """Statistics of real activations and a wider last layer, so that detections depend on the image."""
    coarse = torch.rand(8, 3, 6, 6)
    images = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clip(0, 1)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        network.train()((images * 255).to(torch.uint8))
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
        for name, parameter in network.named_parameters():
            if name.startswith("head") and parameter.ndim == 4 and name.endswith("2.weight"):
                torch.nn.init.normal_(parameter, std=0.12)
    network.eval()


def write_images(folder: Path, sizes_hw: dict[str, tuple[int, int]]) -> Path:
    """Write images of coarse coloured noise."""
    rng = np.random.default_rng(0)
    for name, (height, width) in sizes_hw.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return folder


def read_image(path: Path | str) -> Uint8Array:
    image = cv2.imread(str(path))
    assert image is not None, path
    return np.asarray(image, np.uint8)


def write_video(path: Path, num_frames: int = 7, size_wh: tuple[int, int] = (96, 64)) -> Path:
    fourcc = "mp4v" if path.suffix == ".mp4" else "MJPG"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), 12.0, size_wh)
    for k in range(num_frames):
        frame = np.full((size_wh[1], size_wh[0], 3), 30, np.uint8)
        cv2.circle(frame, (15 + 10 * k, 30), 12, (0, 200, 255), -1)
        video.write(frame)
    video.release()
    return path
