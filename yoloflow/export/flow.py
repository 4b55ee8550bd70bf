"""The export flow: trained weights in; an ONNX file that says how to use it out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from yoloflow.config.reader import dump_config
from yoloflow.config.schema import Config
from yoloflow.data.index import as_one_class
from yoloflow.data.sets import log_problems, read_set
from yoloflow.detector import Detector, DetectSettings, find_parts, input_shape, load_network
from yoloflow.export.comparison import Comparison, accept_as_rounding, compare
from yoloflow.export.onnx_file import OPSETS, write_onnx
from yoloflow.models import Network
from yoloflow.models.exported import EXPORT_SUFFIX, ExportedInfo, InnerNms, require_packages
from yoloflow.models.layers.contract import HeadOutput
from yoloflow.runtime.ranks import Ranks
from yoloflow.structures import DatasetIndex, YoloflowError

logger = logging.getLogger("yoloflow")

_MASKS = (
    "prototypes: float32 (B, {}, h, w), a quarter of the input's height and width; the mask of a row is "
    "where the sum of the prototypes, each times its coefficient in the row, is above 0, inside the row's box"
)


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """The kind of file.

    Attributes:
        img_size: side of the network input in pixels, or height and width; None takes the settings'.
        dynamic: the file takes images of any height and width that are multiples of the largest stride.
        opset: the ONNX operator set.
        half: it computes in half precision, and is half as large.
        nms: suppression inside the file; None leaves it to the user.
        check_images: images of the validation set that are compared with torch; 0 for made-up ones alone.
    """

    img_size: int | Sequence[int] | None = None
    dynamic: bool = False
    opset: int = 17
    half: bool = False
    nms: InnerNms | None = None
    check_images: int = 50

    def __post_init__(self) -> None:
        first, last = OPSETS
        if not first <= self.opset <= last:
            raise YoloflowError(f"opset={self.opset}: {first} to {last} can be written")
        if self.dynamic and self.img_size is not None:
            raise YoloflowError("img_size: a file of dynamic size takes any; leave it or dynamic out")


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """The outcome of `export`.

    Attributes:
        path: the file.
        info: what it says about itself.
        comparison: with torch, on images of the validation set and on two made-up ones.
        seconds: wall time.
    """

    path: Path
    info: ExportedInfo
    comparison: Comparison
    seconds: float

    @property
    def deviation(self) -> float:
        """The largest deviation of onnxruntime from torch, see `Comparison`."""
        return self.comparison.deviation


def export(
    run_or_recipe: str,
    overrides: Sequence[str] = (),
    *,
    weight: str | None = None,
    out: str | Path | None = None,
    settings: ExportSettings | None = None,
) -> ExportSummary:
    """Writes a network as an ONNX file, and checks that onnxruntime predicts with it what torch predicts.

    The file takes uint8 RGB images (B, 3, H, W), any B, and gives decoded predictions or, with suppression
    inside, detections. AP of both on images of the validation set is logged where the settings name one.

    Args:
        run_or_recipe: a run folder, a recipe's name or a YAML file.
        overrides: `key=value` texts over its settings.
        weight: weights file; None takes the run's best (averaged where there is an average).
        out: the file; None puts it beside the weights.
        settings: of the file.

    Raises:
        YoloflowError: a package is missing, there are no weights or class names, or the check fails.
    """
    require_packages(("onnx", "onnxruntime"), "export")
    start = time.monotonic()
    settings = settings or ExportSettings()

    # 1. The network, fused
    parts = find_parts(run_or_recipe, weight, overrides)
    config, names, weight_path = parts.config, parts.required_names, parts.weights
    network = load_network(config, len(names), weight_path)

    # 2. The description inside the file
    info = _describe(config, network, names, settings)

    # 3. The file, once it is checked to predict the same
    path = Path(out) if out is not None else weight_path.with_suffix(EXPORT_SUFFIX)
    if path.suffix != EXPORT_SUFFIX:
        raise YoloflowError(f"{path}: exported networks are {EXPORT_SUFFIX} files")
    index = _validation_set(config, names) if settings.check_images else None
    comparison = _write_checked(network, info, path, index, settings.check_images)
    summary = ExportSummary(path, info, comparison, time.monotonic() - start)
    _report(summary, index)
    return summary


def _write_checked(
    network: Network, info: ExportedInfo, path: Path, index: DatasetIndex | None, num_images: int
) -> Comparison:
    """Writes the file once it is known to predict the same."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{EXPORT_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_onnx(network.fuse(), info, partial)
        file = Detector.load(partial, device="cpu")
        wanted = DetectSettings(0.001, multi_label=True)
        if info.nms is not None:
            file = replace(file, max_det=info.nms.max_det)
            wanted = DetectSettings(info.nms.conf_thres, info.nms.iou_thres)
        torch = replace(file, network=network.fuse())
        comparison = compare(torch, file, wanted, index, num_images)
        if comparison.is_too_far(info.half):
            rounding = compare(replace(file, network=network.eval()), torch, wanted, index, num_images)
            accept_as_rounding(path, comparison, rounding, info.half)
        partial.replace(path)
    except OSError as error:
        raise YoloflowError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
    return comparison


