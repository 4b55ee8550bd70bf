"""Stated sizes that are not the images': boxes of another frame are turned, those of another image named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from yoloflow.data.formats.annotations import Annotations, offsets_of, rows_of_ragged
from yoloflow.data.formats.outlines import mask_of_pixels, pixels_of_mask
from yoloflow.data.image_files import ImageHeader
from yoloflow.structures import Int64Array, Problem

# By EXIF's orientation: the axes that are mirrored first, and whether they are exchanged then.
_MIRRORS_X, _MIRRORS_Y = (2, 3, 7, 8), (3, 4, 6, 7)
_EXCHANGES = 5
_INVERSE = {6: 8, 8: 6}
_OVER_PX = 1.0


def turn_raw_annotations(annotations: Annotations, headers: Mapping[int, ImageHeader]) -> dict[int, Problem]:
    """Turns what was drawn on images in another frame than they are decoded in, in place.

    A stated size that is the one before EXIF's rotation, with boxes that fit it, was written by a program
    that does not look at EXIF. Where all such sizes of a json, or of a folder of XML files, say so, those of
    its images whose sizes say nothing are meant so too: squares, and turns by 180 degrees. Likewise for
    programs that follow XMP, which decoding does not.

    Args:
        annotations: of the source.
        headers: of images by number.

    Returns:
        a problem for each image whose annotation was turned.
    """
    by_image = np.argsort(annotations.box_images, kind="stable")
    offsets = offsets_of(np.bincount(annotations.box_images, minlength=len(annotations.image_paths)))
    frames: dict[tuple[str, str], dict[int, _Frame]] = defaultdict(dict)
    for image, header in headers.items():
        frame = _other_frame(header)
        if frame is not None:
            found = by_image[offsets[image] : offsets[image + 1]]
            frame.boxes = found[~annotations.is_normalised[found]]
            frames[annotations.source_of(image), frame.reason][image] = frame
    problems = {}
    for (source, reason), of_source in frames.items():
        is_source_meant = _is_meant(annotations, of_source)
        for image, frame in of_source.items():
            stated = tuple(annotations.stated_sizes_hw[image].tolist())
            is_stated = frame.size_hw != frame.decoded_hw and stated in (frame.size_hw, frame.decoded_hw)
            if not (_is_meant(annotations, {image: frame}) if is_stated else is_source_meant):
                continue
            _turn(annotations, frame)
            path, label = annotations.image_paths[image], annotations.label_files[image]
            detail = (
                f"{path}: what was drawn on it is turned, because the sizes in {source} are those {reason}"
            )
            problems[image] = Problem(label, None, "raw-frame-boxes", "keep", detail, path)
    return problems


@dataclass(slots=True)
class _Frame:
    """Another frame of an image: its size, the size as decoded, and how EXIF's numbers lead from it there."""

    size_hw: tuple[int, int]
    decoded_hw: tuple[int, int]
    orientation: int
    reason: str
    boxes: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))


def _other_frame(header: ImageHeader) -> _Frame | None:
    decoded = (header.height, header.width)
    asked = header.orientation if header.orientation != 1 else header.xmp_orientation
    size = decoded[::-1] if asked >= _EXCHANGES else decoded
    if header.orientation != 1:
        return _Frame(size, decoded, asked, "before the rotation by EXIF")
    back = _INVERSE.get(asked, asked)
    return None if asked == 1 else _Frame(size, decoded, back, "after the rotation by XMP, which is not done")


def _is_meant(annotations: Annotations, frames: Mapping[int, _Frame]) -> bool:
    """Returns whether sizes and boxes agree with the other frame of images, and not with the decoded one."""
    num_agreeing = 0
    for image, frame in frames.items():
        stated = tuple(annotations.stated_sizes_hw[image].tolist())
        if frame.size_hw == frame.decoded_hw or stated not in (frame.size_hw, frame.decoded_hw):
            continue
        reach_yx = np.nan_to_num(annotations.boxes_xyxy[frame.boxes][:, [3, 2]]).max(0, initial=0)
        fits, fits_decoded = (
            (reach_yx <= np.array(size) + _OVER_PX).all() for size in (frame.size_hw, frame.decoded_hw)
        )
        if stated == frame.decoded_hw or (fits_decoded and not fits):
            return False
        num_agreeing += 1
    return num_agreeing > 0


