"""Annotation formats. A new one is a file here with `recognises` and `read`, and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from yoloflow.data.formats import coco_json, voc_xml, yolo_txt
from yoloflow.data.formats.annotations import Annotations


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its test for a source, and its reader.

    Attributes:
        recognises: (source) -> whether it looks like one.
        read: (source, image_folder) -> its annotations.
        has_keypoints: whether `read` takes `kpt_shape` too.
    """

    recognises: Callable[[str], bool]
    read: Callable[..., Annotations]
    has_keypoints: bool = False


# The first that recognises a source reads it: YOLO takes any folder and any list, so it comes last.
FORMATS: dict[str, Format] = {
    "coco": Format(coco_json.recognises, coco_json.read),
    "voc": Format(voc_xml.recognises, voc_xml.read),
    "yolo": Format(yolo_txt.recognises, yolo_txt.read, has_keypoints=True),
}
