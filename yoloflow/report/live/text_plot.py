"""Curves as text, in braille dots: two by four of them in a letter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

Values = Sequence[float] | NDArray[np.float64]

_DOT_ROWS, _DOT_COLUMNS = 4, 2
_BRAILLE = 0x2800
# The bit of each dot of a letter, by row and column (Unicode, Braille Patterns).
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_LABEL_WIDTH = 9


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line.

    Attributes:
        name: for the title.
        x: rising; y: of equal length, finite.
        style: as rich names colours.
    """

    name: str
    x: Values
    y: Values
    style: str


def plot(
    curves: Sequence[Curve],
    width: int,
    height: int,
    *,
    y_from: float | None = None,
    ascii_only: bool = False,
) -> list[Text]:
    """Lines of text of equal width: a title with the curves' names, the curves, the axis below.

    Args:
        curves: those without points are left out.
        width: letters in a line.
        height: lines.
        y_from: lowest value of the axis; by default that of the curves.
        ascii_only: stars instead of braille.
    """
    curves = [curve for curve in curves if len(curve.y)]
    columns, rows = max(width - _LABEL_WIDTH, 1), max(height - 2, 1)
    title = Text(" " * _LABEL_WIDTH)
    for curve in curves:
        title.append(f"{curve.name}  ", style=curve.style)
    if not curves:
        empty = [_fit(Text(), width) for _ in range(height)]
        empty[height // 2] = _fit(Text(" " * _LABEL_WIDTH + "nothing yet", style="dim"), width)
        return empty
    low = min(float(np.min(curve.y)) for curve in curves) if y_from is None else y_from
    high = max(float(np.max(curve.y)) for curve in curves)
    high = high if high > low else low + (abs(low) or 1.0)
    last = max(float(curve.x[-1]) for curve in curves) or 1.0
    first = min(float(curve.x[0]) for curve in curves)
    first = 0.0 if first >= last else first
    letters, styles = _draw(curves, (first, last, low, high), columns, rows)
    lines = [_fit(title, width)]
    for row in range(rows):
        label = {0: f"{high:.3g}", rows - 1: f"{low:.3g}"}.get(row, "")
        line = Text(f"{label:>{_LABEL_WIDTH - 1}}", style="dim").append("|" if ascii_only else "┤")
        for code, style in zip(letters[row].tolist(), styles[row].tolist(), strict=True):
            letter = chr(_BRAILLE + code) if code and not ascii_only else "*" if code else " "
            line.append(letter, style=curves[style].style if code else "")
        lines.append(line)
    left, right = f"{round(first, 1):g}", f"{round(last, 1):g}"
    axis = f"{'':{_LABEL_WIDTH}}{left}{right:>{max(columns - len(left), 1)}}"
    return [*lines, _fit(Text(axis, style="dim"), width)]


def _draw(
    curves: Sequence[Curve], limits: tuple[float, float, float, float], columns: int, rows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows, columns) braille codes, and the number of the curve that each letter is coloured for."""
    first, last, low, high = limits
    codes = np.zeros((rows, columns), np.int64)
    styles = np.zeros((rows, columns), np.int64)
    dots_x, dots_y = columns * _DOT_COLUMNS, rows * _DOT_ROWS
    places = np.linspace(first, last, dots_x)
    for number, curve in enumerate(curves):
        x, y = np.asarray(curve.x, np.float64), np.asarray(curve.y, np.float64)
        heights = np.interp(places, x, y)
        dots = np.clip((heights - low) / (high - low) * (dots_y - 1), 0, dots_y - 1).round().astype(np.int64)
        half_a_dot = (last - first) / dots_x
        inside = np.flatnonzero((places >= x[0] - half_a_dot) & (places <= x[-1] + half_a_dot))
        for column in inside.tolist():
            # From the neighbour's height, so that steep parts are joined too.
            ends = sorted((int(dots[max(column - 1, inside[0])]), int(dots[column])))
            for dot in range(dots_y - 1 - ends[1], dots_y - ends[0]):
                row, letter = dot // _DOT_ROWS, column // _DOT_COLUMNS
                codes[row, letter] |= _BITS[dot % _DOT_ROWS, column % _DOT_COLUMNS]
                styles[row, letter] = number
    return codes, styles


def _fit(line: Text, width: int) -> Text:
    """The line cut or filled up to a width."""
    line.truncate(width, overflow="crop")
    line.pad_right(max(width - line.cell_len, 0))
    return line
