"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from yoloflow.cli.console import KeyValueCommand, Overrides, Recipe, app, mistake


@app.command("export", cls=KeyValueCommand)
def export_network(  # noqa: PLR0913  one parameter for each option
    run_or_recipe: Recipe,
    overrides: Overrides = None,
    weight: Annotated[str | None, typer.Option(help="weights file (default: the run's best)")] = None,
    out: Annotated[Path | None, typer.Option(help="the file (default: beside the weights)")] = None,
    img_size: Annotated[
        str | None,
        typer.Option(help="side of the network input, or HEIGHTxWIDTH such as 384x640 (default: the run's)"),
    ] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="take images of any height and width")] = False,
    opset: Annotated[int, typer.Option(help="ONNX operator set, 11 to 20")] = 17,
    half: Annotated[bool, typer.Option("--half", help="compute in half precision: half as large")] = False,
    nms: Annotated[
        bool, typer.Option("--nms", help="put suppression into the file: it gives (B, max_det, 6)")
    ] = False,
    conf_thres: Annotated[
        float | None, typer.Option(min=0, max=1, help="lowest score, with --nms (default: 0.25)")
    ] = None,
    iou_thres: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="largest overlap of two of a class, with --nms (default: 0.7)"),
    ] = None,
    max_det: Annotated[
        int | None, typer.Option(min=1, help="detections of an image at most, with --nms (default: 300)")
    ] = None,
    check_images: Annotated[
        int, typer.Option(min=0, help="validation images on which it is compared with torch")
    ] = 50,
) -> None:
    """Write a network as an ONNX file that says how to use it, and check it against torch."""
    from yoloflow.export import ExportSettings, InnerNms, export

    limits = {"conf_thres": conf_thres, "iou_thres": iou_thres, "max_det": max_det}
    given: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
    if given and not nms:
        raise mistake(f"export: {', '.join(given)}: thresholds are in the file with --nms alone")
    settings = ExportSettings(
        img_size=None if img_size is None else _sides(img_size),
        dynamic=dynamic,
        opset=opset,
        half=half,
        nms=InnerNms(**given) if nms else None,
        check_images=check_images,
    )
    done = export(run_or_recipe, overrides or [], weight=weight, out=out, settings=settings)
    typer.echo(done.path)


def _sides(text: str) -> int | tuple[int, int]:
    """Reads 640, 384x640 or 384,640."""
    sides = text.lower().replace(",", "x").split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() for side in sides):
        raise mistake(f"--img-size {text}: give a side in pixels (640) or HEIGHTxWIDTH (384x640)")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
