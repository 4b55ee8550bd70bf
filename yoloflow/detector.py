"""A trained network with all that is needed to use it on any image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yoloflow.boxes import boxes_to_original
from yoloflow.config.reader import load_config
from yoloflow.config.schema import Config
from yoloflow.data.dataset import Shrink, resize_image, resized_sizes
from yoloflow.data.image_files import decode_image
from yoloflow.data.read_ahead import read_frames
from yoloflow.data.shapes import Rectangular
from yoloflow.data.sources import Frame, open_sources
from yoloflow.data.transforms import Sample, TransformContext, create_transforms
from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.transform import Pipeline
from yoloflow.evaluation.nms import MAX_NMS, non_max_suppression
from yoloflow.models import Network, create_model, load_pretrain, predict_images, prepare_for_inference
from yoloflow.run import file_names
from yoloflow.run.folder import find_weights, names_of_run
from yoloflow.runtime.device import select_device
from yoloflow.structures import (
    Detections,
    Int64Array,
    Problem,
    Uint8Array,
    YoloflowError,
    nearest_names,
)

ImageInput = str | Path | Uint8Array
"""An image file, or its pixels: (H, W, 3) uint8, BGR as OpenCV reads them."""


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """The settings of what counts as a detection.

    Attributes:
        conf_thres: scores must be above it; iou_thres: largest IoU of two detections of a class.
        classes: numbers of the classes to report; None for all.
        max_det: detections of an image at most.
        multi_label: a box counts for each class whose score passes, as in evaluation, not for its best alone.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.7
    classes: tuple[int, ...] | None = None
    max_det: int = 300
    multi_label: bool = False

    def __post_init__(self) -> None:
        for name in ("conf_thres", "iou_thres"):
            if not 0 <= getattr(self, name) <= 1:
                raise YoloflowError(f"{name}={getattr(self, name)}: must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Detector:
    """A network, its classes and its pre-processing; `Detector.load` makes one of a run.

    Attributes:
        network: made ready to predict (`prepare_for_inference`), on its device.
        names: class names in class order.
        img_size: longer side of its input in pixels.
        transforms: as in evaluation; they bring an image to the input size.
        shrink: method of making images smaller, as in evaluation.
        rect: the input is only as high and wide as the image needs, as in evaluation with `test_rect`.
    """

    network: Network
    names: list[str]
    img_size: int
    transforms: Pipeline
    shrink: Shrink = "area"
    rect: bool = False

    @classmethod
    def load(cls, weights: str | Path, img_size: int | None = None, device: str = "auto") -> Detector:
        """Loads the detector of a run.

        Args:
            weights: a run folder (its best weights are taken), or a weights file inside one.
            img_size: longer side of the network input in pixels; the run's by default.
            device: "auto" or torch's name of one.

        Raises:
            YoloflowError: no run, no weights, weights that do not fit, or an unusable size or device.
        """
        run = run_of(Path(weights))
        config = load_config(run / file_names.CONFIG)
        names = class_names(run, config)
        network = load_network(config, len(names), find_weights(Path(weights)))
        size = input_size(config, network, img_size)
        rows = config.data.test_transforms or [{"func_name": "letterbox"}]
        transforms = create_transforms(rows, "test_transforms")
        network = prepare_for_inference(network.to(select_device(device)))
        return cls(network, names, size, transforms, config.data.test_shrink, config.data.test_rect)

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        conf_thres: float = 0.25,
        iou_thres: float = 0.7,
        classes: str | int | Sequence[str | int] | None = None,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Returns the detections in each of the images, boxes in its own pixels.

        Args:
            images: one or several: files, or (H, W, 3) uint8 BGR pixels, of any sizes.
            conf_thres: scores must be above it.
            iou_thres: largest IoU of two detections of a class.
            classes: name or number of the class to report, or several; all by default.
            batch_size: images that go through the network together.

        Raises:
            YoloflowError: a file cannot be read, pixels are of another kind, or an argument is not usable.
        """
        several = [images] if isinstance(images, str | Path | np.ndarray) else images
        settings = DetectSettings(conf_thres, iou_thres, self.class_numbers(classes))
        frames = (Frame(Path(), _pixels(image, place)) for place, image in enumerate(several))
        return [found for _, found in self.detect_all(frames, settings, batch_size)]

    def stream(
        self,
        sources: str | Sequence[str],
        *,
        conf_thres: float = 0.25,
        iou_thres: float = 0.7,
        classes: str | int | Sequence[str | int] | None = None,
        batch_size: int = 8,
        problems: list[Problem] | None = None,
    ) -> Iterator[tuple[Frame, Detections]]:
        """Yields each image or video frame of the sources with its detections, in constant memory.

        Files that cannot be read are logged and passed over.

        Args:
            sources: those of `yoloflow predict`: files, folders, patterns, `camera:0`, `-`.
            conf_thres: scores must be above it.
            iou_thres: largest IoU of two detections of a class.
            classes: name or number of the class to report, or several; all by default.
            batch_size: images that go through the network together.
            problems: takes what could not be read.

        Raises:
            YoloflowError: a source or an argument is not usable.
        """
        opened = open_sources([sources] if isinstance(sources, str) else sources)
        settings = DetectSettings(conf_thres, iou_thres, self.class_numbers(classes))
        frames = read_frames(opened, [] if problems is None else problems, ahead=2 * batch_size)
        return self.detect_all(frames, settings, batch_size)

    def class_numbers(self, classes: str | int | Sequence[str | int] | None) -> tuple[int, ...] | None:
        """Returns numbers of classes given by name or number; what looks like a number may be a name.

        Raises:
            YoloflowError: there is no such class.
        """
        if classes is None:
            return None
        numbers = []
        for given in [classes] if isinstance(classes, str | int) else classes:
            if isinstance(given, str) and given in self.names:
                numbers.append(self.names.index(given))
            elif str(given).isdecimal() and int(given) < len(self.names):
                numbers.append(int(given))
            else:
                raise YoloflowError(f"classes: no class {given!r}; {nearest_names(str(given), self.names)}")
        return tuple(numbers)

    def detect_all(
        self, frames: Iterator[Frame], settings: DetectSettings, batch_size: int
    ) -> Iterator[tuple[Frame, Detections]]:
        """Yields each frame with its detections; no more than a batch of frames is held.

        Raises:
            YoloflowError: batch_size is below 1.
        """
        if batch_size < 1:
            raise YoloflowError(f"batch_size={batch_size}: must be 1 or more")
        while batch := list(itertools.islice(frames, batch_size)):
            yield from zip(batch, self.detect([frame.image for frame in batch], settings), strict=True)

    def detect(self, images_bgr: Sequence[Uint8Array], settings: DetectSettings) -> list[Detections]:
        """Returns the detections in each image, boxes in its own pixels; all go through the network at once.

        Args:
            images_bgr: (H, W, 3) uint8, of any sizes.
            settings: what counts.
        """
        samples = [self._prepare(image) for image in images_bgr]
        # With `rect` images of several proportions have inputs of several shapes.
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, sample in enumerate(samples):
            groups.setdefault(sample.image.shape, []).append(k)
        found: dict[int, Detections] = {}
        for members in groups.values():
            together = self._detect_alike([samples[k] for k in members], settings)
            found |= zip(members, together, strict=True)
        return [found[k] for k in range(len(samples))]

    @torch.inference_mode()
    def _detect_alike(self, samples: Sequence[Sample], settings: DetectSettings) -> list[Detections]:
        """Returns the detections of prepared images of one shape."""
        pixels = np.stack([sample.image[..., ::-1].transpose(2, 0, 1) for sample in samples])
        device = next(self.network.parameters()).device
        decoded = predict_images(self.network, torch.from_numpy(pixels).to(device))
        kind = self.network.output_kind
        found = non_max_suppression(
            decoded,
            conf_thres=settings.conf_thres,
            iou_thres=settings.iou_thres,
            conf_free=not kind.has_objectness,
            multi_label=settings.multi_label,
            # The limit is one of the classes asked for: the others must not use it up.
            max_det=settings.max_det if settings.classes is None else MAX_NMS,
            need_nms=not kind.end_to_end,
        )
        return [
            _to_detections(_asked_for(rows.cpu(), settings), sample)
            for rows, sample in zip(found, samples, strict=True)
        ]

    def _prepare(self, image: Uint8Array) -> Sample:
        """Prepares an image as evaluation would show it to the network."""
        height, width = image.shape[:2]
        new_sizes: Int64Array = resized_sizes(np.array([[height, width]]), self.img_size)
        new_height, new_width = new_sizes[0].tolist()
        sample = Sample(
            canvas=Canvas.of_image(resize_image(image, (new_height, new_width), self.shrink)),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            classes=np.zeros(0, np.int64),
            polygons=[],
            index=0,
            original_size_hw=(height, width),
            scale_xy=(new_width / width, new_height / height),
        )
        shape_hw = (self.img_size, self.img_size)
        if self.rect:
            shape_hw = Rectangular(new_sizes, max(self.network.stride)).shape(np.array([0]))
        context = TransformContext(
            np.random.default_rng(0), _OneImage(sample), max(shape_hw), shape_hw if self.rect else None
        )
        return self.transforms(sample, context)


@dataclass(frozen=True, slots=True)
class _OneImage:
    """The data set that transforms see while predicting: the image itself."""

    sample: Sample

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> Sample:
        """Returns the image, whichever is asked for."""
        return self.sample


def run_of(path: Path) -> Path:
    """Returns the run folder that is meant or that a weights file lies in.

    Raises:
        YoloflowError: there is none.
    """
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / file_names.CONFIG).is_file():
            return folder
    what = "no such file or folder" if not path.exists() else "not in a run folder (one with config.yaml)"
    raise YoloflowError(f"{path}: {what}; give a run such as runs/NAME, or a weights file inside one")


def class_names(run: Path, config: Config) -> list[str]:
    """Returns class names: as a run recorded them, else as the settings state them.

    Raises:
        YoloflowError: neither.
    """
    names = names_of_run(run) or config.data.stated_names
    if names is None:
        raise YoloflowError(
            f"{run}: neither names.json nor settings state the classes; give data.names=[...] or data.nc=..."
        )
    return names


def load_network(config: Config, num_classes: int, weights: Path) -> Network:
    """Builds the network of the settings and loads weights into it.

    Raises:
        YoloflowError: the weights cannot be read or do not fit.
    """
    network = create_model(
        config.network.model_name, config.network_table(), num_classes, variant=config.variant
    )
    load_pretrain(network, weights)
    return network


def input_size(config: Config, network: Network, img_size: int | None) -> int:
    """Returns the side of the network input in pixels: the settings' unless another is given.

    Raises:
        YoloflowError: the network cannot take it.
    """
    size = config.img_size if img_size is None else img_size
    if size < 1 or size % max(network.stride):
        raise YoloflowError(f"img_size={size}: must be a multiple of {max(network.stride)}")
    return size


def _pixels(image: ImageInput, place: int) -> Uint8Array:
    """Returns an image's pixels, read from its file where it is one."""
    if isinstance(image, str | Path):
        return decode_image(str(image))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise YoloflowError(
            f"images[{place}]: should be (H, W, 3) uint8, BGR; found {image.shape} {image.dtype}"
        )
    return image


def _asked_for(rows: Tensor, settings: DetectSettings) -> Tensor:
    """Returns those of sorted rows (K, 6) whose class is asked for, `max_det` at most."""
    if settings.classes is not None:
        rows = rows[torch.isin(rows[:, 5].long(), torch.tensor(settings.classes, dtype=torch.long))]
    return rows[: settings.max_det]


def _to_detections(rows: Tensor, sample: Sample) -> Detections:
    """Brings rows (K, 6) of x1 y1 x2 y2 score class from input pixels to pixels of the original."""
    boxes = boxes_to_original(
        rows[:, :4],
        torch.tensor(sample.scale_xy),
        torch.tensor(sample.pad_xy),
        torch.tensor(sample.original_size_hw),
    )
    return Detections(boxes.numpy(), rows[:, 4].numpy(), rows[:, 5].long().numpy())
