"""The predict flow: a trained run and some images in; detections, as files and drawn, out."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from yoloflow.data.read_ahead import read_frames
from yoloflow.data.sources import Camera, Frame, open_sources
from yoloflow.detector import Detector, DetectSettings, Result, counted, find_parts
from yoloflow.evaluation.coco_ids import CocoIds
from yoloflow.report.prediction_formats import FORMATS, Naming
from yoloflow.report.prediction_writer import PredictionWriter, check_free
from yoloflow.structures import Problem, YoloflowError, plural

logger = logging.getLogger("yoloflow")

_REPORT_SECONDS = 10.0
_NUM_NAMED = 10


@dataclass(frozen=True, slots=True)
class PredictSettings:
    """The settings of detection and of the files.

    Attributes:
        conf_thres: scores must be above it; iou_thres: largest IoU of two detections of a class.
        img_size: longer side of the network input in pixels; the run's by default.
        classes: names or numbers of the classes to report; all by default.
        max_det: detections of an image at most; the run's by default, whose reaching is warned of.
        multi_label: a box counts for each class whose score passes, as in evaluation, not for its best alone.
        overrides: `key=value` texts over the run's settings, such as `data.test_rect=true`.
        device: "auto" or torch's name of one.
        batch_size: images at a time; None for 8, and for 1 where a camera is among the sources.
        max_images: stop after so many images and frames; None for all.
        formats: of the files: json, coco, yolo, crops, and cutouts of a network that predicts masks.
        scores: rows of format yolo end with the score; without it they are labels to correct and train on.
        annotations: COCO json whose image and category ids the format coco takes.
        save_images: draw images and videos too.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.7
    img_size: int | None = None
    classes: Sequence[str | int] | None = None
    max_det: int | None = None
    multi_label: bool = False
    overrides: Sequence[str] = ()
    device: str = "auto"
    batch_size: int | None = None
    max_images: int | None = None
    formats: Sequence[str] = ("json",)
    scores: bool = True
    annotations: str | Path | None = None
    save_images: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise YoloflowError(f"{name}={value}: must be 1 or more")
        if self.annotations is not None and "coco" not in self.formats:
            raise YoloflowError("annotations: they give the ids of format coco, which is not asked for")


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """The outcome of `predict`.

    Attributes:
        save_dir: where everything lies.
        paths: the files or folders of the detections, by format.
        num_images: images and video frames.
        counts: detections of each class that was found, the most frequent first.
        problems: files that could not be read or drawn, and videos that end early; also in `problems.json`.
        seconds: wall time without loading the network.
    """

    save_dir: Path
    paths: dict[str, Path]
    num_images: int
    counts: dict[str, int]
    problems: list[Problem]
    seconds: float

    @property
    def num_detections(self) -> int:
        """The number of detections in all images."""
        return sum(self.counts.values())


def predict(
    weights: str | Path,
    sources: Sequence[str],
    save_dir: str | Path | None = None,
    settings: PredictSettings | None = None,
) -> PredictSummary:
    """Detects objects in images, videos or a camera; writes detections and the images with boxes drawn.

    Ctrl-C is how a camera ends; with other sources the KeyboardInterrupt is raised on. Either way the files
    are whole and hold what was done.

    Args:
        weights: a run folder (its best weights are taken), a weights file inside one, or an exported file.
        sources: files, folders, glob patterns, `camera:0`, addresses of streams, and `-` for paths on
            standard input, one a line.
        save_dir: a folder without predictions; by default `predictions`, numbered, in the run folder, or
            beside an exported file.
        settings: of detection and files.

    Raises:
        YoloflowError: run, weights, sources or settings are not usable, or nothing could be read.
    """
    settings = settings or PredictSettings()
    # 1. The sources
    opened = open_sources(sources)
    has_camera = any(isinstance(source, Camera) for source in opened)
    batch_size = settings.batch_size or (1 if has_camera else 8)

    # 2. The network, its classes and its input size
    detector = Detector.load(weights, settings.img_size, settings.device, settings.overrides)
    numbers = detector.class_numbers(settings.classes)
    limits = (settings.conf_thres, settings.iou_thres, numbers, settings.max_det)
    wanted = DetectSettings(*limits, multi_label=settings.multi_label)
    detector.check(wanted)
    _check_formats(settings.formats, detector, weights)

    # 3. Names and ids of images and classes in the files
    problems: list[Problem] = []
    naming, ids = _naming(settings, detector.names, numbers, problems)

    # 4. Batch by batch: read, detect, write
    parent = find_parts(weights, overrides=settings.overrides).home
    folder = Path(save_dir) if save_dir is not None else _next_folder(parent / "predictions")
    check_free(folder, settings.formats)
    num_images, counts, start = 0, Counter[str](), time.monotonic()
    frames = _first_frames(read_frames(opened, problems, 2 * batch_size), settings.max_images, problems)
    with PredictionWriter(folder, naming, settings.formats, settings.save_images, problems) as writer:
        try:
            for frame, found in _with_log(detector.detect_all(frames, wanted, batch_size)):
                writer.write(frame, found)
                num_images += 1
                counts.update(found.counts)
        except KeyboardInterrupt:
            logger.info("stopped after %s; what was done is in %s", plural(num_images, "image"), folder)
            if not has_camera:
                raise

    # 5. The account
    done = (folder, writer.paths, num_images, dict(counts.most_common()), problems)
    return _report(PredictSummary(*done, seconds=time.monotonic() - start), settings, ids)


