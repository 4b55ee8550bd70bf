"""Lines of YOLO labels by their figures: boxes, outlines, keypoints, the columns of trackers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from yoloflow.data.formats.annotations import rows_from
from yoloflow.structures import Float32Array, Int64Array

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

BOX_COLUMNS = 5
_LEAST_OUTLINE_COLUMNS = 7
_TRACK_COLUMNS = 7
# A figure outside is no share of an image: an object does not reach a whole image beyond its edge.
_LEAST, _MOST = -1.0, 2.0
_EDGE = 0.01
_PERCENT = 100
_BESIDE_BOX = 0.6
# Of the lines, or of the keypoints of one: a stray one does not hide what the others are.
_CLEAR_MAJORITY = 0.75
_SMALL_SPREAD = 0.25


def is_known_form(columns: int, kpt_shape: Sequence[int] | None) -> bool:
    """Returns whether a line of so many columns can be read."""
    if columns == BOX_COLUMNS:
        return True
    if kpt_shape is not None:
        return columns == BOX_COLUMNS + kpt_shape[0] * kpt_shape[1]
    return columns >= _LEAST_OUTLINE_COLUMNS and columns % 2 == 1


def describe_columns(columns: int, kpt_shape: Sequence[int] | None) -> str:
    """Returns what is wrong with the number of columns of a line."""
    if kpt_shape is not None:
        count, figures = kpt_shape
        return (
            f"{columns} columns, not {BOX_COLUMNS} (class cx cy w h) or {BOX_COLUMNS + count * figures} "
            f"(and {count} keypoints of {figures} figures, as kpt_shape says)"
        )
    hint = ""
    if columns == BOX_COLUMNS + 1:
        hint = "; a score or a track id after the box?"
    elif columns > BOX_COLUMNS and (columns - BOX_COLUMNS) % 3 == 0:
        hint = f"; keypoints? {_advice((columns - BOX_COLUMNS) // 3, 3)}"
    return f"{columns} columns, not 5 (class cx cy w h) or 7, 9, ... (class and a polygon){hint}"


def _advice(count: int | str, figures: int | str) -> str:
    return f"data.kpt_shape=[{count}, {figures}], or kpt_shape in the data set file, says so"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a line.

    Attributes:
        row: the line; None where it is about all lines.
        kind: of problem; action: what was done; detail: one sentence.
    """

    row: int | None
    kind: str
    action: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Keypoints:
    """What the lines can be that are longer than a box.

    Attributes:
        count: keypoints of a line; figures: of each.
        rows: lines of which this holds.
        are_proven: they can be nothing else, as every third figure is 0, 1 or 2.
    """

    count: int
    figures: int
    rows: Int64Array
    are_proven: bool


