"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloflow.cli.console import app


@app.command("predict")
def detect(
    weights: Annotated[
        str, typer.Argument(metavar="RUN|WEIGHTS", help="a run folder, or a weights file inside one")
    ],
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="pictures, videos, folders or globs")
    ],
    save_dir: Annotated[
        Path | None,
        typer.Option(help="folder for the results (default: predictions in the run folder, numbered)"),
    ] = None,
    conf_thres: Annotated[float, typer.Option(min=0, max=1, help="lowest score of a detection")] = 0.25,
    iou_thres: Annotated[float, typer.Option(min=0, max=1, help="largest overlap of two of a class")] = 0.7,
    img_size: Annotated[
        int | None, typer.Option(min=1, help="side of the network input (default: the run's)")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="name or number of a class to report; may be repeated")
    ] = None,
    device: Annotated[str, typer.Option(help="auto or torch's name of one")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="pictures at a time")] = 8,
    save_images: Annotated[bool, typer.Option(help="draw pictures and videos too")] = True,
) -> None:
    """Detect objects in pictures and videos: JSON and drawn pictures."""
    from yoloflow.predict import predict

    done = predict(
        weights,
        sources,
        save_dir=save_dir,
        conf_thres=conf_thres,
        iou_thres=iou_thres,
        img_size=img_size,
        classes=classes,
        device=device,
        batch_size=batch_size,
        save_images=save_images,
    )
    typer.echo(done.json_path)
