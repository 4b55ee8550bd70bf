"""The network of a layer table, and `create_model` that makes it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from yoloflow.models.layers.contract import Foldable, Head, HeadOutput, Layer, Scaling
from yoloflow.models.layers.normalization import (
    EPS,
    MOMENTUM,
    frozen_norms,
    running_statistics_kept,
    synchronize_batch_norm,
)
from yoloflow.models.mindyolo import MINDYOLO_LAYERS, MindYOLOScaling
from yoloflow.models.pretrain import load_pretrain
from yoloflow.models.settings import Pixels
from yoloflow.models.table import IMAGES, BuiltRow, build_rows
from yoloflow.structures import YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

_TABLE_KEYS = {"backbone", "head", "depth_multiple", "width_multiple", "max_channels", "scale"}
_SETTING_KEYS = {"stride", "anchors", "reg_max", "recompute", "recompute_layers", "model_name", "pixels"}
_SETTING_KEYS |= {"norm_momentum", "norm_eps"}
# Keys of MindYOLO's files that its networks do not use either.
_UNUSED_KEYS = {"nc", "input_size", "verbose_log"}
_KNOWN_KEYS = _TABLE_KEYS | _SETTING_KEYS | _UNUSED_KEYS

Variant = Literal["published", "mindyolo"]


class TrainedParameters(list[nn.Parameter]):
    """The parameters of a network that are trained, with the network, whose layers say what each one is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(parameter for parameter in network.parameters() if parameter.requires_grad)
        self.network = network