def _first_frames(frames: Iterator[Frame], most: int | None, problems: Sequence[Problem]) -> Iterator[Frame]:
    """Returns so many frames at most; one is read at once, as what cannot be read should leave no folder."""
    first = next(frames, None)
    if first is None:
        raise YoloflowError(
            f"none of the {len(problems)} files could be read; first {problems[0]}"
            if problems
            else "no image came: the list on standard input is empty, or it ended at once"
        )
    return itertools.islice(itertools.chain([first], frames), most)


def _check_formats(formats: Sequence[str], detector: Detector, weights: str | Path) -> None:
    """Raises YoloflowError where a format needs masks that the network does not predict."""
    for name in formats:
        if name in FORMATS and FORMATS[name].needs_masks and not detector.network.output_kind.mask_channels:
            raise YoloflowError(f"format {name} needs masks, and {weights} predicts boxes alone; take crops")


def _naming(
    settings: PredictSettings, names: Sequence[str], numbers: Sequence[int] | None, problems: list[Problem]
) -> tuple[Naming, CocoIds | None]:
    naming = Naming(names, scores=settings.scores)
    if settings.annotations is None:
        return naming, None
    ids = CocoIds(settings.annotations, problems)
    return replace(naming, category_ids=ids.category_ids(names, numbers), take_image_id=ids.take), ids


def _with_log(results: Iterator[tuple[Frame, Result]]) -> Iterator[tuple[Frame, Result]]:
    """Passes results on; the log names the first, and says every now and then how many there were."""
    start = said = time.monotonic()
    num_named = 0
    for count, (frame, found) in enumerate(results, 1):
        yield frame, found
        if frame.number is None and num_named <= _NUM_NAMED:
            num_named += 1
            if num_named <= _NUM_NAMED:
                logger.info("%s: %s", frame.name, counted(found.counts) or "nothing")
            else:
                logger.info("(further images are counted, not named)")
        if (now := time.monotonic()) - said > _REPORT_SECONDS:
            logger.info("%d images so far, %.1f a second", count, count / (now - start))
            said = now


def _report(summary: PredictSummary, settings: PredictSettings, ids: CocoIds | None) -> PredictSummary:
    """Logs what was done, and writes down what was not."""
    problems = summary.problems
    if problems:
        content = json.dumps([asdict(problem) for problem in problems], indent=1)
        (summary.save_dir / "problems.json").write_text(content + "\n")
    if ids is not None and ids.num_left:
        logger.warning(
            "%s: %d of its images were not predicted; an evaluation counts their objects as missed",
            *(ids.path, ids.num_left),
        )
    rate = summary.num_images / max(summary.seconds, 1e-9)
    logger.info(
        "%s in %s (%.1f s, %.1f images a second)%s",
        *(plural(summary.num_detections, "detection"), plural(summary.num_images, "image")),
        *(summary.seconds, rate),
        f": {counted(summary.counts)}" if summary.counts else "",
    )
    if not summary.counts and settings.conf_thres > 0:
        logger.info("nothing scores above conf_thres=%g; a lower one shows weaker ones", settings.conf_thres)
    drawn = "drawn images and " if settings.save_images else ""
    files = ", ".join(path.name for path in summary.paths.values())
    logger.info("in %s: %s%s", summary.save_dir, drawn, files)
    if problems:
        logger.warning(
            "%s, such as %s; all are in %s",
            *(plural(len(problems), "problem"), problems[0], summary.save_dir / "problems.json"),
        )
    return summary


def _next_folder(path: Path) -> Path:
    """Returns the path, or the first numbered one that does not exist yet."""
    number, candidate = 2, path
    while candidate.exists():
        number, candidate = number + 1, path.with_name(f"{path.name}-{number}")
    return candidate
