"""The predict flow: a trained run and some pictures in; detections, as JSON and drawn, out."""

from __future__ import annotations

import itertools
import logging
import time
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
from yoloflow.data.sources import Frame, find_files, read_frames
from yoloflow.data.transforms import create_transforms
from yoloflow.data.transforms.pipeline import Pipeline
from yoloflow.engine.run_folder import find_weights, names_of_run
from yoloflow.evaluation.nms import non_max_suppression
from yoloflow.models import Network, create_model, load_pretrain
from yoloflow.report.predictions import PredictionWriter
from yoloflow.runtime import select_device
from yoloflow.structures import (
    Detections,
    Problem,
    Sample,
    TransformContext,
    Uint8Array,
    YoloflowError,
    nearest_names,
)

logger = logging.getLogger("yoloflow")


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What `predict` did.

    Attributes:
        save_dir: where everything lies.
        json_path: the detections.
        num_images: pictures and video frames.
        num_detections: over all of them.
        problems: files that could not be read, and videos that end early.
        seconds: wall time without loading the network.
    """

    save_dir: Path
    json_path: Path
    num_images: int
    num_detections: int
    problems: list[Problem]
    seconds: float


def predict(
    weights: str | Path,
    sources: Sequence[str],
    *,
    save_dir: str | Path | None = None,
    conf_thres: float = 0.25,
    iou_thres: float = 0.7,
    img_size: int | None = None,
    classes: Sequence[str | int] | None = None,
    device: str = "auto",
    batch_size: int = 8,
    save_images: bool = True,
) -> PredictSummary:
    """Detect objects in pictures and videos; write `predictions.json` and the pictures with boxes drawn.

    Args:
        weights: a run folder (its best weights are taken), or a weights file inside one.
        sources: picture and video files, folders and glob patterns.
        save_dir: a folder without predictions; by default `predictions`, numbered, in the run folder.
        conf_thres: scores must be above it.
        iou_thres: largest IoU of two detections of a class.
        img_size: side of the network input in pixels; the run's by default.
        classes: names or numbers of the classes to report; all by default.
        device: "auto" or torch's name of one.
        batch_size: pictures at a time.
        save_images: draw pictures and videos too.

    Raises:
        YoloflowError: run, weights, sources or classes are not usable, or nothing could be read.
    """
    # 1. What to look at
    files = find_files(sources)

    # 2. The network, its classes and its input size
    detector = Detector.load(weights, img_size, device)
    settings = DetectSettings(conf_thres, iou_thres, detector.class_numbers(classes))

    # 3. Batch by batch: read, detect, write
    folder = Path(save_dir) if save_dir is not None else _next_folder(_run_of(Path(weights)) / "predictions")
    problems: list[Problem] = []
    num_images = num_detections = 0
    start = time.monotonic()
    with PredictionWriter(folder, detector.names, save_images) as writer:
        for frame, found in detector.detect_all(read_frames(files, problems), settings, batch_size):
            writer.write(frame.path, frame.number, frame.fps, frame.image, found)
            num_images += 1
            num_detections += len(found)

    # 4. The account
    summary = PredictSummary(
        folder, writer.json_path, num_images, num_detections, problems, time.monotonic() - start
    )
    if num_images == 0:
        raise YoloflowError(f"none of the {len(files)} files could be read; first {problems[0]}")
    logger.info(
        "%d detections in %d images (%.1f s), %d problems: %s",
        *(num_detections, num_images, summary.seconds, len(problems), summary.json_path),
    )
    return summary


def iter_predictions(
    weights: str | Path,
    sources: Sequence[str],
    *,
    conf_thres: float = 0.25,
    iou_thres: float = 0.7,
    img_size: int | None = None,
    classes: Sequence[str | int] | None = None,
    device: str = "auto",
    batch_size: int = 8,
) -> Iterator[tuple[str, Uint8Array, Detections]]:
    """File name, picture (H, W, 3) BGR and detections, one after the other, in constant memory.

    Files that cannot be read are logged and passed over.

    Args:
        weights: a run folder, or a weights file inside one.
        sources: picture and video files, folders and glob patterns.
        conf_thres: scores must be above it.
        iou_thres: largest IoU of two detections of a class.
        img_size: side of the network input in pixels; the run's by default.
        classes: names or numbers of the classes to report; all by default.
        device: "auto" or torch's name of one.
        batch_size: pictures at a time.

    Raises:
        YoloflowError: as `predict`.
    """
    files = find_files(sources)
    detector = Detector.load(weights, img_size, device)
    settings = DetectSettings(conf_thres, iou_thres, detector.class_numbers(classes))
    for frame, found in detector.detect_all(read_frames(files, []), settings, batch_size):
        yield str(frame.path), frame.image, found


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """What counts as a detection.

    Attributes:
        conf_thres: scores must be above it; iou_thres: largest IoU of two detections of a class.
        classes: numbers of the classes to report; None for all.
        max_det: detections of an image at most.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.7
    classes: tuple[int, ...] | None = None
    max_det: int = 300

    def __post_init__(self) -> None:
        for name in ("conf_thres", "iou_thres"):
            if not 0 <= getattr(self, name) <= 1:
                raise YoloflowError(f"{name}={getattr(self, name)}: must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Detector:
    """A network with what is needed to use it on any picture.

    Attributes:
        network: fused, in eval mode, on its device.
        names: class names in class order.
        img_size: side of its square input in pixels.
        transforms: as in evaluation; they bring a picture to the input size.
        shrink: how pictures are made smaller, as in evaluation.
    """

    network: Network
    names: list[str]
    img_size: int
    transforms: Pipeline
    shrink: Shrink = "area"

    @classmethod
    def load(cls, weights: str | Path, img_size: int | None = None, device: str = "auto") -> Detector:
        """The detector of a run.

        Args:
            weights: a run folder, or a weights file inside one.
            img_size: side of the network input in pixels; the run's by default.
            device: "auto" or torch's name of one.

        Raises:
            YoloflowError: no run, no weights, weights that do not fit, or an unusable size or device.
        """
        run = _run_of(Path(weights))
        config = load_config(run / "config.yaml")
        names = _class_names(run, config)
        network = create_model(
            config.network.model_name, config.network_table(), len(names), variant=config.variant
        )
        load_pretrain(network, find_weights(Path(weights)))
        size = config.img_size if img_size is None else img_size
        if size < 1 or size % max(network.stride):
            raise YoloflowError(f"img_size={size}: must be a multiple of {max(network.stride)}")
        rows = config.data.test_transforms or [{"func_name": "letterbox"}]
        transforms = create_transforms(rows, "test_transforms")
        network = network.to(select_device(device)).fuse()
        return cls(network, names, size, transforms, config.data.test_shrink)

    def class_numbers(self, classes: Sequence[str | int] | None) -> tuple[int, ...] | None:
        """Numbers of classes given by name or number; a name that looks like a number is a name first.

        Raises:
            YoloflowError: there is no such class.
        """
        if classes is None:
            return None
        numbers = []
        for given in classes:
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
        """Each frame with its detections; no more than a batch of frames is held.

        Raises:
            YoloflowError: batch_size is below 1.
        """
        if batch_size < 1:
            raise YoloflowError(f"batch_size={batch_size}: must be 1 or more")
        while batch := list(itertools.islice(frames, batch_size)):
            yield from zip(batch, self.detect([frame.image for frame in batch], settings), strict=True)

    @torch.inference_mode()
    def detect(self, images_bgr: Sequence[Uint8Array], settings: DetectSettings) -> list[Detections]:
        """Detections in each picture, boxes in its own pixels.

        Args:
            images_bgr: (H, W, 3) uint8 pictures of any sizes.
            settings: what counts.
        """
        samples = [self._prepare(image) for image in images_bgr]
        pixels = np.stack([sample.image[..., ::-1].transpose(2, 0, 1) for sample in samples])
        device = next(self.network.parameters()).device
        decoded, _ = self.network(torch.from_numpy(pixels).to(device))
        kind = self.network.output_kind
        found = non_max_suppression(
            decoded,
            conf_thres=settings.conf_thres,
            iou_thres=settings.iou_thres,
            conf_free=not kind.has_objectness,
            multi_label=False,
            max_det=settings.max_det,
            need_nms=not kind.end_to_end,
        )
        return [
            _to_detections(rows.cpu(), sample, settings.classes)
            for rows, sample in zip(found, samples, strict=True)
        ]

    def _prepare(self, image: Uint8Array) -> Sample:
        """The picture as evaluation would show it to the network."""
        height, width = image.shape[:2]
        new_height, new_width = resized_sizes(np.array([[height, width]]), self.img_size)[0].tolist()
        sample = Sample(
            image=resize_image(image, (new_height, new_width), self.shrink),
            boxes_xyxy=np.zeros((0, 4), np.float32),
            classes=np.zeros(0, np.int64),
            polygons=[],
            index=0,
            original_size_hw=(height, width),
            scale_xy=(new_width / width, new_height / height),
        )
        context = TransformContext(np.random.default_rng(0), _OnePicture(sample), self.img_size)
        return self.transforms(sample, context)


@dataclass(frozen=True, slots=True)
class _OnePicture:
    """The data set that transforms see while predicting: the picture itself."""

    sample: Sample

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> Sample:
        """The picture, whichever is asked for."""
        return self.sample


def _to_detections(rows: Tensor, sample: Sample, classes: tuple[int, ...] | None) -> Detections:
    """Rows (K, 6) of x1 y1 x2 y2 score class in input pixels, in pixels of the original."""
    if classes is not None:
        rows = rows[torch.isin(rows[:, 5].long(), torch.tensor(classes, dtype=torch.long))]
    boxes = boxes_to_original(
        rows[:, :4],
        torch.tensor(sample.scale_xy),
        torch.tensor(sample.pad_xy),
        torch.tensor(sample.original_size_hw),
    )
    return Detections(boxes.numpy(), rows[:, 4].numpy(), rows[:, 5].long().numpy())


def _run_of(path: Path) -> Path:
    """The run folder that is meant or that a weights file lies in."""
    for folder in (path, *path.absolute().parents[:2]):
        if (folder / "config.yaml").is_file():
            return folder
    what = "no such file or folder" if not path.exists() else "not in a run folder (one with config.yaml)"
    raise YoloflowError(f"{path}: {what}; give a run such as runs/NAME, or a weights file inside one")


def _class_names(run: Path, config: Config) -> list[str]:
    """Class names of a run: as recorded from its data set, else as its settings state them."""
    if (recorded := names_of_run(run)) is not None:
        return recorded
    if config.data.names is not None:
        return list(config.data.names)
    if config.data.nc is not None:
        return [str(number) for number in range(config.data.nc)]
    raise YoloflowError(f"{run}: neither names.json nor data.names of config.yaml states the classes")


def _next_folder(path: Path) -> Path:
    """The path, or the first numbered one that does not exist yet."""
    number, candidate = 2, path
    while candidate.exists():
        number, candidate = number + 1, path.with_name(f"{path.name}-{number}")
    return candidate
