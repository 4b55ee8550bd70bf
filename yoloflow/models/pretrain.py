"""Loading weights into a network, with an account of every key; and freezing parameters."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yoloflow.models.class_rows import ClassFit, fit_classes
from yoloflow.models.darknet import name_values
from yoloflow.models.layers.contract import neutral_tensors
from yoloflow.models.unfolded import is_folded, unfold, with_norms
from yoloflow.parameter_choice import choose_parameters
from yoloflow.structures import YoloflowError
from yoloflow.weights.dialects import Translated, describe_kind, translate
from yoloflow.weights.files import WeightsFile, read_weights

logger = logging.getLogger("yoloflow")

_COUNTER = "num_batches_tracked"
_NAMED = 10
"""Keys of each kind that a message names."""


class WeightsMismatchError(YoloflowError):
    """The error of a weights file that is of another network; `path` is the file."""

    def __init__(self, path: str | Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


@dataclass(slots=True)
class LoadReport:
    """An account of every key of a weights file and of the network.

    Attributes:
        loaded: keys taken over.
        partly: keys whose rows of boxes, objectness and `kept_classes` are the file's, the others new.
        anew: keys that stay as they were, because their width follows the number of classes.
        trimmed: keys of parts that inference does not need, which the file lacks as a whole: they stay as
            they were, or are set to be without effect where they would have one.
        missing: keys of the network that the file lacks.
        unexpected: keys of the file that the network lacks.
        misshaped: keys of both, with different shapes; "key: shape in the file, shape in the network".
        constants: constants of both, such as anchors, that differ; "key: value in the file, value here".
        kept_classes: classes whose rows are the file's, where `partly` is not empty.
        dialect: whose names the file has; "" for a file without names.
        format: of the file.
        class_names: the file's classes; None where it does not say them.
        licence: as the file states it; None where it states none.
        producer: of the file, "" where it does not say.
        is_folded: whether the file has BatchNorm folded into its convolutions: it serves evaluation alone.
    """

    loaded: list[str] = field(default_factory=list)
    partly: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    trimmed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    kept_classes: list[str] = field(default_factory=list)
    dialect: str = ""
    format: str = ""
    class_names: list[str] | None = None
    licence: str | None = None
    producer: str = ""
    is_folded: bool = False

    def describe(self, path: str | Path, network: nn.Module) -> str:
        """Returns what was taken over of a file and what begins anew, in a few lines."""
        state = network.state_dict()
        whole = sum(tensor.numel() for tensor in state.values())
        taken = sum(state[key].numel() for key in self.loaded)
        said = [
            f"{path}: {self.format}, " + (f"names of {self.dialect}" if self.dialect else "layers in order")
        ]
        said += [self.producer] if self.producer else []
        said += [f"{len(self.class_names)} classes"] if self.class_names else []
        said += [f"licence as the file states it: {self.licence}"] if self.licence else []
        lines = [
            "; ".join(said),
            f"  taken over {len(self.loaded)} tensors, {taken / whole:.0%} of the values",
        ]
        if self.partly:
            kept = f", and the classes {', '.join(self.kept_classes)}" if self.kept_classes else ""
            lines.append(f"  in part    {len(self.partly)} class outputs: boxes and objectness{kept}")
        if self.anew:
            lines.append(f"  begun anew {len(self.anew)} tensors, which depend on the number of classes")
        if self.trimmed:
            lines.append(
                f"  begun anew {len(self.trimmed)} tensors, which inference does not need and the file lacks"
            )
        if (self.partly or self.anew) and not self.faults():
            lines.append(
                "  this is what should happen for other classes: nothing else is missing or left over"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Returns the account as plain data, for the run's `weights.json`."""
        return {**asdict(self), "loaded": len(self.loaded)}

    def faults(self) -> str:
        """Returns a line for each key that was not taken over and should be, "" where there is none."""
        kinds = (
            ("missing in the file", self.missing),
            ("not in the network", self.unexpected),
            ("shape", self.misshaped),
            ("constant", self.constants),
        )
        lines = []
        for kind, keys in kinds:
            lines += [f"\n  {kind}: {key}" for key in keys[:_NAMED]]
            if len(keys) > _NAMED:
                lines.append(f"\n  {kind}: {len(keys) - _NAMED} more")
        return "".join(lines)


