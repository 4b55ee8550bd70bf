"""The network of an exported file: onnxruntime computes it, and it is evaluated as any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoloflow.files import is_utf8
from yoloflow.models.layers.contract import HeadOutput
from yoloflow.structures import YoloflowError
from yoloflow.weights.onnx_convolutions import METADATA_KEY

EXPORT_SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class InnerNms:
    """The suppression inside an exported file.

    Attributes:
        conf_thres: scores are above it; iou_thres: largest IoU of two detections of a class.
        max_det: detections of an image at most: rows of the output.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.7
    max_det: int = 300


@dataclass(frozen=True, slots=True)
class ExportedInfo:
    """The metadata of an exported file: all that is needed to use it without the run it came from.

    Attributes:
        names: class names in class order.
        img_size: longer side of the input in pixels.
        stride: input pixels between cells, for each level.
        output_kind: what the rows of the prediction hold.
        test_transforms: rows that make an image, its longer side resized to `img_size`, into the input.
        test_shrink: how images are made smaller before that.
        config: the run's settings as YAML, without its data set, for `yoloflow test FILE`.
        version: of yoloflow.
        input: the input in words.
        output: the output in words.
        masks: the second output in words, and how masks are made of it; None for a file without masks.
        shape_hw: height and width of the input in pixels; None where any multiples of the largest stride will
            do (in files of version 0.1: img_size squared).
        half: it computes in half precision.
        nms: the suppression inside it; None where that is left to the user.
        opset: the ONNX operator set.
    """

    names: list[str]
    img_size: int
    stride: list[int]
    output_kind: HeadOutput
    test_transforms: list[dict[str, Any]]
    test_shrink: str
    config: str
    version: str
    input: str
    output: str
    shape_hw: list[int] | None
    half: bool = False
    nms: InnerNms | None = None
    opset: int | None = None
    masks: str | None = None

    def to_text(self) -> str:
        """Returns the JSON text that stands in the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> ExportedInfo:
        """Reads the text of `to_text`; KeyError or TypeError where something is missing or unknown."""
        content = json.loads(text)
        kind, nms = HeadOutput(**content["output_kind"]), content.get("nms")
        square = [content["img_size"]] * 2
        known = {"output_kind": kind, "nms": None if nms is None else InnerNms(**nms)}
        return cls(**{"shape_hw": square, **content, **known})


class ExportedNetwork(nn.Module):
    """A network that predicts as the one that was exported; it has no parameters and cannot be trained.

    Attributes:
        info: the metadata of the file.
        output_kind: what its prediction holds.
        stride: input pixels between cells, for each level.
    """

    def __init__(self, path: str | Path, device_type: str = "cpu") -> None:
        """Load a file.

        Args:
            path: an .onnx file of `yoloflow export`.
            device_type: "cpu", or "cuda" where onnxruntime can use it.

        Raises:
            YoloflowError: onnxruntime is missing, or the file cannot be used.
        """
        super().__init__()
        self._file = Path(path).absolute(), device_type
        self._session = _open_session(Path(path), device_type)
        text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        try:
            self.info = ExportedInfo.from_text(text or "{}")
        except (KeyError, TypeError, ValueError) as error:
            raise YoloflowError(
                f"{path}: does not say how to use it (metadata {METADATA_KEY!r}); "
                "export it with this version's `yoloflow export`"
            ) from error
        self.output_kind = self.info.output_kind
        self.stride = self.info.stride

    def __getstate__(self) -> dict[str, Any]:
        """Returns all but the session, which another process opens anew, from the same file."""
        return {**self.__dict__, "_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = _open_session(*self._file)

    @property
    def shape_hw(self) -> tuple[int, int] | None:
        """The height and width of the input in pixels; None where any multiples of the stride will do."""
        if self.info.shape_hw is None:
            return None
        height, width = self.info.shape_hw
        return height, width

    def check_names(self, names: Sequence[str]) -> None:
        """Raise YoloflowError unless a data set has as many classes as the file predicts."""
        known = self.info.names
        if len(names) != len(known):
            raise YoloflowError(
                f"the exported network predicts {len(known)} classes ({', '.join(known[:5])}, ...), "
                f"the data set has {len(names)} ({', '.join(names[:5])}, ...)"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, 3, H, W) uint8 RGB of the file's height and width to its outputs.

        These are the prediction, see `output_kind`, and the prototypes of masks where there are any.

        Raises:
            YoloflowError: images of another size.
        """
        size_hw, step = tuple(images.shape[2:]), max(self.stride)
        if self.shape_hw is None and (size_hw[0] % step or size_hw[1] % step):
            raise YoloflowError(
                f"the exported network takes images whose sides are multiples of {step} pixels, found "
                f"{size_hw[0]} x {size_hw[1]}"
            )
        if self.shape_hw is not None and self.shape_hw != size_hw:
            raise YoloflowError(
                f"the exported network takes images of {self.shape_hw[0]} x {self.shape_hw[1]} "
                f"pixels, found {size_hw[0]} x {size_hw[1]}; export again with --img-size"
            )
        found = self._session.run(None, {"images": images.cpu().contiguous().numpy()})
        return tuple(torch.from_numpy(output) for output in found)


def require_packages(names: tuple[str, ...], what: str) -> None:
    """Raise YoloflowError unless packages of the extra `export` are installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise YoloflowError(f"{what} needs {' and '.join(missing)}: pip install 'yoloflow[export]'")


def _open_session(path: Path, device_type: str) -> Any:
    require_packages(("onnxruntime",), f"{path}: an exported network")
    if not path.is_file():
        raise YoloflowError(f"{path}: there is no such file")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = ["CUDAExecutionProvider"] if device_type == "cuda" else []
    available = onnxruntime.get_available_providers()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in available]
    faults = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        file = path if is_utf8(path) else path.read_bytes()
        return onnxruntime.InferenceSession(file, options, providers=providers)
    except (faults.InvalidProtobuf, faults.InvalidGraph, faults.InvalidArgument, faults.Fail) as error:
        raise YoloflowError(f"{path}: not a readable ONNX file ({error}); export or copy it again") from error
