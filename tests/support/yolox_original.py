"""The original YOLOX-nano's published weights in our network."""

from __future__ import annotations

from pathlib import Path

from yoloflow.config.reader import load_config
from yoloflow.models import Network, create_model, load_pretrain

RECIPE, CLASSES, FILE = "yolox-nano-original", 80, "yolox_nano.onnx"


def original_network(folder: Path) -> Network:
    """Our YOLOX-nano with the published weights; their folded BatchNorms are ours' shift."""
    config = load_config(RECIPE)
    network = create_model(config.network.model_name, config.network_table(), CLASSES)
    load_pretrain(network, folder / FILE, strict=True)
    return network.eval()
