"""The export flow: trained weights in; an ONNX file that says how to use it out."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloflow.config.reader import dump_config, load_config
from yoloflow.config.schema import Config
from yoloflow.detector import class_names, input_size, load_network
from yoloflow.models import Network
from yoloflow.models.exported import (
    EXPORT_SUFFIX,
    METADATA_KEY,
    ExportedInfo,
    ExportedNetwork,
    require_packages,
)
from yoloflow.run.folder import find_weights
from yoloflow.structures import YoloflowError

logger = logging.getLogger("yoloflow")

TOLERANCE = 1e-4
"""Largest deviation of onnxruntime from torch that is accepted, see `ExportSummary.deviation`."""


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """The outcome of `export`.

    Attributes:
        path: the file.
        info: what it says about itself.
        deviation: largest of onnxruntime from torch on two test images: of a score, or of a box as a share of
            the input's side (or of its own size where it is larger).
        seconds: wall time.
    """

    path: Path
    info: ExportedInfo
    deviation: float
    seconds: float


def export(
    run_or_recipe: str,
    overrides: Sequence[str] = (),
    *,
    weight: str | None = None,
    out: str | Path | None = None,
    img_size: int | None = None,
) -> ExportSummary:
    """Writes a network as an ONNX file, and checks that onnxruntime predicts with it what torch predicts.

    The file takes uint8 RGB images (B, 3, img_size, img_size), any B, and gives decoded predictions.

    Args:
        run_or_recipe: a run folder, a recipe's name or a YAML file.
        overrides: `key=value` texts over its settings.
        weight: weights file; None takes the run's best (averaged where there is an average).
        out: the file; None puts it beside the weights.
        img_size: side of the network input in pixels; None takes the settings'.

    Raises:
        YoloflowError: a package is missing, there are no weights or class names, or the check fails.
    """
    require_packages(("onnx", "onnxscript", "onnxruntime"), "export")
    start = time.monotonic()

    # 1. The network, fused
    config = load_config(run_or_recipe, overrides)
    weight_path = Path(weight or find_weights(Path(run_or_recipe)))
    names = class_names(Path(run_or_recipe), config)
    network = load_network(config, len(names), weight_path)
    fused = network.fuse()

    # 2. The description inside the file
    size = input_size(config, network, img_size)
    info = _describe(config, fused, names, size)

    # 3. The file, once it is checked to predict the same
    path = Path(out) if out is not None else weight_path.with_suffix(EXPORT_SUFFIX)
    if path.suffix != EXPORT_SUFFIX:
        raise YoloflowError(f"{path}: exported networks are {EXPORT_SUFFIX} files")
    deviation = _write_checked(fused, info, path)
    summary = ExportSummary(path, info, deviation, time.monotonic() - start)
    logger.info(
        "%s: %.1f MB, %d classes, %d px; onnxruntime deviates from torch by %.1e at most (%.0f s)",
        *(path, path.stat().st_size / 1e6, len(names), size, deviation, summary.seconds),
    )
    return summary


def _write_checked(network: Network, info: ExportedInfo, path: Path) -> float:
    """Writes the file once it is known to predict the same; returns the deviation."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{EXPORT_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(network, info, partial)
        deviation = _deviation(network, ExportedNetwork(partial), info.img_size)
        if deviation > TOLERANCE:
            raise YoloflowError(
                f"{path}: onnxruntime deviates from torch by {deviation:.1e} (allowed: {TOLERANCE})"
            )
        partial.replace(path)
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
    return deviation


class _Prediction(nn.Module):
    """A network whose output is the decoded prediction alone."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images to predictions."""
        prediction: Tensor = self.network(images)[0]
        return prediction


def _write(network: Network, info: ExportedInfo, path: Path) -> None:
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, 3, info.img_size, info.img_size, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        program = torch.onnx.export(
            _Prediction(network).eval(),
            (images,),
            input_names=["images"],
            output_names=["predictions"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[METADATA_KEY] = info.to_text()
    program.save(path)


def _describe(config: Config, network: Network, names: list[str], size: int) -> ExportedInfo:
    kind = network.output_kind
    meaning = "centre x, centre y, width, height in input pixels"
    meaning += ", objectness" if kind.has_objectness else ""
    meaning = f"(B, N, ...): {meaning}, score of each class"
    if kind.end_to_end:
        meaning = "(B, K, 6): x1, y1, x2, y2 in input pixels, score, class; needs no suppression"
    return ExportedInfo(
        names=names,
        img_size=size,
        stride=network.stride,
        output_kind=kind,
        test_transforms=[dict(row) for row in config.data.test_rows],
        test_shrink=config.data.test_shrink,
        config=dump_config(_without_sources(config, names, size)),
        version=version("yoloflow"),
        input=f"images: uint8 RGB (B, 3, {size}, {size})",
        output=f"predictions: float32 {meaning}",
    )


def _without_sources(config: Config, names: list[str], size: int) -> Config:
    """Returns the settings without paths of the training machine, and for squares of the exported size."""
    known: dict[str, Any] = {} if config.data.single_cls else {"names": names, "nc": None}
    nowhere = dict.fromkeys(("train_set", "val_set", "image_folder"))
    data = config.data.model_copy(update={**nowhere, "test_rect": False, **known})
    fresh = {
        key: Config.model_fields[key].default
        for key in ("save_dir", "name", "resume", "weight", "ema_weight")
    }
    return config.model_copy(update={**fresh, "img_size": size, "data": data})


def _deviation(network: Network, exported: ExportedNetwork, size: int) -> float:
    """Returns the largest deviation on two images of coloured squares, see `ExportSummary`."""
    coarse = np.random.default_rng(0).integers(0, 256, (2, 3, size // 8, size // 8), dtype=np.uint8)
    images = torch.from_numpy(coarse.repeat(8, axis=2).repeat(8, axis=3))
    with torch.inference_mode():
        expected = network(images)[0].numpy()
    found = exported(images).numpy()
    # Boxes as shares of the side.
    found[..., :4] /= size
    expected[..., :4] /= size
    if exported.output_kind.end_to_end:
        return max(_deviation_of_rows(some, others) for some, others in zip(found, expected, strict=True))
    return float(_relative(found, expected).max())


def _relative(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns deviations, relative where a value is above 1."""
    deviations: NDArray[np.float64] = abs(found - expected) / np.maximum(1.0, abs(expected))
    return deviations


def _deviation_of_rows(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Returns the largest distance of (K, 6) rows from the nearest other row; almost equal scores may swap.

    Rows that score like the last one are left out, for others may have come in their place.
    """
    worst = float(abs(found[:, 4] - expected[:, 4]).max())
    for row in expected[expected[:, 4] > expected[-1, 4] + TOLERANCE]:
        worst = max(worst, float(_relative(found, row).max(1).min()))
    return worst