class Network(nn.Module):
    """A network of rows of layers, each a child under its row's name, the head last.

    In train mode it returns the head's raw predictions, as the loss takes them. In eval mode it returns a
    tuple: the decoded predictions (B, N, 4 + scores) in input pixels, as `output_kind` says, and the raw.

    Attributes:
        model_name: the family's name.
        num_classes: C.
        pixels: what uint8 images are made into.
        stride: input pixels between cells, for each level.
        output_kind: what the decoded predictions hold.
        mindyolo_names: row name -> path of the row in MindYOLO's networks.
        num_backbone_rows: how many rows, from the first, are the table's backbone.
    """

    num_backbone_rows: int = 0

    def __init__(
        self,
        rows: Sequence[BuiltRow],
        model_name: str,
        num_classes: int,
        recompute_layers: int,
        pixels: Pixels = "rgb_unit",
    ) -> None:
        super().__init__()
        head = rows[-1].layer
        assert isinstance(head, Head)
        self.model_name = model_name
        self.num_classes = num_classes
        self.pixels = pixels
        self.stride: list[int] = list(head.stride)
        self.output_kind: HeadOutput = head.output_kind
        self.mindyolo_names = {row.name: f"model.model.{number}" for number, row in enumerate(rows)}
        self._recompute_layers = recompute_layers
        self._sources = [row.sources for row in rows]
        self._released = _last_uses(self._sources)
        for row in rows:
            if hasattr(self, row.name):
                raise YoloflowError(
                    f"network: a row cannot be called {row.name!r}, PyTorch or we use it; rename it"
                )
            self.add_module(row.name, row.layer)
        self._row_names = [row.name for row in rows]
        self._is_trimmed = False

    def forward(self, images: Tensor) -> Any:
        """Predict.

        Args:
            images: (B, 3, H, W) uint8 RGB, or floating point as the first row shall see it (see `pixels`); H
                and W are multiples of the largest stride.

        Returns:
            raw predictions in train mode; decoded predictions and raw ones in eval mode.
        """
        if not images.is_floating_point():
            images = images.float() / 255 if self.pixels == "rgb_unit" else images.flip(1).float()
        maps: dict[int, Any] = {IMAGES: images}
        for position, name in enumerate(self._row_names):
            layer = self.get_submodule(name)
            inputs = [maps[source] for source in self._sources[position]]
            maps[position] = self._run(position, layer, inputs)
            for source in self._released[position]:
                del maps[source]
        raw = maps[len(self._row_names) - 1]
        return raw if self.training else (self.head_layer.decode(raw), raw)

    def _run(self, position: int, layer: nn.Module, inputs: list[Tensor]) -> Any:
        several = isinstance(layer, Layer) and layer.takes_several
        argument = inputs if several else inputs[0]
        if position >= self._recompute_layers or not self.training or not torch.is_grad_enabled():
            return layer(argument)
        # No layer is random, and saving the generators' states would make the host wait for the device.
        recomputed = partial(checkpoint, layer, argument, use_reentrant=False, preserve_rng_state=False)
        # A compiled graph updates running statistics once of its own.
        if torch.compiler.is_compiling():
            return recomputed()
        # The contexts of the first run, and of its repetition in the backward pass.
        return recomputed(context_fn=lambda: (nullcontext(), running_statistics_kept(layer)))

    @property
    def head_layer(self) -> Head:
        """Returns the last row's layer."""
        head = self.get_submodule(self._row_names[-1])
        assert isinstance(head, Head)
        return head

    @property
    def head_inputs(self) -> list[str]:
        """Returns the names of the rows that the head takes, in its order."""
        return [self._row_names[source] for source in self._sources[-1]]

    def train(self, mode: bool = True) -> Network:
        """Sets the mode; a BatchNorm none of whose parameters is trained stays in eval mode."""
        super().train(mode)
        for norm in frozen_norms(self):
            norm.eval()
        return self

    def trainable_params(self) -> TrainedParameters:
        """Returns the parameters that are trained."""
        return TrainedParameters(self)

    def fuse(self) -> Network:
        """Returns a copy for inference without training-only parts, BatchNorms folded into convolutions."""
        fused = copy.deepcopy(self).requires_grad_(False).eval()
        if not fused._is_trimmed:
            fused._trim()
        for module in list(fused.modules()):
            if isinstance(module, Foldable):
                module.fold_norm()
        return fused

    def inference_part(self) -> tuple[list[str], set[str]]:
        """Returns the names of the rows that inference needs, and of the tensors that only training does."""
        head_name = self._row_names[-1]
        head = copy.deepcopy(self.head_layer)
        needed = self._needed_rows(head.trim(len(self._sources[-1])))
        rows = [self._row_names[position] for position in sorted(needed)]
        kept = {f"{head_name}.{name}" for name in head.state_dict()}
        return rows, {
            name
            for name in self.state_dict()
            if name.partition(".")[0] not in rows or (name.startswith(f"{head_name}.") and name not in kept)
        }

    def _needed_rows(self, head_inputs: Sequence[int]) -> set[int]:
        """Returns the positions of the rows that feed a head which takes some of its inputs, and its own."""
        last = len(self._row_names) - 1
        needed = {last, *(self._sources[last][position] for position in head_inputs)}
        for position in reversed(range(last)):
            if position in needed:
                needed.update(self._sources[position])
        return needed - {IMAGES}

    def _trim(self) -> None:
        """Drop the training-only parts of the head, and the rows that fed nothing else."""
        self._is_trimmed = True
        kept_inputs = self.head_layer.trim(len(self._sources[-1]))
        needed = self._needed_rows(kept_inputs)
        self._sources[-1] = tuple(self._sources[-1][position] for position in kept_inputs)
        kept = sorted(needed)
        moved = {position: number for number, position in enumerate(kept)} | {IMAGES: IMAGES}
        for position, name in enumerate(self._row_names):
            if position not in needed:
                delattr(self, name)
        self._row_names = [self._row_names[position] for position in kept]
        self._sources = [tuple(moved[source] for source in self._sources[position]) for position in kept]
        self._released = _last_uses(self._sources)


