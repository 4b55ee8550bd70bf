"""An exported file as a network: run by onnxruntime, evaluated as any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yoloflow.structures import YoloflowError

EXPORT_SUFFIX = ".onnx"
METADATA_KEY = "yoloflow"
"""Where the file's metadata holds `ExportedInfo`, as JSON."""


@dataclass(frozen=True, slots=True)
class ExportedOutput:
    """What an exported file predicts, see `engine.evaluate.OutputKind`."""

    has_objectness: bool = False
    end_to_end: bool = False


@dataclass(frozen=True, slots=True)
class ExportedInfo:
    """What a file says about itself: all that is needed to use it without the run it came from.

    Attributes:
        names: class names in class order.
        img_size: height and width of the input in pixels.
        stride: input pixels between cells, for each level.
        output_kind: what the rows of the prediction hold.
        test_transforms: rows that make an image, its longer side resized to `img_size`, into the input.
        test_shrink: how images are made smaller before that.
        config: the run's settings as YAML, without its data set, for `yoloflow test FILE`.
        version: of yoloflow.
        input: the input in words.
        output: the output in words.
    """

    names: list[str]
    img_size: int
    stride: list[int]
    output_kind: ExportedOutput
    test_transforms: list[dict[str, Any]]
    test_shrink: str
    config: str
    version: str
    input: str
    output: str

    def to_text(self) -> str:
        """JSON, as it stands in the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> ExportedInfo:
        """What `to_text` gave; KeyError or TypeError where something is missing or unknown."""
        content = json.loads(text)
        return cls(**{**content, "output_kind": ExportedOutput(**content["output_kind"])})


class ExportedNetwork(nn.Module):
    """Predicts as the network that was exported; it has no parameters and cannot be trained.

    Attributes:
        info: what the file says about itself.
        output_kind: what its prediction holds.
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

    def check_names(self, names: Sequence[str]) -> None:
        """Raise YoloflowError unless a data set has as many classes as the file predicts."""
        known = self.info.names
        if len(names) != len(known):
            raise YoloflowError(
                f"the exported network predicts {len(known)} classes ({', '.join(known[:5])}, ...), "
                f"the data set has {len(names)} ({', '.join(names[:5])}, ...)"
            )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, img_size, img_size) uint8 RGB to the prediction, as `output_kind` says.

        Raises:
            YoloflowError: images of another size.
        """
        side = self.info.img_size
        if images.shape[1:] != (3, side, side):
            raise YoloflowError(
                f"the exported network takes images of {side} x {side} pixels, found "
                f"{images.shape[2]} x {images.shape[3]}; export again with --img-size"
            )
        (found,) = self._session.run(None, {"images": images.cpu().contiguous().numpy()})
        return torch.from_numpy(found)


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
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except (faults.InvalidProtobuf, faults.InvalidGraph, faults.InvalidArgument, faults.Fail) as error:
        raise YoloflowError(f"{path}: not a readable ONNX file ({error}); export or copy it again") from error
