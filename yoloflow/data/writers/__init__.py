"""Data sets written in the formats that are read. A new one is a file here, and a line in `WRITERS`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from yoloflow.data.writers import coco_json, voc_xml, yolo_txt
from yoloflow.data.writers.target import Target, Writer, check_target, write_split

__all__ = ["WRITERS", "Target", "Writer", "check_target", "write_split"]

WRITERS: Mapping[str, Writer] = MappingProxyType(
    {
        "coco": Writer(coco_json.write, coco_json.places),
        "voc": Writer(voc_xml.write, voc_xml.places),
        "yolo": Writer(yolo_txt.write, yolo_txt.places),
    }
)
