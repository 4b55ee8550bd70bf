"""The command predict."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from yoloflow.cli.console import KeyValueCommand, app, mistake, show_path

EXIT_WITH_PROBLEMS = 1

Weights = Annotated[
    str,
    typer.Argument(
        metavar="RUN|FILE|RECIPE",
        help="a run folder, a weights file inside one, a file of `yoloflow export`, or a recipe with "
        "weight=FILE among the settings",
    ),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="images, videos, folders, globs, camera:0, rtsp://..., or - for paths on standard input; "
        "options (conf_thres=0.5) and the run's settings (data.test_rect=true) may be given as KEY=VALUE",
    ),
]
SaveDir = Annotated[
    Path | None,
    typer.Option(help="folder for the results (default: predictions in the run folder, numbered)"),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="json (default), coco, yolo, crops or cutouts (of masks, PNG with alpha); may be repeated",
    ),
]
Annotations = Annotated[
    Path | None, typer.Option(help="COCO json whose image and category ids format coco takes")
]
Confidence = Annotated[float, typer.Option(min=0, max=1, help="lowest score of a detection")]
Overlap = Annotated[float, typer.Option(min=0, max=1, help="largest overlap of two of a class")]
MaxDetections = Annotated[
    int | None, typer.Option(min=1, help="detections of an image at most (default: the run's max_det)")
]
Scores = Annotated[
    bool, typer.Option(help="format yolo: the score at the end of each row; without, labels to train on")
]
MultiLabel = Annotated[
    bool, typer.Option("--multi-label", help="report a box for each class that passes, as `test` does")
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="longer side of the network input (default: the run's)")
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", "--classes", help="name or number of a class to report; may be repeated"),
]
Device = Annotated[str, typer.Option(help="auto or torch's name of one")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="images at a time (default: 8; 1 with a camera)")]
MaxImages = Annotated[int | None, typer.Option(min=1, help="stop after so many images and frames")]
SaveImages = Annotated[bool, typer.Option(help="draw images and videos too")]


# A source that looks like KEY=VALUE is given as ./KEY=VALUE.
_SETTING = re.compile(r"[a-z_][a-z0-9_.]*=")


@app.command("predict", cls=KeyValueCommand)
def detect(  # noqa: PLR0913  one parameter for each option
    weights: Weights,
    sources: Sources,
    save_dir: SaveDir = None,
    formats: Formats = None,
    annotations: Annotations = None,
    conf_thres: Confidence = 0.25,
    iou_thres: Overlap = 0.7,
    max_det: MaxDetections = None,
    multi_label: MultiLabel = False,
    img_size: ImageSize = None,
    classes: Classes = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    max_images: MaxImages = None,
    save_images: SaveImages = True,
    scores: Scores = True,
) -> None:
    """Detect objects in images, videos or a camera: files of detections, and drawn images; masks too.

    The exit code is 1 where some files could not be read; problems.json names them. Ctrl-C and SIGTERM end it
    with 130 and 143; the files hold what was done.
    """
    from yoloflow.predict import PredictSettings, predict

    files, overrides = _apart(sources)
    settings = PredictSettings(
        conf_thres=conf_thres,
        iou_thres=iou_thres,
        img_size=img_size,
        classes=classes,
        max_det=max_det,
        multi_label=multi_label,
        overrides=overrides,
        device=device,
        batch_size=batch_size,
        max_images=max_images,
        formats=formats or ["json"],
        scores=scores,
        annotations=annotations,
        save_images=save_images,
    )
    asked = [signal.SIGINT]

    def end(number: int, _frame: FrameType | None) -> None:
        asked[0] = signal.Signals(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)  # as Ctrl-C does it: the files hold what was done
    try:
        done = predict(weights, files, save_dir, settings)
    except KeyboardInterrupt:
        raise typer.Exit(128 + asked[0]) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    for path in done.paths.values():
        show_path(path)
    if done.problems:
        raise typer.Exit(EXIT_WITH_PROBLEMS)


def _apart(texts: list[str]) -> tuple[list[str], list[str]]:
    """Returns the sources, and the settings among them."""
    overrides = [text for text in texts if _SETTING.match(text) and not Path(text).exists()]
    for text in overrides:
        if text.startswith(("source=", "sources=")):
            raise mistake(f"{text}: sources are given without a key: {text.partition('=')[2]}")
    return [text for text in texts if text not in overrides], overrides
