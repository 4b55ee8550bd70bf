"""The heads and losses of the families, by the names that recipes use: `YOLOv8Head`, `YOLOv8Loss`."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, NamedTuple

Kind = Literal["Head", "Loss"]

ROOMS: dict[Kind, str] = {"Head": "yoloflow.models.heads", "Loss": "yoloflow.losses"}


class Family(NamedTuple):
    """The parts that a family has of its own.

    Each is a class, or "module:class" inside its room, which is imported when it is first used.
    """

    head: str | type | None = None
    loss: str | type | None = None


FAMILIES: dict[str, Family] = {
    "YOLOX": Family("yolox:YOLOXHead", "yolox:YOLOXLoss"),
    "YOLOv10": Family("yolov8:YOLOv10Head", "paired:YOLOv10Loss"),
    "YOLOv11": Family("yolov8:YOLOv11Head", "yolov8:YOLOv8Loss"),
    "YOLOv3": Family("anchor:AnchorHead", "anchor_based:AnchorLoss"),
    "YOLOv4": Family("yolov4:YOLOv4Head", "yolov4:YOLOv4Loss"),
    "YOLOv5": Family("anchor:AnchorHead", "anchor_based:AnchorLoss"),
    "YOLOv7": Family("anchor:YOLOv7Head", "yolov7:YOLOv7Loss"),
    "YOLOv7Aux": Family("anchor:YOLOv7AuxHead", "yolov7:YOLOv7AuxLoss"),
    "YOLOv8": Family("yolov8:YOLOv8Head", "yolov8:YOLOv8Loss"),
    "YOLOv8Seg": Family("segment:YOLOv8SegHead", "segment:YOLOv8SegLoss"),
    "YOLOv9": Family("yolov8:YOLOv9Head", "paired:YOLOv9Loss"),
}


def part_names(kind: Kind) -> list[str]:
    """Returns the names of all heads or all losses."""
    return [f"{name}{kind}" for name, family in FAMILIES.items() if _part(family, kind) is not None]


def load_part(kind: Kind, name: str) -> type:
    """Returns the class of one of `part_names(kind)`."""
    part = _part(FAMILIES[name.removesuffix(kind)], kind)
    if not isinstance(part, str):
        assert part is not None
        return part
    module, _, class_name = part.partition(":")
    found: type = getattr(import_module(f"{ROOMS[kind]}.{module}"), class_name)
    return found


def _part(family: Family, kind: Kind) -> str | type | None:
    return family.head if kind == "Head" else family.loss
