"""Darknet's YOLOv3 and YOLOv4, written from its .cfg files: layers by number, values read in their order.

Nothing of yoloflow is used. Sources: cfg/yolov3.cfg and cfg/yolov4.cfg of github.com/AlexeyAB/darknet (public
domain), its parser.c (load_weights) and yolo_layer.c (get_yolo_box).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

V3_ANCHORS = [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)]
V4_ANCHORS = [(12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401)]


@dataclass(frozen=True)
class Section:
    """A section of a .cfg file.

    Attributes:
        kind: convolutional, shortcut, route, upsample, maxpool or yolo.
        filters: output channels, of a convolution; 0 for those of the outputs.
        size: side of the kernel.
        stride: step of the kernel.
        activation: mish, leaky or linear.
        layers: of a route or shortcut, relative if negative; the mask of a yolo layer.
        scale_x_y: of a yolo layer.
        is_normalized: batch_normalize=1.
    """

    kind: str
    filters: int = 0
    size: int = 1
    stride: int = 1
    activation: str = "linear"
    layers: tuple[int, ...] = ()
    scale_x_y: float = 1.0
    is_normalized: bool = True


def conv(filters: int, size: int = 1, stride: int = 1, activation: str = "leaky") -> Section:
    return Section("convolutional", filters, size, stride, activation)


def route(*layers: int) -> Section:
    return Section("route", layers=layers)


def mish(*sections: Section) -> list[Section]:
    return [
        replace(section, activation="mish") if section.kind == "convolutional" else section
        for section in sections
    ]


SHORTCUT = Section("shortcut", layers=(-3,))
UPSAMPLE = Section("upsample", stride=2)


def output(mask: tuple[int, ...], scale_x_y: float = 1.0) -> list[Section]:
    return [
        Section("convolutional", is_normalized=False),
        Section("yolo", layers=mask, scale_x_y=scale_x_y),
    ]


def yolov3() -> list[Section]:
    """The sections of yolov3.cfg."""
    found = [conv(32, 3)]
    for channels, number in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        found += [conv(channels, 3, 2), *[conv(channels // 2), conv(channels, 3), SHORTCUT] * number]
    found += [conv(512), conv(1024, 3)] * 3 + output((6, 7, 8))
    found += [route(-4), conv(256), UPSAMPLE, route(-1, 61)]
    found += [conv(256), conv(512, 3)] * 3 + output((3, 4, 5))
    found += [route(-4), conv(128), UPSAMPLE, route(-1, 36)]
    found += [conv(128), conv(256, 3)] * 3 + output((0, 1, 2))
    return found


def yolov4() -> list[Section]:
    """The sections of yolov4.cfg."""
    found = mish(conv(32, 3), conv(64, 3, 2), conv(64), route(-2), conv(64), conv(32), conv(64, 3), SHORTCUT)
    found += mish(conv(64), route(-1, -7), conv(64))
    for channels, number, back in ((128, 2, -10), (256, 8, -28), (512, 8, -28), (1024, 4, -16)):
        half = channels // 2
        found += mish(conv(channels, 3, 2), conv(half), route(-2), conv(half))
        found += mish(conv(half), conv(half, 3), SHORTCUT) * number
        found += mish(conv(half), route(-1, back), conv(channels))
    pools = [Section("maxpool", size=size) for size in (5, 9, 13)]
    found += [conv(512), conv(1024, 3), conv(512)]
    found += [pools[0], route(-2), pools[1], route(-4), pools[2], route(-1, -3, -5, -6)]
    found += [conv(512), conv(1024, 3), conv(512)]
    found += [conv(256), UPSAMPLE, route(85), conv(256), route(-1, -3)]
    found += [conv(256), conv(512, 3), conv(256), conv(512, 3), conv(256)]
    found += [conv(128), UPSAMPLE, route(54), conv(128), route(-1, -3)]
    found += [conv(128), conv(256, 3), conv(128), conv(256, 3), conv(128)]
    found += [conv(256, 3), *output((0, 1, 2), 1.2)]
    found += [route(-4), conv(256, 3, 2), route(-1, -16), *[conv(256), conv(512, 3)] * 3]
    found += output((3, 4, 5), 1.1)
    found += [route(-4), conv(512, 3, 2), route(-1, -37), *[conv(512), conv(1024, 3)] * 3]
    found += output((6, 7, 8), 1.05)
    return found


class Darknet:
    """A network of sections, with random values.

    Args:
        sections: of the .cfg file.
        anchors: (w, h) in pixels, all of them, as the file has them.
        classes: C.
        width: factor on the channels.
        seed: of the values.
    """

    def __init__(
        self, sections: list[Section], anchors: list[tuple[int, int]], classes: int, width: float, seed: int
    ) -> None:
        self.anchors = anchors
        chance = np.random.default_rng(seed)
        self.sections = [
            replace(
                section, filters=int(section.filters * width) if section.is_normalized else 3 * (5 + classes)
            )
            for section in sections
        ]
        self.values: list[dict[str, np.ndarray]] = []
        channels = [3]
        for number, section in enumerate(self.sections):
            before = channels[number]
            sources = [layer if layer >= 0 else number + layer for layer in section.layers]
            self.values.append({})
            if section.kind == "convolutional":
                self.values[-1] = self._random(chance, section, before)
                channels.append(section.filters)
            elif section.kind == "route":
                channels.append(sum(channels[source + 1] for source in sources))
            else:
                channels.append(before)

    @staticmethod
    def _random(chance: np.random.Generator, section: Section, in_channels: int) -> dict[str, np.ndarray]:
        out, fan = section.filters, in_channels * section.size**2

        def normal(scale: float, *shape: int) -> np.ndarray:
            return chance.standard_normal(shape, np.float32) * np.float32(scale)

        def uniform(low: float, high: float) -> np.ndarray:
            return chance.uniform(low, high, out).astype(np.float32)

        kernel = normal(0.3 * fan**-0.5, out, in_channels, section.size, section.size)
        if not section.is_normalized:
            return {"biases": normal(0.5, out), "weights": kernel}
        return {
            "biases": normal(0.3, out),
            "scales": uniform(0.7, 1.4),
            "mean": normal(0.2, out),
            # Small ones show which epsilon is added.
            "variance": uniform(0.01, 1.0),
            "weights": kernel,
        }

    @property
    def numel(self) -> int:
        """The number of values."""
        return sum(part.size for layer in self.values for part in layer.values())

    def write(self, minor: int = 2, seen: int = 32_013_312) -> bytes:
        """The .weights file."""
        header = struct.pack("<3i", 0, minor, 0) + struct.pack("<Q" if minor >= 2 else "<I", seen)
        parts = [part.astype("<f4").tobytes() for layer in self.values for part in layer.values()]
        return header + b"".join(parts)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, N, 5 + C): cx, cy, w, h in pixels, then scores; the coarsest level first."""
        maps: list[Tensor] = []
        found: dict[int, Tensor] = {}
        features = images
        for number, (section, layer) in enumerate(zip(self.sections, self.values, strict=True)):
            sources = [index if index >= 0 else number + index for index in section.layers]
            values = {name: torch.from_numpy(part) for name, part in layer.items()}
            if section.kind == "convolutional":
                features = convolved(features, section, values)
            elif section.kind == "shortcut":
                features = features + maps[sources[0]]
            elif section.kind == "route":
                features = torch.cat([maps[source] for source in sources], 1)
            elif section.kind == "upsample":
                features = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
            elif section.kind == "maxpool":
                features = functional.max_pool2d(features, section.size, 1, section.size // 2)
            else:
                stride = images.shape[-1] // features.shape[-1]
                found[stride] = self._boxes(features, section, stride)
            maps.append(features)
        return torch.cat([found[stride] for stride in sorted(found, reverse=True)], 1)

    def _boxes(self, features: Tensor, section: Section, stride: int) -> Tensor:
        batch, _, height, width = features.shape
        rows = []
        for place, anchor in enumerate(section.layers):
            size = features.shape[1] // 3
            raw = features[:, place * size : (place + 1) * size]
            shift = (section.scale_x_y - 1) / 2
            column, row = torch.arange(width), torch.arange(height)[:, None]
            cx = (raw[:, 0].sigmoid() * section.scale_x_y - shift + column) * stride
            cy = (raw[:, 1].sigmoid() * section.scale_x_y - shift + row) * stride
            w, h = raw[:, 2].exp() * self.anchors[anchor][0], raw[:, 3].exp() * self.anchors[anchor][1]
            rows.append(torch.cat((torch.stack((cx, cy, w, h), 1), raw[:, 4:].sigmoid()), 1))
        return torch.stack(rows, -1).permute(0, 2, 3, 4, 1).reshape(batch, height * width * len(rows), -1)


def convolved(features: Tensor, section: Section, values: dict[str, Tensor]) -> Tensor:
    """A convolutional layer: kernel, normalisation, bias, activation."""
    features = functional.conv2d(
        features, values["weights"], stride=section.stride, padding=section.size // 2
    )
    shape = (1, -1, 1, 1)
    if section.is_normalized:
        deviation = torch.sqrt(values["variance"] + 0.00001)
        features = (features - values["mean"].view(shape)) / deviation.view(shape)
        features = features * values["scales"].view(shape)
    features = features + values["biases"].view(shape)
    if section.activation == "leaky":
        return torch.where(features > 0, features, 0.1 * features)
    if section.activation == "mish":
        return features * torch.tanh(torch.log1p(torch.exp(features)))
    return features