@dataclass(slots=True)
class Lines:
    """M lines of a known form, whose figures stand in one row.

    Attributes:
        values: figures of all lines; starts: (M,) where each begins; columns: (M,) its number of figures.
        kpt_shape: keypoints, and figures of each, that follow the box; None where there are none.
        used_columns: (M,) columns that are read: 5 of a box, all of an outline, 0 of what is neither.
    """

    values: Float64Array
    starts: Int64Array
    columns: Int64Array
    kpt_shape: Sequence[int] | None
    used_columns: Int64Array = field(init=False)

    def __post_init__(self) -> None:
        # At first lines are taken for what their number of columns says.
        most = self.columns if self.kpt_shape is None else BOX_COLUMNS
        self.used_columns = np.minimum(self.columns, most)

    def settle(self) -> Iterator[Fault]:
        """Sets `used_columns` by what the figures can be; says where that is not what their number says."""
        if self.kpt_shape is not None:
            if (count := int((self.columns > BOX_COLUMNS).sum())) > 0:
                detail = f"{count} label lines have keypoints after the box (kpt_shape), which are not used"
                yield Fault(None, "unused-keypoints", "keep", detail)
        else:
            yield from self._settle_tracks()
        far = self._are_far()
        long = np.flatnonzero(self.used_columns > BOX_COLUMNS)
        keypoints = self._keypoints(long)
        if keypoints and keypoints.are_proven:
            far[keypoints.rows] = True
        elif keypoints and not far[keypoints.rows].any():
            num_like = len(keypoints.rows)
            lines = f"{num_like} of {len(long)} lines" if num_like < len(long) else f"all {num_like} lines"
            yield Fault(
                None,
                "maybe-keypoints",
                "keep",
                f"{'one line' if len(long) == 1 else lines} of over {BOX_COLUMNS} columns, read as outlines, "
                f"can be a box and {keypoints.count} keypoints; "
                f"{_advice(keypoints.count, keypoints.figures)}",
            )
        for row in np.flatnonzero(far).tolist():
            yield self._far_fault(row, keypoints)
        self.used_columns[far] = 0

    def shapes(self) -> tuple[Float64Array, Int64Array, Float32Array]:
        """Boxes (K, 4) xyxy, polygon offsets (K + 1,) and points (P, 2) of the K lines that are used."""
        kept = self.used_columns > 0
        starts, columns = self.starts[kept], self.used_columns[kept]
        boxes = np.empty((len(starts), 4))
        is_box = columns == BOX_COLUMNS
        with np.errstate(over="ignore", invalid="ignore"):
            boxes[is_box] = _corners(self._heads(np.flatnonzero(kept)[is_box]))
            figures, figure_offsets = rows_from(starts + 1, np.where(is_box, 0, columns - 1))
            points, offsets = self.values[figures].reshape(-1, 2), figure_offsets // 2
            if len(points):
                polygon_starts = offsets[:-1][~is_box]
                boxes[~is_box, :2] = np.minimum.reduceat(points, polygon_starts)
                boxes[~is_box, 2:] = np.maximum.reduceat(points, polygon_starts)
            return boxes, offsets, points.astype(np.float32)

    def _heads(self, rows: Int64Array) -> Float64Array:
        """Returns the four figures after the class."""
        return np.asarray(self.values[self.starts[rows, None] + np.arange(1, BOX_COLUMNS)], np.float64)

    def _settle_tracks(self) -> Iterator[Fault]:
        """Lines `class cx cy w h` with confidence and id, in any order, of trackers: their boxes are read."""
        long = np.flatnonzero(self.used_columns > BOX_COLUMNS)
        rows = long[self.columns[long] == _TRACK_COLUMNS]
        heads = self._heads(rows)
        # A tracker's box may pass the edge of the image.
        is_head = ((heads[:, :2] >= 0) & (heads[:, :2] <= 1) & (heads[:, 2:] > 0)).all(1)
        maybe = np.zeros(len(rows), bool)
        for columns in ((5, 6), (6, 5)):
            confidences, ids = (self.values[self.starts[rows] + column] for column in columns)
            fits = is_head & (confidences >= 0) & (confidences <= 1) & (ids >= 0) & (np.floor(ids) == ids)
            # An id of 0 or 1 could be a coordinate: the other lines tell.
            likely = fits & _are_boxes(heads)
            if (fits & (ids >= _MOST)).any() or likely.sum() >= _CLEAR_MAJORITY * len(long):
                for row in np.flatnonzero(fits & (self.used_columns[rows] > BOX_COLUMNS)).tolist():
                    self.used_columns[rows[row]] = BOX_COLUMNS
                    detail = (
                        f"a confidence ({confidences[row]:g}) and a track id ({ids[row]:g}) after the box"
                    )
                    yield Fault(int(rows[row]), "extra-columns", "keep", f"{detail} are not used")
            maybe |= likely
        if count := int((maybe & (self.used_columns[rows] > BOX_COLUMNS)).sum()):
            yield Fault(
                None,
                "maybe-tracks",
                "keep",
                f"{count} lines of {_TRACK_COLUMNS} columns with 0 or 1 in one of the last two, read as "
                "outlines of three points, can be a box, a confidence and a track id; cut these two columns "
                "off if they are",
            )

    def _are_far(self) -> BoolArray:
        """Returns which lines have figures that cannot be shares of an image."""
        rows, offsets = rows_from(self.starts + 1, self.used_columns - 1)
        if not len(rows):
            return np.zeros(len(self.starts), bool)
        figures = self.values[rows]
        low, high = (edge.reduceat(figures, offsets[:-1]) for edge in (np.minimum, np.maximum))
        return np.isfinite(low) & np.isfinite(high) & ((low <= _LEAST) | (high >= _MOST))

    def _keypoints(self, long: Int64Array) -> _Keypoints | None:
        """Returns how many keypoints, of how many figures, follow a box in most of these lines if they do."""
        if not len(long):
            return None
        counts = np.bincount(self.columns[long])
        rows, extra = long[self.columns[long] == counts.argmax()], int(counts.argmax()) - BOX_COLUMNS
        heads = self._heads(rows)
        after = self.values[self.starts[rows, None] + np.arange(BOX_COLUMNS, BOX_COLUMNS + extra)]
        found: list[_Keypoints] = []
        for figures in (3, 2):
            if extra % figures:
                continue
            points = after.reshape(len(rows), -1, figures)
            fits = _have_keypoints(heads, points[..., :2])
            are_flags = np.isin(points[..., 2:], (0, 1, 2)).all((1, 2)) & (figures == 3)
            if (fits & are_flags).sum() >= _CLEAR_MAJORITY * len(long):
                return _Keypoints(extra // 3, 3, rows[are_flags], are_proven=True)
            are_shares = ((points[..., 2:] >= 0) & (points[..., 2:] <= 1)).all((1, 2))
            found.append(_Keypoints(extra // figures, figures, rows[fits & are_shares], are_proven=False))
        best = max(found, key=lambda one: len(one.rows), default=None)
        return best if best and len(best.rows) >= _CLEAR_MAJORITY * len(long) else None

    def _far_fault(self, row: int, keypoints: _Keypoints | None) -> Fault:
        figures = self.values[self.starts[row] + 1 : self.starts[row] + self.columns[row]]
        far = np.flatnonzero((figures <= _LEAST) | (figures >= _MOST))
        if self.used_columns[row] > BOX_COLUMNS and (not len(far) or far[0] >= BOX_COLUMNS - 1):
            why = f"column {far[0] + 2} is {figures[far[0]]:g}" if len(far) else "every third is 0, 1 or 2"
            advice = _advice("KEYPOINTS", "FIGURES OF EACH")
            if keypoints:
                advice = _advice(keypoints.count, keypoints.figures)
            detail = f"{len(figures) + 1} columns are no outline ({why}); keypoints after the box? {advice}"
            return Fault(row, "wrong-column-count", "drop-box", detail)
        may_be_percent = 1 < np.abs(figures).max() <= _PERCENT
        percent = " (or percent? divide them by 100)" if may_be_percent else ""
        detail = (
            f"column {far[0] + 2} is {figures[far[0]]:g}, but coordinates are shares of the image, from 0 to "
            f"1; are these pixels? divide them by the width and height of the image{percent}"
        )
        return Fault(row, "not-normalised", "drop-box", detail)


def _corners(heads: Float64Array) -> Float64Array:
    """Returns (M, 4) xyxy of boxes cx, cy, w, h."""
    return np.hstack((heads[:, :2] - heads[:, 2:] / 2, heads[:, :2] + heads[:, 2:] / 2))


def _are_boxes(heads: Float64Array) -> BoolArray:
    """Returns which (M, 4) figures are cx, cy, w, h of boxes inside their image."""
    corners = _corners(heads)
    inside = (corners >= -_EDGE) & (corners <= 1 + _EDGE)
    return np.asarray(inside.all(1) & (heads[:, 2:] > 0).all(1), np.bool_)


def _have_keypoints(heads: Float64Array, points: Float64Array) -> BoolArray:
    """Returns which (M, 4) boxes have most of their (M, K, 2) points in them, 0 0 for an absent one aside.

    An outline can look like that too: its points lie close together, compared with its second point taken for
    the size of a box, and this one among them.
    """
    centres, sizes = heads[:, None, :2], heads[:, None, 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        offsets = np.abs(points - centres)
        is_absent = (points == 0).all(-1)
        in_reach = (offsets <= _BESIDE_BOX * sizes).all(-1) | is_absent
        spread = np.where(is_absent[..., None], 0, offsets).max(1)
        is_outline = (spread < _SMALL_SPREAD * heads[:, 2:]) & (np.abs(heads[:, 2:] - heads[:, :2]) <= spread)
    fits = _are_boxes(heads) & (in_reach.mean(1) >= _CLEAR_MAJORITY) & ~is_outline.all(1)
    return np.asarray(fits, np.bool_)