def _validation_set(config: Config, names: Sequence[str]) -> DatasetIndex | None:
    """Returns the validation set of the settings; None, with a message, where it cannot be read."""
    if not config.data.val_set:
        logger.info("not compared on real images: the settings name no data.val_set")
        return None
    try:
        index = read_set(config.data, "val_set", None if config.data.single_cls else list(names))
    except YoloflowError as error:
        logger.warning("not compared on real images: %s", error)
        return None
    log_problems({"val_set": index}, Ranks())
    return as_one_class(index) if config.data.single_cls else index


def _report(summary: ExportSummary, index: DatasetIndex | None) -> None:
    path, info, compared = summary.path, summary.info, summary.comparison
    size = "any size" if info.shape_hw is None else f"{info.shape_hw[0]} x {info.shape_hw[1]} px"
    kind = ", half precision" if info.half else ""
    kind += ", suppression inside" if info.nms is not None else ""
    logger.info(
        "%s: %.1f MB, %d classes, %s, opset %d%s; onnxruntime deviates from torch by %.1e at most (%.0f s)",
        *(path, path.stat().st_size / 1e6, len(info.names), size, info.opset, kind),
        *(compared.deviation, summary.seconds),
    )
    if index is not None:
        above = "" if info.nms is None else f" of detections above {info.nms.conf_thres:g}"
        for what, of_torch, of_file in compared.aps:
            logger.info(
                "%s%s on %d of %d images of %s: torch %.4f, %s %.4f",
                *(what, above, compared.num_images, len(index), index.source),
                *(of_torch, path.name, of_file),
            )


def _describe(config: Config, network: Network, names: list[str], settings: ExportSettings) -> ExportedInfo:
    kind, nms = network.output_kind, settings.nms
    height, width = input_shape(config, max(network.stride), settings.img_size)
    sides = f"{height}, {width}"
    if settings.dynamic:
        sides = f"H, W; multiples of {max(network.stride)}"
    meaning = "centre x, centre y, width, height in input pixels"
    meaning += ", objectness" if kind.has_objectness else ""
    meaning = f"(B, N, ...): {meaning}, score of each class"
    coefficients = f", {kind.mask_channels} mask coefficients" if kind.mask_channels else ""
    if kind.end_to_end or nms is not None:
        if kind.end_to_end and nms is not None:
            raise YoloflowError(f"nms: {config.network.model_name} needs no suppression; leave it out")
        rows = "K" if nms is None else str(nms.max_det)
        columns = 6 + kind.mask_channels
        meaning = f"(B, {rows}, {columns}): x1, y1, x2, y2 in input pixels, score, class{coefficients}"
        meaning += "; needs no suppression" + ("" if nms is None else "; rows with score 0 are empty")
    else:
        meaning += coefficients
    return ExportedInfo(
        names=names,
        img_size=max(height, width),
        stride=network.stride,
        output_kind=kind if nms is None else HeadOutput(end_to_end=True, mask_channels=kind.mask_channels),
        test_transforms=[dict(row) for row in config.data.test_rows],
        test_shrink=config.data.test_shrink,
        config=dump_config(_without_sources(config, names, max(height, width), settings.dynamic)),
        version=version("yoloflow"),
        input=f"images: uint8 RGB (B, 3, {sides})",
        output=f"predictions: float32 {meaning}",
        shape_hw=None if settings.dynamic else [height, width],
        half=settings.half,
        nms=nms,
        opset=settings.opset,
        masks=_MASKS.format(kind.mask_channels) if kind.mask_channels else None,
    )


def _without_sources(config: Config, names: list[str], size: int, dynamic: bool) -> Config:
    """Returns the settings without paths of the training machine, and for the exported size."""
    known: dict[str, Any] = {} if config.data.single_cls else {"names": names, "nc": None}
    nowhere = dict.fromkeys(("train_set", "val_set", "image_folder"))
    data = config.data.model_copy(update={**nowhere, "test_rect": config.data.test_rect and dynamic, **known})
    fresh = {
        key: Config.model_fields[key].default
        for key in ("save_dir", "name", "resume", "weight", "ema_weight")
    }
    return config.model_copy(update={**fresh, "img_size": size, "data": data})
