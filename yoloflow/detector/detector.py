"""A trained network with all that is needed to use it on any image."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yoloflow.boxes import boxes_to_original
from yoloflow.config.schema import Config
from yoloflow.data.dataset import Shrink, resize_image, resized_sizes
from yoloflow.data.read_ahead import read_frames
from yoloflow.data.shapes import Rectangular, Shape
from yoloflow.data.sources import Frame, open_sources
from yoloflow.data.transforms import Sample, TransformContext, create_transforms
from yoloflow.data.transforms.canvas import Canvas
from yoloflow.data.transforms.transform import Pipeline
from yoloflow.detector.images import ImageInput, read_images, source_names
from yoloflow.detector.loading import find_parts, input_shape, load_network
from yoloflow.detector.result import Result
from yoloflow.detector.settings import DetectSettings, check_count
from yoloflow.evaluation.masks import masks_of
from yoloflow.evaluation.nms import MAX_NMS, non_max_suppression
from yoloflow.models import Network, Prediction, predict, prepare_for_inference
from yoloflow.models.exported import ExportedNetwork
from yoloflow.runtime.device import select_device
from yoloflow.structures import Detections, Int64Array, Problem, Uint8Array, YoloflowError, nearest_names

logger = logging.getLogger("yoloflow")

Classes = str | int | np.integer | Sequence[str | int | np.integer]
"""The name or number of a class, or several."""


@dataclass(frozen=True, slots=True, repr=False)
class Detector:
    """A network, its classes and its pre-processing; `Detector.load` makes one of a run or exported file.

    It may be used in several threads at once, copied, and sent to another process.

    Attributes:
        network: made ready to predict (`prepare_for_inference`), on its device; or an exported one.
        names: class names in class order.
        img_size: longer side of its input in pixels.
        transforms: as in evaluation; they bring an image to the input size.
        shrink: method of making images smaller, as in evaluation.
        rect: the input is only as high and wide as the image needs, as in evaluation with `test_rect`.
        shape_hw: the one height and width of the input in pixels; None for squares, or as `rect` says.
        max_det: detections of an image at most, as in evaluation, unless a call says otherwise.
    """

    network: Network | ExportedNetwork
    names: list[str]
    img_size: int
    transforms: Pipeline
    shrink: Shrink = "area"
    rect: bool = False
    shape_hw: Shape | None = None
    max_det: int = 300

    @classmethod
    def load(
        cls,
        weights: str | Path,
        img_size: int | None = None,
        device: str = "auto",
        overrides: Sequence[str] = (),
        *,
        weight: str | Path | None = None,
    ) -> Detector:
        """Loads the detector of a run or of an exported file.

        Args:
            weights: a run folder (its best weights are taken), a weights file of a run, a file of `yoloflow
                export`, or a recipe's name with `weight`.
            img_size: longer side of the network input in pixels; the run's by default.
            device: "auto" or torch's name of one.
            overrides: `key=value` texts over the run's settings, such as `data.test_rect=true`.
            weight: weights of the recipe, or others than the run's best; "published" for the recipe's.

        Raises:
            YoloflowError: no run, no weights, weights that do not fit, or an unusable size or device.
        """
        if img_size is not None:
            check_count("img_size", img_size)
            img_size = int(img_size)
        parts = find_parts(weights, weight, overrides)
        config, names = parts.config, parts.required_names
        selected = select_device(device)
        network: Network | ExportedNetwork
        shape_hw: Shape | None = None
        if parts.is_exported:
            network = ExportedNetwork(parts.weights, selected.type)
            shape_hw = network.shape_hw
            img_size = img_size or network.info.img_size
            if shape_hw is not None and img_size != max(shape_hw):
                raise YoloflowError(
                    f"img_size={img_size}: {parts.weights} takes {shape_hw[0]} x {shape_hw[1]} pixels alone; "
                    "export again with --img-size, or --dynamic for any"
                )
        else:
            network = load_network(config, len(names), parts.weights)
            network = prepare_for_inference(network.to(selected))
        return cls.of_network(network, names, config, img_size, shape_hw)

    @classmethod
    def of_network(
        cls,
        network: Network | ExportedNetwork,
        names: list[str],
        config: Config,
        img_size: int | None = None,
        shape_hw: Shape | None = None,
    ) -> Detector:
        """Returns the detector of a network that is there already.

        Args:
            network: on its device.
            names: class names in class order.
            config: the settings of its input.
            img_size: longer side of its input in pixels; the settings' by default.
            shape_hw: the one height and width that it takes; None for any.

        Raises:
            YoloflowError: the network cannot take this size.
        """
        size, _ = input_shape(config, max(network.stride), img_size)
        transforms = create_transforms(config.data.test_rows, "test_transforms")
        rect = config.data.test_rect and shape_hw is None
        return cls(
            *(network, names, size, transforms, config.data.test_shrink, rect, shape_hw, config.max_det)
        )

    def __repr__(self) -> str:
        kind = "exported" if isinstance(self.network, ExportedNetwork) else self.network.model_name
        return f"Detector({kind}, {len(self.names)} classes, {self.img_size} px)"

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        conf_thres: float = 0.25,
        iou_thres: float = 0.7,
        max_det: int | None = None,
        classes: Classes | None = None,
        batch_size: int = 8,
    ) -> list[Result]:
        """Returns the detections in each of the images, boxes in its own pixels.

        Files in folders and patterns that cannot be read are logged and passed over; the results name theirs.

        Args:
            images: one or several, of any sizes: files, folders, patterns, arrays of pixels (BGR, grey or
                with alpha), PIL images (turned as their EXIF says), the content of files, or open files.
            conf_thres: scores must be above it.
            iou_thres: largest IoU of two detections of a class.
            max_det: detections of an image at most; the run's by default.
            classes: name or number of the class to report, or several; all by default.
            batch_size: images that go through the network together.

        Raises:
            YoloflowError: a file that is named cannot be read, something is no image, or an argument is not
                usable.
        """
        settings = DetectSettings(conf_thres, iou_thres, self.class_numbers(classes), max_det)
        return [found for _, found in self.detect_all(read_images(images), settings, batch_size)]

    def stream(
        self,
        sources: str | Path | Iterable[str | Path],
        *,
        conf_thres: float = 0.25,
        iou_thres: float = 0.7,
        max_det: int | None = None,
        classes: Classes | None = None,
        batch_size: int = 8,
        problems: list[Problem] | None = None,
    ) -> Iterator[tuple[Frame, Result]]:
        """Yields each image or video frame of the sources with its detections, in constant memory.

        Files that cannot be read are logged and passed over.

        Args:
            sources: those of `yoloflow predict`: files, folders, patterns, `camera:0`, addresses, `-`.
            conf_thres: scores must be above it.
            iou_thres: largest IoU of two detections of a class.
            max_det: detections of an image at most; the run's by default.
            classes: name or number of the class to report, or several; all by default.
            batch_size: images that go through the network together.
            problems: takes what could not be read.

        Raises:
            YoloflowError: a source or an argument is not usable.
        """
        opened = open_sources(source_names(sources))
        settings = DetectSettings(conf_thres, iou_thres, self.class_numbers(classes), max_det)
        frames = read_frames(opened, [] if problems is None else problems, ahead=2 * batch_size)
        return self.detect_all(frames, settings, batch_size)

    def class_numbers(self, classes: Classes | None) -> tuple[int, ...] | None:
        """Returns numbers of classes given by name or number; what looks like a number may be a name.

        Raises:
            YoloflowError: there is no such class.
        """
        if classes is None:
            return None
        numbers = []
        several: Iterable[Any] = [classes]
        if isinstance(classes, Sequence | np.ndarray) and not isinstance(classes, str):
            several = classes
        for given in several:
            if isinstance(given, str) and given in self.names:
                numbers.append(self.names.index(given))
            elif str(given).isdecimal() and int(given) < len(self.names):
                numbers.append(int(given))
            else:
                raise YoloflowError(f"classes: no class {given!r}; {nearest_names(str(given), self.names)}")
        return tuple(numbers)

    def detect_all(
        self, frames: Iterator[Frame], settings: DetectSettings, batch_size: int
    ) -> Iterator[tuple[Frame, Result]]:
        """Yields each frame with its detections; no more than a batch of frames is held.

        Args:
            frames: images with their names.
            settings: what counts.
            batch_size: images that go through the network together.

        Raises:
            YoloflowError: batch_size is below 1.
        """
        check_count("batch_size", batch_size)
        count = num_full = 0
        while batch := list(itertools.islice(frames, batch_size)):
            together = self.detect([frame.image for frame in batch], settings)
            for frame, found in zip(batch, together, strict=True):
                count, num_full = count + 1, num_full + (len(found) >= self.max_det)
                yield frame, Result.of(found, frame, self.names)
        if num_full and settings.max_det is None:
            logger.warning(
                "%d of %d images have as many detections as max_det=%d allows; there may be more in them",
                *(num_full, count, self.max_det),
            )

    def detect(self, images_bgr: Sequence[Uint8Array], settings: DetectSettings) -> list[Detections]:
        """Returns the detections in each image, boxes in its own pixels; all go through the network at once.

        Args:
            images_bgr: (H, W, 3) uint8, of any sizes.
            settings: what counts.
        """
        self.check(settings)
        samples = [self.prepare(image) for image in images_bgr]
        # With `rect` images of several proportions have inputs of several shapes.
        groups: dict[tuple[int, ...], list[int]] = {}
        for k, sample in enumerate(samples):
            groups.setdefault(sample.image.shape, []).append(k)
        found: dict[int, Detections] = {}
        for members in groups.values():
            alike = [samples[k] for k in members]
            found |= zip(members, self.detections(self.predict(alike), alike, settings), strict=True)
        return [found[k] for k in range(len(samples))]

    @torch.inference_mode()
    def predict(self, samples: Sequence[Sample]) -> Prediction:
        """Returns the decoded predictions of `samples`, prepared images of one shape, as they come out."""
        device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        return predict(self.network, to_batch(samples).to(device))

    @torch.inference_mode()
    def detections(
        self, predictions: Prediction, samples: Sequence[Sample], settings: DetectSettings
    ) -> list[Detections]:
        """Returns the detections in decoded predictions, boxes and masks in pixels of each image.

        Args:
            predictions: of `predict`.
            samples: the images they are of.
            settings: what counts.
        """
        kind, limit = self.network.output_kind, settings.max_det or self.max_det
        found = non_max_suppression(
            predictions.rows,
            conf_thres=settings.conf_thres,
            iou_thres=settings.iou_thres,
            conf_free=not kind.has_objectness,
            multi_label=settings.multi_label,
            # The limit is one of the classes asked for: the others must not use it up.
            max_det=limit if settings.classes is None else MAX_NMS,
            need_nms=not kind.end_to_end,
            num_masks=kind.mask_channels,
        )
        prototypes = [None] * len(found) if predictions.prototypes is None else predictions.prototypes
        return [
            _to_detections(_asked_for(rows.cpu(), settings.classes)[:limit], sample, maps)
            for rows, sample, maps in zip(found, samples, prototypes, strict=True)
        ]

    def check(self, settings: DetectSettings) -> None:
        """Refuses settings that ask for what an exported file has left out already.

        Raises:
            YoloflowError: `settings.conf_thres` is below that of the suppression inside the file.
        """
        nms = self.network.info.nms if isinstance(self.network, ExportedNetwork) else None
        if nms is not None and settings.conf_thres < nms.conf_thres:
            raise YoloflowError(
                f"conf_thres={settings.conf_thres}: the file has suppression inside, with "
                f"conf_thres={nms.conf_thres}; export again with --conf-thres {settings.conf_thres}"
            )

    def prepare(self, image: Uint8Array) -> Sample:
        """Prepares an `image` (H, W, 3) uint8 BGR as evaluation would show it to the network."""
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
        shape_hw = self.shape_hw
        if self.rect:
            shape_hw = Rectangular(new_sizes, max(self.network.stride)).shape(np.array([0]))
        side = max(shape_hw) if shape_hw is not None else self.img_size
        context = TransformContext(np.random.default_rng(0), _OneImage(sample), side, shape_hw)
        return self.transforms(sample, context)


def to_batch(samples: Sequence[Sample]) -> Tensor:
    """Returns prepared images of one shape as (B, 3, H, W) uint8 RGB."""
    return torch.from_numpy(np.stack([sample.image[..., ::-1].transpose(2, 0, 1) for sample in samples]))


@dataclass(frozen=True, slots=True)
class _OneImage:
    """The data set that transforms see while predicting: the image itself."""

    sample: Sample

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> Sample:
        """Returns the image, whichever is asked for."""
        return self.sample


def _asked_for(rows: Tensor, classes: tuple[int, ...] | None) -> Tensor:
    """Returns those of rows (N, 6 + K) whose class is asked for."""
    if classes is None:
        return rows
    return rows[torch.isin(rows[:, 5].long(), torch.tensor(classes, dtype=torch.long))]


def _to_detections(rows: Tensor, sample: Sample, prototypes: Tensor | None) -> Detections:
    """Brings rows (N, 6 + K) of x1 y1 x2 y2 score class from input pixels to pixels of the original.

    Their masks are made of the K coefficients and the prototypes (K, h, w), where there are any. Boxes that
    lie in the border alone are left out: nothing of them is in the image.
    """
    scale, pad, size = map(torch.tensor, (sample.scale_xy, sample.pad_xy, sample.original_size_hw))
    boxes = boxes_to_original(rows[:, :4], scale, pad, size)
    is_inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
    rows, boxes = rows[is_inside], boxes[is_inside]
    masks = None
    if prototypes is not None:
        height, width = sample.image.shape[:2]
        masks = masks_of(
            *(prototypes, rows[:, 6:], boxes),
            input_hw=(height, width),
            scale_xy=scale,
            pad_xy=pad,
            original_size_hw=size,
        )
    return Detections(boxes.numpy(), rows[:, 4].numpy(), rows[:, 5].long().numpy(), masks)