def load_pretrain(
    network: nn.Module,
    path: str | Path,
    strict: bool | Literal["auto"] = "auto",
    class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Loads the weights of a file into a network; nothing is changed unless it succeeds.

    Args:
        network: takes the weights in place.
        path: a file of any format that `read_weights` reads; the names of MindYOLO's networks, of the
            original repositories with numbered rows, and of YOLOX are translated.
        strict: "auto": only what depends on the classes may differ (see `fit_classes`); True: refuse the file
            unless all keys and shapes agree; False: the keys that agree are taken over, the others are named
            in the log.
        class_names: the network's classes; None where they are not known.

    Returns:
        the account of every key.

    Raises:
        YoloflowError: the file is not readable, does not fit, has a value that is not finite, or nothing in
            it fits.
    """
    report, weights = _fitted(network, path, strict, class_names)
    state = network.state_dict()
    if strict is False and (faults := report.faults()):
        logger.warning("%s: %d of %d keys taken over:%s", path, len(report.loaded), len(state), faults)
    with torch.no_grad():
        for key in (*report.loaded, *report.partly):
            state[key].copy_(weights[key])
        for key, value in neutral_tensors(network).items():
            if key in report.trimmed:
                state[key].fill_(value)
    return report


def check_pretrain(network: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Raises the errors of `load_pretrain`, the classes left aside; nothing is loaded.

    Args:
        network: of any number of classes; may be without values, on the device "meta".
        path: see `load_pretrain`.
        strict: whether all but the classes must fit; else it is enough that something does.

    Returns:
        the account of every key.

    Raises:
        YoloflowError: see `load_pretrain`.
    """
    return _fitted(network, path, "auto" if strict else False, None)[0]


def _fitted(
    network: nn.Module,
    path: str | Path,
    strict: bool | Literal["auto"],
    class_names: Sequence[str] | None,
) -> tuple[LoadReport, Mapping[str, Tensor]]:
    """Returns the account of a file, and its weights as they fit a network; raises where they do not."""
    file = read_weights(path)
    try:
        found = _by_our_names(network, file)
    except YoloflowError as error:
        raise WeightsMismatchError(path, str(error)) from error
    _require_finite(path, found.tensors, found.file_names)
    fit = ClassFit(found.tensors)
    if strict is not True:
        fit = fit_classes(network, found.tensors, file.class_names, class_names)
    has_names = not file.convolutions and file.values is None
    report = LoadReport(
        partly=fit.partly,
        anew=fit.anew,
        kept_classes=fit.kept_classes,
        unexpected=found.unexpected,
        constants=found.constants,
        dialect=found.dialect if has_names else "",
        format=file.format,
        class_names=file.class_names,
        licence=file.licence,
        producer=file.producer,
        is_folded=is_folded(network, found.tensors),
    )
    _account(report, fit.weights, network)
    faults = report.faults()
    if not report.loaded:
        raise WeightsMismatchError(path, f"none of its {len(found.tensors)} keys fits the network:{faults}")
    if faults and strict is not False:
        kind = describe_kind(file.tensors)
        raise WeightsMismatchError(
            path,
            f"does not fit the network; strict_load=false takes over the {len(report.loaded)} keys that do:"
            f"{faults}" + (f"\n  {kind}" if kind else ""),
        )
    return report, fit.weights


def _by_our_names(network: nn.Module, file: WeightsFile) -> Translated:
    """Gives the tensors of a file the names of a network."""
    if file.convolutions:
        return translate(network, unfold(network, file.convolutions))
    if file.values is not None:
        return translate(network, name_values(network, file.values))
    found = translate(network, file.tensors)
    fused = [name for name in found.unexpected if name.endswith("conv.bias") and name in file.tensors]
    return translate(network, with_norms(file.tensors, fused)) if fused else found


def fits_but_for_classes(network: nn.Module, file: WeightsFile) -> bool:
    """Returns whether a network has all tensors of a file, in shape too, those of its classes left aside."""
    try:
        found = _by_our_names(network, file)
    except YoloflowError:
        return False
    fit = fit_classes(network, found.tensors, None, None)
    report = LoadReport(partly=fit.partly, anew=fit.anew, unexpected=found.unexpected)
    _account(report, fit.weights, network)
    return not report.faults()


def _account(report: LoadReport, weights: Mapping[str, Tensor], network: nn.Module) -> None:
    """Sorts all keys of the network into the report."""
    state = network.state_dict()
    report.trimmed = _trimmed(network, [key for key in state if key not in weights])
    adapted = {*report.partly, *report.anew, *report.trimmed}
    for key, own in state.items():
        if key in adapted:
            continue
        if key not in weights:
            if not key.endswith(_COUNTER):  # other projects do not count batches, and nothing here reads it
                report.missing.append(key)
        elif weights[key].shape != own.shape:
            report.misshaped.append(
                f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own.shape)} here"
            )
        else:
            report.loaded.append(key)


def _trimmed(network: nn.Module, missing: Sequence[str]) -> list[str]:
    """Returns those of the missing keys that a file for inference lacks: all of them are missing, or none."""
    if not missing or not hasattr(network, "inference_part"):
        return []
    parts = [network.inference_part()[1], set(neutral_tensors(network))]  # type: ignore[operator]
    lacking = set[str]().union(*(part for part in parts if part <= set(missing)))
    return [key for key in missing if key in lacking and not key.endswith(_COUNTER)]


def _require_finite(path: str | Path, tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Raises an error where a value of the file is not finite: a training from it could not succeed."""
    bad = [
        names[key]
        for key, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if bad:
        raise YoloflowError(
            f"{path}: {len(bad)} of its tensors hold NaN or infinity, first {bad[0]}; take an earlier file"
        )


def freeze_layers(network: nn.Module, freeze: int | str | Sequence[int | str]) -> list[str]:
    """Keeps parameters as they are in training.

    A BatchNorm with all its parameters frozen keeps its running statistics as well, and normalises with them.

    Args:
        network: a network of `create_model`.
        freeze: so many rows from the first; "backbone"; a shell pattern of parameter names, such as "stem.*"
            or "*.bn.weight"; or a list of patterns, "backbone" and positions of rows from 0.

    Returns:
        names of the frozen parameters.

    Raises:
        YoloflowError: a pattern matches no parameter, or there are fewer rows.
    """
    rows = list(network.children())
    if isinstance(freeze, int) and freeze > len(rows):
        raise YoloflowError(f"freeze={freeze}: the network has {len(rows)} rows")
    entries = range(freeze) if isinstance(freeze, int) else [freeze] if isinstance(freeze, str) else freeze
    frozen = {name for entry in entries for name in choose_parameters(network, entry, "freeze")}
    for name in frozen:
        network.get_parameter(name).requires_grad_(False)
    network.train(network.training)
    return [name for name, _ in network.named_parameters() if name in frozen]