def create_model(
    model_name: str,
    model_cfg: Mapping[str, Any],
    num_classes: int,
    sync_bn: bool = False,
    checkpoint_path: str | Path | None = None,
    variant: Variant = "published",
) -> Network:
    """Build a network from its layer table.

    Args:
        model_name: the family, such as "yolov8".
        model_cfg: the config's network section: `backbone` and `head` (see `models/table.py`),
            `depth_multiple`, `width_multiple`, `max_channels`, `stride` and what else the rows' words name;
            `pixels`, see `Pixels`; `norm_momentum` and `norm_eps` of all BatchNorms;
            `recompute` with `recompute_layers` = N trades time for memory: the first N rows keep no
            activations in training.
        num_classes: C, what the rows' word `nc` means.
        sync_bn: normalise over the joined batch of all ranks.
        checkpoint_path: weights to start from, see `load_pretrain`.
        variant: "published" follows the papers and originals, "mindyolo" the reference where it deviates.

    Returns:
        the network, in train mode, on the CPU (or on the device of a surrounding `with torch.device(...)`).

    Raises:
        YoloflowError: a key or a row is not understood; the message names it.
    """
    settings = _check_settings(model_name, model_cfg, num_classes, variant)
    deviations = (MINDYOLO_LAYERS, MindYOLOScaling) if variant == "mindyolo" else ({}, Scaling)
    rows = build_rows(settings, num_classes, *deviations)
    recompute_layers = _recompute_layers(settings, len(rows))
    network = Network(rows, model_name, num_classes, recompute_layers, settings.get("pixels", "rgb_unit"))
    network.num_backbone_rows = len(settings["backbone"])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = settings.get("norm_momentum", MOMENTUM)
            module.eps = settings.get("norm_eps", EPS)
    if sync_bn:
        synchronize_batch_norm(network)
    if checkpoint_path is not None:
        load_pretrain(network, checkpoint_path)
    return network


def _check_settings(
    model_name: str, model_cfg: Mapping[str, Any], num_classes: int, variant: str
) -> dict[str, Any]:
    """Checks everything that is not a row; returns the network section without its empty keys."""
    for key in model_cfg:
        if key not in _KNOWN_KEYS:
            raise YoloflowError(f"network.{key}: unknown key; {nearest_names(key, _KNOWN_KEYS)}")
    settings = {key: value for key, value in model_cfg.items() if value is not None}
    if settings.get("model_name", model_name) != model_name:
        raise YoloflowError(
            f"network.model_name is {settings['model_name']!r}, but the network asked for is {model_name!r}"
        )
    if variant not in get_args(Variant):
        raise YoloflowError(f"variant={variant!r}: {nearest_names(variant, get_args(Variant))}")
    if (pixels := settings.get("pixels", "rgb_unit")) not in get_args(Pixels):
        raise YoloflowError(f"network.pixels={pixels!r}: {nearest_names(str(pixels), get_args(Pixels))}")
    if num_classes < 1:
        raise YoloflowError(f"num_classes must be 1 or more, found {num_classes}")
    if settings.get("nc", num_classes) != num_classes:
        logger.warning("network.nc = %s is not used: the data has %d classes", settings["nc"], num_classes)
    for key in ("depth_multiple", "width_multiple", "max_channels"):
        value = settings.get(key, 1)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise YoloflowError(f"network.{key}: must be a number above 0, found {value!r}")
    return settings


def _recompute_layers(settings: Mapping[str, Any], num_rows: int) -> int:
    layers = settings.get("recompute_layers", 0)
    if not settings.get("recompute", False):
        return 0
    if not isinstance(layers, int) or not 1 <= layers <= num_rows:
        raise YoloflowError(
            f"network.recompute_layers: with recompute on it must be 1 to {num_rows} (rows), found {layers!r}"
        )
    return layers


def _last_uses(sources: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Returns, for each row, the maps that no later row takes."""
    last = {source: position for position, entry in enumerate(sources) for source in entry}
    return [[source for source, user in last.items() if user == position] for position in range(len(sources))]
