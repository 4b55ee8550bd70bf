"""Annotation formats. A new one is a file here with `recognises` and `read`, and a line in `FORMATS`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from yoloflow.data.formats import coco_json, voc_png, voc_xml, yolo_txt
from yoloflow.data.formats.annotations import Annotations
from yoloflow.data.formats.voc_files import Content
from yoloflow.data.formats.yolo_txt import label_file
from yoloflow.structures import Problem


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
    "png": Format(voc_png.recognises, voc_png.read),
    "yolo": Format(yolo_txt.recognises, yolo_txt.read, has_keypoints=True),
}


def other_labels(source: str, chosen: str) -> list[Problem]:
    """Finds labels of the format that was not chosen for a folder.

    Args:
        source: the folder, or another source, which has none.
        chosen: name of the format that it is read in.
    """
    if chosen not in ("voc", "yolo") or not os.path.isdir(source):
        return []
    content = Content.of(source)
    if chosen == "yolo":
        what = content.xmls
        words = "XML files lie there too; the folder is read by its YOLO labels, which are more"
    else:
        what = [path for path in map(label_file, content.images) if path is not None]
        words = "YOLO labels lie there too; the folder is read by its XML files"
    if not what:
        return []
    return [Problem(source, None, "other-labels", "keep", f"{len(what)} {words}, such as {what[0]}")]
