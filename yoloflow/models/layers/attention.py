"""Self-attention over the cells of a map (YOLOv10, Wang et al. 2024, section 3.2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloflow.models.layers.contract import Layer, LayerRow
from yoloflow.models.layers.convolution import ConvNormAct

HEAD_CHANNELS = 64


class Attention(nn.Module):
    """Multi-head attention with keys of half the width, and a depthwise convolution as position.

    Args:
        channels: C, taken and given.
        num_heads: H.
    """

    mindyolo_names: ClassVar[dict[str, str]] = {"position": "pe", "project": "proj"}

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.value_width = channels // num_heads
        self.key_width = self.value_width // 2
        self.qkv = ConvNormAct(channels, channels + 2 * self.key_width * num_heads, act=False)
        self.project = ConvNormAct(channels, channels, act=False)
        self.position = ConvNormAct(channels, channels, 3, groups=channels, act=False)

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        batch, channels, height, width = features.shape
        widths = (self.key_width, self.key_width, self.value_width)
        merged = self.qkv(features).view(batch, self.num_heads, sum(widths), height * width)
        query, key, value = merged.split(widths, 2)
        weights = (query.transpose(-2, -1) @ key * self.key_width**-0.5).softmax(-1)
        shape = (batch, channels, height, width)
        attended = (value @ weights.transpose(-2, -1)).view(shape)
        return self.project(attended + self.position(value.reshape(shape)))


class AttentionBlock(nn.Module):
    """Attention and two 1x1 convolutions, each added to its input."""

    mindyolo_names: ClassVar[dict[str, str]] = {"attention": "attn", "feed_forward": "ffn"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Narrow networks, as tests have them, keep one head.
        self.attention = Attention(channels, max(channels // HEAD_CHANNELS, 1))
        self.feed_forward = nn.Sequential(
            ConvNormAct(channels, 2 * channels), ConvNormAct(2 * channels, channels, act=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        features = features + self.attention(features)
        result: Tensor = features + self.feed_forward(features)
        return result


class PSA(Layer):
    """Partial self-attention: a block of attention on half of the channels (YOLOv10, figure 3c)."""

    mindyolo_names = {"split": "cv1", "merge": "cv2", "block": ""}

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.split = ConvNormAct(channels, 2 * hidden)
        self.merge = ConvNormAct(2 * hidden, channels)
        self.block: nn.Module = AttentionBlock(hidden)

    @classmethod
    def from_row(cls, row: LayerRow, channels: int) -> PSA:
        """Takes the row arguments channels (scaled; those it takes).

        Raises:
            ValueError: it takes another number of channels.
        """
        return cls(row.kept_channels(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        side, main = self.split(features).chunk(2, 1)
        return self.merge(torch.cat((side, self.block(main)), 1))


class C2PSA(PSA):
    """Several blocks of attention on half of the channels (YOLOv11)."""

    takes_repeats = True
    mindyolo_names = {"split": "cv1", "merge": "cv2", "block": "m"}

    def __init__(self, channels: int, repeats: int = 1) -> None:
        super().__init__(channels)
        self.block = nn.Sequential(*(AttentionBlock(channels // 2) for _ in range(repeats)))

    @classmethod
    def from_row(cls, row: LayerRow, channels: int) -> C2PSA:
        """Takes the row arguments channels (scaled; those it takes).

        Raises:
            ValueError: it takes another number of channels.
        """
        return cls(row.kept_channels(channels), row.repeats)