def size_problems(
    annotations: Annotations, headers: Mapping[int, ImageHeader], turned: Collection[int]
) -> list[Problem]:
    """Returns a problem for each entry that states another size than its image has; boxes stay as they are.

    Harmless is a size that is off by a pixel or has its sides exchanged, one of an image without objects, and
    one that boxes of the same file show to be wrong, as they fit the image only. Else the boxes are most
    likely those of another image, or of one of another size.

    Args:
        annotations: of the source, each entry with its own boxes.
        headers: of images by number.
        turned: images whose annotation was turned already.
    """
    reach_yx = np.zeros((len(annotations.image_paths), 2))
    boxes = np.flatnonzero(~annotations.is_normalised)
    ends = np.nan_to_num(annotations.boxes_xyxy[boxes][:, [3, 2]])
    np.maximum.at(reach_yx, annotations.box_images[boxes], ends)
    verdicts: dict[str, set[bool]] = defaultdict(set)
    found = {}
    for image, header in headers.items():
        stated, size = annotations.stated_sizes_hw[image], np.array((header.height, header.width))
        if image in turned or not stated.all() or (stated == size).all():
            continue
        fits, fits_stated = ((reach_yx[image] <= edge + _OVER_PX).all() for edge in (size, stated))
        if fits != fits_stated:
            verdicts[annotations.source_of(image)].add(bool(fits))
        is_near = np.abs(stated - size).max() <= _OVER_PX or (stated == size[::-1]).all()
        found[image] = (bool(fits), bool(fits_stated), bool(is_near or not reach_yx[image].any()))
    problems = []
    for image, (fits, fits_stated, is_harmless) in found.items():
        is_shown = fits if fits != fits_stated else verdicts[annotations.source_of(image)] == {True}
        is_foreign = not is_shown and not (is_harmless and fits)
        problems.append(_size_problem(annotations, image, headers[image], is_foreign))
    return list(dict.fromkeys(problems))


def _size_problem(annotations: Annotations, image: int, header: ImageHeader, is_foreign: bool) -> Problem:
    path, label = annotations.image_paths[image], annotations.label_files[image]
    stated_h, stated_w = annotations.stated_sizes_hw[image].tolist()
    turned = " after its EXIF rotation" if header.orientation >= _EXCHANGES else ""
    what = f"is stated as {stated_w} x {stated_h} (width x height) but has {header.width} x {header.height}"
    if not is_foreign:
        detail = f"{path} {what}{turned}; the file's size is used, the boxes are taken as they stand"
        return Problem(label, None, "size-mismatch", "keep", detail, path)
    detail = (
        f"{path} {what}{turned}: its boxes may be those of another image, or of one that was resized "
        "since; give the image that they were drawn on, or the boxes of this one"
    )
    return Problem(label, None, "foreign-size", "keep", detail, path)


def _turn(annotations: Annotations, frame: _Frame) -> None:
    boxes, orientation = frame.boxes, frame.orientation
    height, width = frame.size_hw
    # A box of negative width keeps it, and is found later.
    corners = annotations.boxes_xyxy[boxes]
    if orientation in _MIRRORS_X:
        corners[:, [0, 2]] = width - corners[:, [2, 0]]
    if orientation in _MIRRORS_Y:
        corners[:, [1, 3]] = height - corners[:, [3, 1]]
    annotations.boxes_xyxy[boxes] = corners[:, [1, 0, 3, 2]] if orientation >= _EXCHANGES else corners
    rows, _ = rows_of_ragged(annotations.polygon_offsets, boxes)
    points = annotations.polygon_points[rows]
    if orientation in _MIRRORS_X:
        points[:, 0] = width - points[:, 0]
    if orientation in _MIRRORS_Y:
        points[:, 1] = height - points[:, 1]
    annotations.polygon_points[rows] = points[:, ::-1] if orientation >= _EXCHANGES else points
    for box in boxes.tolist():
        if box in annotations.masks:
            pixels = pixels_of_mask(annotations.masks[box])
            pixels = pixels[:, ::-1] if orientation in _MIRRORS_X else pixels
            pixels = pixels[::-1] if orientation in _MIRRORS_Y else pixels
            annotations.masks[box] = mask_of_pixels(pixels.T if orientation >= _EXCHANGES else pixels)
