"""An ONNX file of YOLOX, whose BatchNorm is folded, as weights that a training can start from.

    python benchmarks/trainable_weights.py yolox-nano-original yolox_nano.onnx IMAGES out.safetensors

`yoloflow train` refuses folded weights: in train mode BatchNorm would scale every map anew. Here each
BatchNorm is given the mean and the variance that its input has on images, and the scale and the shift that
undo them: the network computes what the file does, and trains. This is for the figures of docs/finetuning.md;
weights as they were trained are better.
"""

import argparse
import random
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from yoloflow.config.reader import load_config
from yoloflow.models import create_model
from yoloflow.models.unfolded import unfold
from yoloflow.weights.files import read_weights, save_weights
from yoloflow.weights.published import coco_names

SIZE, IMAGES, BATCH = 320, 96, 16


def read_square(path: Path) -> Tensor:
    """(3, SIZE, SIZE) uint8 RGB: the whole image, grey where it has no pixels."""
    image = cv2.imread(str(path))
    assert image is not None, path
    scale = SIZE / max(image.shape[:2])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    square = np.full((SIZE, SIZE, 3), 114, np.uint8)
    square[:height, :width] = cv2.resize(image, (width, height))
    return torch.from_numpy(square[..., ::-1].copy()).permute(2, 0, 1)


def measure_statistics(network: nn.Module, images: Tensor) -> dict[nn.BatchNorm2d, tuple[Tensor, Tensor]]:
    """Mean and variance of the input of each BatchNorm, by channel."""
    sums: dict[nn.Module, list[Tensor]] = {}

    def add(norm: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        values = inputs[0].double().movedim(1, 0).flatten(1)
        count = torch.tensor(values.shape[1], dtype=torch.float64)
        found = [count, values.sum(1), values.square().sum(1)]
        sums[norm] = [
            a + b for a, b in zip(sums.get(norm, [torch.zeros(()).double()] * 3), found, strict=True)
        ]

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for batch in images.split(BATCH):
        network(batch)
    for hook in hooks:
        hook.remove()
    statistics = {}
    for norm, (count, total, squares) in sums.items():
        assert isinstance(norm, nn.BatchNorm2d)
        mean = total / count
        statistics[norm] = mean, (squares / count - mean.square()).clamp(min=1e-8)
    return statistics


@torch.no_grad()
def give_statistics(network: nn.Module, images: Tensor) -> None:
    """Sets the running statistics of all BatchNorms to those of images; the network's function stays."""
    for norm, (mean, variance) in measure_statistics(network, images).items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("onnx", type=Path)
    parser.add_argument("images", type=Path, help="a folder")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    config = load_config(args.recipe)
    names = coco_names()
    network = create_model(config.network.model_name, config.network_table(), len(names)).eval()
    network.load_state_dict(unfold(network, read_weights(args.onnx).convolutions))
    paths = sorted(args.images.glob("*.jpg"))
    random.Random(0).shuffle(paths)
    images = torch.stack([read_square(path) for path in paths[:IMAGES]])
    with torch.no_grad():
        before = network(images[:2])[0]
        give_statistics(network, images)
        change = (network(images[:2])[0] - before).abs().max()
    save_weights(args.out, network.state_dict(), {"class_names": names, "licence": "Apache-2.0"})
    print(f"{args.out}: statistics of {len(images)} images; outputs differ by {change:.2g} at most")


if __name__ == "__main__":
    main()
