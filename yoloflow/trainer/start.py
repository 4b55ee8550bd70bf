"""The weights that a training starts from, and their running average."""

from __future__ import annotations

from torch import nn

from yoloflow.models.pretrain import freeze_layers, load_pretrain
from yoloflow.optim.ema import EMA
from yoloflow.run.checkpoint import newest_step
from yoloflow.run.folder import RunFolder
from yoloflow.trainer.settings import StartSettings


def start_weights(network: nn.Module, settings: StartSettings, run: RunFolder) -> EMA | None:
    """Loads the weights to start from, freezes layers, and makes the average.

    Args:
        network: on its device; changed in place.
        settings: name weights and layers.
        run: where it has a training state, that replaces the weights to start from.

    Returns:
        the average, or None where the settings want none.

    Raises:
        YoloflowError: weights or names of layers do not fit the network.
    """
    has_state = run.resumed and newest_step(run.weights) is not None
    if settings.weight is not None and not has_state:
        load_pretrain(network, settings.weight, settings.strict_load)
    freeze_layers(network, settings.freeze)
    if not settings.ema:
        return None
    if settings.ema_weight is None:
        return EMA(network, settings.ema_decay, settings.ema_tau)
    ema = EMA(network, settings.ema_decay, settings.ema_tau, updates=0)
    if not has_state:
        load_pretrain(ema.network, settings.ema_weight, settings.strict_load)
    return ema
