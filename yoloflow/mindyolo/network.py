"""Steps 1 and 3 in MindYOLO's words: network, its average, start weights, precision and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from yoloflow import losses, models
from yoloflow.losses import Loss
from yoloflow.mindyolo.refusal import refuse
from yoloflow.models.network import Network
from yoloflow.models.precision import AMP_LEVELS
from yoloflow.optim import ema as ours
from yoloflow.runtime.device import select_device
from yoloflow.structures import YoloflowError, nearest_names
from yoloflow.trainer.start import load_start

_AMP_LEVEL = "amp_level"
_TABLE, _OWN, _ORIGIN = "model_cfg", "own_keys", "origin"
_OWN_KEYS = ("variant", "device", "ema_decay", "ema_tau", "names")


def create_model(
    model_name: str,
    model_cfg: Mapping[str, Any] | None = None,
    in_channels: int = 3,
    num_classes: int = 80,
    checkpoint_path: str = "",
    sync_bn: bool = False,
) -> Network:
    """Builds a network from its layer table, on its device.

    Args:
        model_name: the family, such as "yolov8".
        model_cfg: the network section; its keys `variant` ("published" or "mindyolo"), `device` ("auto" or
            torch's name), `ema_decay` and `ema_tau` (for `EMA`), and `names` (of the classes) are ours.
        in_channels: 3 alone.
        num_classes: number of classes.
        checkpoint_path: weights to start from; "" for none.
        sync_bn: normalise over the joined batch of all ranks.

    Raises:
        YoloflowError: an argument that is refused, or a table that is not understood.
    """
    refuse(model_cfg is None, "model_cfg=None", "a network is built from its table; give args.network")
    refuse(in_channels != 3, f"in_channels={in_channels}", "images have 3 channels here")
    assert model_cfg is not None
    own = {key: value for key, value in model_cfg.items() if key in _OWN_KEYS}
    table = {key: value for key, value in model_cfg.items() if key not in _OWN_KEYS}
    variant = own.get("variant", "published")
    network = models.create_model(model_name, table, num_classes, sync_bn, checkpoint_path or None, variant)
    vars(network)[_TABLE] = {**table, "model_name": model_name}
    vars(network)[_OWN] = own
    return network.to(select_device(own.get("device", "auto")))


def sections_of(network: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the network section that a network of `create_model` was built from, and our keys of it."""
    table, own = vars(network).get(_TABLE), vars(network).get(_OWN)
    if not isinstance(table, dict) or not isinstance(own, dict):
        raise YoloflowError("network: make it with yoloflow.mindyolo.create_model")
    return dict(table), dict(own)


def class_names_of(network: nn.Module, known: Sequence[str]) -> list[str]:
    """Returns the names of a network's classes, where a data set may know them by their numbers alone.

    Args:
        network: of `create_model`.
        known: names in the data set.

    Raises:
        YoloflowError: the data set has more classes than the network.
    """
    count = int(vars(network)["num_classes"])
    refuse(
        len(known) > count,
        f"num_classes={count}",
        f"the data set has {len(known)} classes ({', '.join(known[:5])}, ...)",
    )
    if list(known) != [str(number) for number in range(len(known))]:
        return list(known)
    names = vars(network).get(_OWN, {}).get("names") or ()
    return list(names) if len(names) == count else [str(number) for number in range(count)]


class EMA(ours.EMA):
    """The running average of a network, kept in a second network that is given."""

    def __init__(
        self, model: nn.Module, ema_model: nn.Module, decay: float | None = None, updates: int = 0
    ) -> None:
        """Takes over the network's weights and buffers, which counts as an update.

        Args:
            model: the network that is trained.
            ema_model: another of the same table, which becomes the average.
            decay: limit of the kept part; None: the network section's `ema_decay`, else 0.9999.
            updates: where the counter starts.

        Raises:
            YoloflowError: the networks are not of one table.
        """
        own = vars(model).get(_OWN, {})
        limit = own.get("ema_decay", 0.9999) if decay is None else decay
        super().__init__(model, limit, own.get("ema_tau", 2000.0), updates + 1)
        state, other = self.network.state_dict(), ema_model.state_dict()
        is_fitting = {key: value.shape for key, value in state.items()} == {
            key: value.shape for key, value in other.items()
        }
        refuse(not is_fitting, "ema_model", "is not of the same table and classes as the network")
        ema_model.load_state_dict(state)
        self.network = ema_model.eval().requires_grad_(False)

    @property
    def ema(self) -> nn.Module:
        """Returns the averaged network."""
        return self.network

    def clone_from_model(self) -> None:
        """Takes over the network's weights and buffers as they are now."""
        self.network.load_state_dict(self._source.state_dict())


def load_pretrain(
    network: nn.Module,
    weight: str | None,
    ema: EMA | None = None,
    ema_weight: str | None = None,
    strict: bool | Literal["auto"] = "auto",
) -> None:
    """Loads start weights into a network and its average.

    Args:
        network: of `create_model`; takes the weights in place.
        weight: the file; "" or None for none.
        ema: takes `ema_weight`, or what the network has now.
        ema_weight: the file of the average; "" or None for none.
        strict: see `yoloflow.load_pretrain`.

    Raises:
        YoloflowError: a file does not fit, or `ema_weight` has no average to go to.
    """
    refuse(bool(ema_weight) and ema is None, f"ema_weight={ema_weight}", "there is no average; give ema")
    names = vars(network).get(_OWN, {}).get("names")
    if weight:
        vars(network)[_ORIGIN] = load_start(network, weight, strict, names)
    if ema is None:
        return
    if ema_weight:
        models.load_pretrain(ema.network, ema_weight, strict, names)
    else:
        ema.clone_from_model()


def origin_of(network: nn.Module) -> dict[str, Any] | None:
    """Returns the origin of the weights that `load_pretrain` loaded; None for random ones."""
    return vars(network).get(_ORIGIN)


def freeze_layers(network: Network, freeze: int | str | Sequence[int | str] = ()) -> list[str]:
    """Keeps parameters as they are in training.

    Args:
        network: of `create_model`.
        freeze: positions of rows, as MindYOLO counts them, also as words; or what our `freeze` takes.

    Returns:
        names of the frozen parameters.

    Raises:
        YoloflowError: there is no such row, or a pattern matches nothing.
    """
    if isinstance(freeze, int | str):
        return models.freeze_layers(network, freeze)
    return models.freeze_layers(network, [int(e) if str(e).isdecimal() else e for e in freeze])


def auto_mixed_precision(network: nn.Module, amp_level: str = "O0") -> None:
    """Notes the precision that a network or loss is computed in; `create_train_step_fn` and `test` follow it.

    Args:
        network: a network or a loss.
        amp_level: "O0" to "O3", see `yoloflow.auto_mixed_precision`.

    Raises:
        YoloflowError: unknown level.
    """
    if amp_level not in AMP_LEVELS:
        raise YoloflowError(f"amp_level={amp_level}: unknown; {nearest_names(str(amp_level), AMP_LEVELS)}")
    vars(network)[_AMP_LEVEL] = amp_level


def amp_level_of(module: nn.Module) -> str:
    """Returns the level that `auto_mixed_precision` noted; "O0" where it was not called."""
    return str(vars(module).get(_AMP_LEVEL, "O0"))


def create_loss(
    name: str,
    *,
    anchors: int | Sequence[Sequence[float]] | None = 1,
    stride: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    nc: int = 80,
    **hyper_parameters: Any,
) -> Loss:
    """Creates a loss by its name.

    Args:
        name: such as "YOLOv8Loss".
        anchors: the network's anchors, level by level; 1 or None where it has none.
        stride: pixels a cell, level by level.
        strides: YOLOX's name of it.
        nc: number of classes.
        **hyper_parameters: the loss's own, and ours: `variant`, `stages`. One that is None is left out.

    Raises:
        YoloflowError: unknown name or hyper-parameter, or a value of the wrong kind.
    """
    refuse((stride is None) == (strides is None), "stride", "give stride=args.network.stride")
    given = {key: value for key, value in hyper_parameters.items() if value is not None}
    found = losses.create_loss(name, anchors=anchors, stride=stride or strides or (), nc=nc, **given)
    rest = {key: value for key, value in given.items() if key != "variant"}
    vars(found)["section"] = {"name": name, **rest}
    return found


def section_of(loss: nn.Module) -> dict[str, Any]:
    """Returns the section that a loss of `create_loss` was made from."""
    section = vars(loss).get("section")
    if not isinstance(section, dict):
        raise YoloflowError("loss_fn: make it with yoloflow.mindyolo.create_loss")
    return section


def device_of(network: nn.Module) -> torch.device:
    """Returns the device that a network is on."""
    return next(network.parameters()).device
