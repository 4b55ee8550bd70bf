"""The ONNX file of a network, as torch's exporter and our nodes make it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from yoloflow.models import Network
from yoloflow.models.exported import ExportedInfo
from yoloflow.models.inference import prediction_of
from yoloflow.models.onnx_nms import append_nms
from yoloflow.weights.onnx_convolutions import METADATA_KEY

OPSETS = (11, 20)
"""First and last of the ONNX operator sets that can be written."""


class _Prediction(nn.Module):
    """A network whose outputs are those of `predict` alone, of uint8 images."""

    def __init__(self, network: Network, half: bool) -> None:
        super().__init__()
        self.network = network
        self._half = half

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to predictions, and to prototypes where there are masks."""
        if self._half:
            images = images.half() / 255 if self.network.pixels == "rgb_unit" else images.flip(1).half()
        rows, prototypes = prediction_of(self.network(images), self.network.output_kind)
        return (rows,) if prototypes is None else (rows, prototypes.float())


def write_onnx(network: Network, info: ExportedInfo, path: Path) -> None:
    """Writes a network.

    Args:
        network: fused, in float32; with `info.half` its convolutions are halved in place.
        info: what the file says about itself, and how it is made.
        path: the file.
    """
    import onnx

    if info.half:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                module.half()
    height, width = info.shape_hw or [2 * max(info.stride), 3 * max(info.stride)]
    sizes = {2: "height", 3: "width"} if info.shape_hw is None else {}
    outputs = {"predictions": {1: "rows"} if sizes else {}}
    if network.output_kind.mask_channels:
        outputs["prototypes"] = {2: "mask height", 3: "mask width"} if sizes else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        # The exporter of TorchScript: a tenth of the other's time, and older operator sets too.
        torch.onnx.export(
            _Prediction(network, info.half).eval(),
            (torch.zeros(2, 3, height, width, dtype=torch.uint8),),
            path,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch", **axes} for name, axes in {"images": sizes, **outputs}.items()},
            opset_version=info.opset,
            dynamo=False,
        )
    model = onnx.load(path)
    if info.nms is not None:
        append_nms(model, network.output_kind, len(info.names), info.nms)
    model.producer_name, model.producer_version = "yoloflow", info.version
    model.metadata_props.add(key=METADATA_KEY, value=info.to_text())
    onnx.checker.check_model(model)
    onnx.save(model, path)
