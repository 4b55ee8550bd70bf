"""Boxes that cannot be trained on as they stand: found for all at once, clipped or dropped, named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.annotations import Annotations, rows_of_ragged
from yoloflow.data.problems import Policy
from yoloflow.structures import Float32Array, Int64Array, Problem

BOX_KINDS = (
    "box-nan",
    "box-negative",
    "box-zero-area",
    "box-over-one",
    "mask-unusable",
    "outline-empty",
    "outline-mismatch",
    "duplicate-box",
)
"""The kinds of problems that are found here."""

_FAR_BEYOND = 0.1
"""A box that passes the edge by more than this part of the image's side was hardly drawn on this image."""

EDGE_TOLERANCE_PX = 0.5
"""A box that passes the edge of the image by no more than this was rounded; it stays as written."""

OUTLINE_TOLERANCE_PX = 2.0
OUTLINE_TOLERANCE = 0.02
"""An outline may end so far from its box, in pixels or in parts of the box's side, whichever is more."""

VOID_BAND_PX = 6.0
"""PASCAL's masks may end so far from their boxes: a band of no object, 5 px wide, is along their borders."""

LEAST_AREA_PX = 0.01
"""An outline around less than this is a line or a point."""

_OUTLINES_AT_ONCE = 2**15


def boxes_to_pixels(
    annotations: Annotations, sizes_hw: Int64Array | NDArray[np.float64]
) -> tuple[NDArray[np.float64], Float32Array]:
    """Returns (M, 4) boxes and (P, 2) polygon points in pixels of their images, of (I, 2) sizes."""
    sizes_wh = sizes_hw[annotations.box_images][:, ::-1]
    scales = np.where(annotations.is_normalised[:, None], sizes_wh, 1)
    # A product of two float32 numbers is the same in either type, rounded to float32.
    point_scales = np.repeat(scales.astype(np.float32), np.diff(annotations.polygon_offsets), axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = annotations.boxes_xyxy * np.tile(scales, 2)
        return boxes, annotations.polygon_points * point_scales


class BoxRepair:
    """Repairs boxes in place, one check after the other; a box that one check drops the next does not see.

    Attributes:
        boxes_xyxy: (M, 4) float64 pixels; polygon_points: (P, 2) float32 pixels.
        kept: (M,) bool, boxes not dropped so far; without_outline: (M,) bool, boxes that lose their outline.
        problems: what was found.
    """

    def __init__(
        self,
        annotations: Annotations,
        sizes_hw: Int64Array | NDArray[np.float64],
        kept: NDArray[np.bool_],
        policy: Policy,
        *,
        as_they_stand: bool = False,
    ) -> None:
        """Takes the boxes, none repaired yet.

        Args:
            annotations: with the boxes.
            sizes_hw: (I, 2) of the images, infinite where an image has no known edge.
            kept: (M,) boxes to look at.
            policy: what is done.
            as_they_stand: whatever is a box stays as it is, and what else would be done is only noted.
        """
        self.boxes_xyxy, self.polygon_points = boxes_to_pixels(annotations, sizes_hw)
        self.kept = kept.copy()
        self.without_outline = np.zeros(len(kept), bool)
        self.problems: list[Problem] = []
        self._annotations = annotations
        self._policy = policy
        self._as_they_stand = as_they_stand
        self._far = np.zeros(len(kept), bool)
        self._limits = np.tile(sizes_hw[annotations.box_images][:, ::-1], 2).astype(np.float64)

    def run(self) -> None:
        """All checks in their order."""
        self._drop("box-nan", ~np.all(np.isfinite(self.boxes_xyxy), axis=1))
        # Comparisons with what is NaN are false, and such boxes are dropped already.
        with np.errstate(invalid="ignore"):
            sizes = self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]
            self._drop("box-negative", np.any(sizes < 0, axis=1))
            self._drop_or_note("box-zero-area", np.any(sizes == 0, axis=1))
            self._clip_to_image()
            self._part_from_outlines()
        self._drop_duplicates()

    def _clip_to_image(self) -> None:
        below = np.any(self.boxes_xyxy < -EDGE_TOLERANCE_PX, axis=1)
        above = np.any(self.boxes_xyxy > self._limits + EDGE_TOLERANCE_PX, axis=1)
        clipped = np.clip(self.boxes_xyxy, 0, self._limits)
        is_outside = np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
        self._far = np.any(np.abs(clipped - self.boxes_xyxy) > _FAR_BEYOND * self._limits, axis=1)
        for kind, wrong in (("box-negative", below), ("box-over-one", above & ~below)):
            if self._as_they_stand:
                self._note(kind, "keep", np.flatnonzero(wrong & self.kept))
                continue
            self._drop(kind, wrong & (is_outside | (self._policy.repair(kind) != "clip-box")))
            chosen = np.flatnonzero(wrong & self.kept)
            self._note(kind, "clip-box", chosen)
            self.boxes_xyxy[chosen] = clipped[chosen]
            points, offsets = rows_of_ragged(self._annotations.polygon_offsets, chosen)
            limits = np.repeat(self._limits[chosen, 2:], np.diff(offsets), axis=0)
            self.polygon_points[points] = np.clip(self.polygon_points[points], 0, limits)
        self._far[:] = False

    def _part_from_outlines(self) -> None:
        """Drops outlines without area or elsewhere than their boxes: transforms take an outline's extent."""
        counts = np.diff(self._annotations.polygon_offsets)
        is_flat, has_other_size = np.zeros((2, len(self.kept)), bool)
        for box, mask in self._annotations.masks.items():
            is_flat[box] = True
            has_other_size[box] = tuple(mask["size"]) != tuple(self._limits[box, [3, 2]])
        self._leave_outlines("mask-unusable", has_other_size)
        is_flat &= (counts == 0) & ~self._annotations.is_crowd
        boxes = np.flatnonzero(counts > 0)
        if not len(boxes):
            self._leave_outlines("outline-empty", is_flat)
            return
        groups = np.split(boxes, range(_OUTLINES_AT_ONCE, len(boxes), _OUTLINES_AT_ONCE))
        extents, areas = map(np.concatenate, zip(*map(self._clip_outlines, groups), strict=True))
        is_flat[boxes] = areas < LEAST_AREA_PX
        self._leave_outlines("outline-empty", is_flat)
        if self._as_they_stand:
            return
        sides = np.tile(self.boxes_xyxy[boxes, 2:] - self.boxes_xyxy[boxes, :2], 2)
        allowed = np.maximum(self._tolerances_px()[boxes, None], OUTLINE_TOLERANCE * sides)
        far = np.zeros(len(self.kept), bool)
        far[boxes] = np.any(np.abs(extents - self.boxes_xyxy[boxes]) > allowed, axis=1)
        far &= ~is_flat
        self._leave_outlines("outline-mismatch", far, dict(zip(boxes.tolist(), extents, strict=True)))

    def _clip_outlines(self, boxes: Int64Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Clips outlines of successive boxes to their images; returns (N, 4) extents and (N,) areas."""
        offsets = self._annotations.polygon_offsets
        begin, counts = offsets[boxes[0]], offsets[boxes + 1] - offsets[boxes]
        points = self.polygon_points[begin : offsets[boxes[-1] + 1]]
        inside = np.clip(points, 0, np.repeat(self._limits[boxes, 2:], counts, axis=0))
        beyond = np.any(np.abs(inside - points) > EDGE_TOLERANCE_PX, axis=1)
        if not self._as_they_stand:
            points[beyond] = inside[beyond]
        starts = offsets[boxes] - begin
        extents = np.hstack((np.minimum.reduceat(inside, starts), np.maximum.reduceat(inside, starts)))
        return extents, _fan_areas(inside, starts, counts)

    def _tolerances_px(self) -> NDArray[np.float64]:
        tolerances = np.full(len(self.kept), OUTLINE_TOLERANCE_PX)
        for box in self._annotations.masks:
            file, _, _ = self._annotations.place_of_box(box)
            tolerances[box] = VOID_BAND_PX if file.lower().endswith(".xml") else OUTLINE_TOLERANCE_PX
        return tolerances

    def _leave_outlines(
        self, kind: str, wrong: NDArray[np.bool_], extents: Mapping[int, Float32Array] | None = None
    ) -> None:
        """Drops outlines, or their boxes where the policy says so, and names the outlines' extents."""
        chosen, first = np.flatnonzero(wrong & self.kept), len(self.problems)
        if self._policy.repair(kind) == "drop-box":
            self._drop(kind, wrong)
        else:
            self.without_outline[chosen] = True
            self._note(kind, "keep", chosen)
        for number, box in enumerate(chosen.tolist(), first):
            if extents is None:
                break
            ends = ", ".join(f"{end:g}" for end in extents[box])
            detail = f"{self.problems[number].detail}, its outline's {ends} px"
            self.problems[number] = replace(self.problems[number], detail=detail)

    def _drop_duplicates(self) -> None:
        rows = np.flatnonzero(self.kept)
        source = self._annotations
        columns = [source.box_images, source.class_ids, source.is_crowd, *self.boxes_xyxy.T]
        # Adding zero makes -0 the 0 that it equals.
        keys = np.stack([column[rows].astype(np.float64) + 0.0 for column in columns], 1)
        alike = _with_equal_sums(keys)
        rows, keys = rows[alike], keys[alike]
        order = np.lexsort(keys.T[::-1])
        repeated = np.zeros(len(self.kept), bool)
        # The sort is stable, so the first of equal boxes in the file is the one that stays.
        is_equal = (keys[order[1:]] == keys[order[:-1]]).all(1)
        first, outlines = -1, set[bytes]()
        for number in np.flatnonzero(is_equal).tolist():
            before, box = rows[order[number]], rows[order[number + 1]]
            if number == 0 or not is_equal[number - 1]:
                first, outlines = before, {self._outline(before)}
            # Objects of different outlines may have equal boxes.
            outline = self._outline(box)
            repeated[box] = not (outline and self._outline(first)) or outline in outlines
            outlines.add(outline)
        self._drop_or_note("duplicate-box", repeated)

    def _outline(self, box: int) -> bytes:
        """Returns the points of a box's outline as the source has them, to be compared."""
        begin, end = self._annotations.polygon_offsets[box : box + 2]
        return self._annotations.polygon_points[begin:end].tobytes()

    def _drop_or_note(self, kind: str, wrong: NDArray[np.bool_]) -> None:
        if self._as_they_stand or self._policy.repair(kind) == "keep":
            self._note(kind, "keep", np.flatnonzero(wrong & self.kept))
        else:
            self._drop(kind, wrong)

    def _drop(self, kind: str, wrong: NDArray[np.bool_]) -> None:
        chosen = np.flatnonzero(wrong & self.kept)
        self._note(kind, "drop-box", chosen)
        self.kept[chosen] = False

    def _note(self, kind: str, action: str, chosen: NDArray[Any]) -> None:
        for box in chosen:
            file, line, prefix = self._annotations.place_of_box(int(box))
            is_normalised = bool(self._annotations.is_normalised[box])
            unit = "of the image" if is_normalised else "px"
            x1, y1, x2, y2 = self._annotations.boxes_xyxy[box]
            detail = f"{prefix}the box's left, top, right, bottom are {x1:g}, {y1:g}, {x2:g}, {y2:g} {unit}"
            if self._far[box]:
                detail += self._likely_cause(box, is_normalised, is_in_json=bool(prefix))
            image = self._annotations.image_paths[self._annotations.box_images[box]]
            self.problems.append(Problem(file, line, kind, action, detail, image))

    def _likely_cause(self, box: int, is_normalised: bool, *, is_in_json: bool) -> str:
        """Returns the end of a sentence about a box that ends far outside of its image."""
        if is_normalised:
            return "; are these pixels, percent, or corners instead of a centre and a size?"
        width, height = self._limits[box, 2:].tolist()
        known = f" of {width:g} x {height:g} (width x height)" if np.isfinite(width + height) else ""
        corners = ", or corners instead of x, y, width, height" if is_in_json else ""
        return f", far outside of the image{known}; is it of another image, of one of another size{corners}?"


def _with_equal_sums(keys: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which rows have the checksum of another row, as equal rows have: far fewer are to be sorted."""
    halves = np.random.default_rng(0).integers(2**63, size=keys.shape[1], dtype=np.uint64)
    odd_factors = halves * np.uint64(2) + np.uint64(1)
    sums = (keys.view(np.uint64) * odd_factors).sum(1, dtype=np.uint64)
    ordered = np.sort(sums)
    return np.isin(sums, ordered[1:][ordered[1:] == ordered[:-1]])


def _fan_areas(points: Float32Array, starts: Int64Array, counts: Int64Array) -> NDArray[np.float64]:
    """Returns the summed areas of the triangles from the first point of each outline to its edges."""
    from_first = (points - np.repeat(points[starts], counts, axis=0)).astype(np.float64)
    following = np.arange(1, len(points) + 1)
    following[starts + counts - 1] = starts
    x, y = from_first.T
    return np.add.reduceat(np.abs(x * y[following] - x[following] * y), starts) / 2
