"""The weights that a training starts from, and their running average."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from yoloflow.files import sha256_of
from yoloflow.models.pretrain import freeze_layers, load_pretrain
from yoloflow.optim.ema import EMA
from yoloflow.run.checkpoint import newest_step
from yoloflow.run.folder import RunFolder, find_weights
from yoloflow.structures import YoloflowError
from yoloflow.trainer.settings import StartSettings
from yoloflow.weights.published import weights_path

logger = logging.getLogger("yoloflow")


class Start(NamedTuple):
    """The average and the origin of the weights of a training.

    Attributes:
        ema: the average, or None where the settings want none.
        origin: file, SHA-256, licence and account of the weights, for `weights.json` of the run; None where
            they are random or of the run itself.
    """

    ema: EMA | None
    origin: dict[str, Any] | None


def start_weights(
    network: nn.Module, settings: StartSettings, run: RunFolder, class_names: Sequence[str]
) -> Start:
    """Loads the weights to start from, freezes layers, and makes the average.

    Args:
        network: on its device; changed in place.
        settings: name weights and layers.
        run: where it has a training state, that replaces the weights to start from.
        class_names: of the data; rows of classes with the same name are taken over.

    Raises:
        YoloflowError: weights or names of layers do not fit the network.
    """
    files = start_files(settings, run)
    origin = None
    if "weight" in files:
        origin = load_start(network, files["weight"], settings.strict_load, class_names)
    freeze_layers(network, settings.freeze)
    if not settings.ema:
        return Start(None, origin)
    if settings.ema_weight is None:
        return Start(EMA(network, settings.ema_decay, settings.ema_tau), origin)
    ema = EMA(network, settings.ema_decay, settings.ema_tau, updates=0)
    if "ema_weight" in files:
        load_pretrain(ema.network, files["ema_weight"], settings.strict_load, class_names)
    return Start(ema, origin)


def start_files(settings: StartSettings, run: RunFolder) -> dict[str, Path]:
    """Returns the weights files that a training starts from, by setting; none where it goes on."""
    if run.resumed and newest_step(run.weights) is not None:
        return {}
    stated = {"weight": settings.weight, "ema_weight": settings.ema_weight if settings.ema else None}
    return {key: _file(weight, settings.recipe) for key, weight in stated.items() if weight is not None}


def require_unfolded(path: str | Path, is_folded: bool) -> None:
    """Raises an error for weights with BatchNorm folded into their convolutions."""
    if is_folded:
        raise YoloflowError(
            f"{path}: the file has BatchNorm folded into its convolutions: good for `yoloflow test`, "
            "`predict` and `export`, but a training from it would learn little (AP 0.12 instead of 0.52 "
            "in five epochs). Take the weights as they were trained, or have BatchNorm's statistics measured "
            f"on your images: `yoloflow weights convert RECIPE new.safetensors weight={path} --images FOLDER`"
        )


def load_start(
    network: nn.Module, path: str | Path, strict: bool | Literal["auto"], class_names: Sequence[str] | None
) -> dict[str, Any]:
    """Loads weights to start from; returns their origin, see `Start`.

    Args:
        network: changed in place.
        path: the file.
        strict: see `load_pretrain`.
        class_names: of the data, likewise.

    Raises:
        YoloflowError: they do not fit, or have BatchNorm folded into their convolutions.
    """
    report = load_pretrain(network, path, strict, class_names)
    require_unfolded(path, report.is_folded)
    if strict is True and report.trimmed:
        raise YoloflowError(
            f"{path}: lacks {len(report.trimmed)} tensors that inference does not need, first "
            f"{report.trimmed[0]}; strict_load=auto begins them anew"
        )
    logger.info("%s", report.describe(path, network))
    return {"file": str(Path(path).absolute()), "sha256": sha256_of(path), **report.to_json()}


def _file(weight: str, recipe: str | None) -> Path:
    """Returns the weights file that a setting names: a file, a run folder, or "published"."""
    folder = Path(weight).expanduser()
    return find_weights(folder) if folder.is_dir() else weights_path(weight, recipe)
