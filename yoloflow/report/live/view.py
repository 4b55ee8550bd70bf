"""The view of a run in a terminal: progress, newest figures, curves, classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from yoloflow.files import NUMBER, wrong_places
from yoloflow.report.live.progress import Progress
from yoloflow.report.live.text_plot import Curve, plot
from yoloflow.report.metrics import NO_OBJECTS, has_ap, known_points, smooth

_LOADER_BOUND = 0.1
_STATE_STYLES = {
    "waiting": "yellow",
    "running": "green",
    "silent": "red",
    "interrupted": "red",
    "finished": "cyan",
}
_MIN_PLOT_WIDTH, _MAX_PLOTS = 38, 3
_CLASS_WIDTH, _CLASS_FIGURES = 36, 21
_CLASS_ROW = {"name": str, "num_objects": int, "ap": NUMBER, "ap50": NUMBER}
_PLAIN_CLASSES = 20


@dataclass(frozen=True, slots=True)
class RunView:
    """A run that rich can print.

    Attributes:
        progress: of the run.
        height: lines to fill, those of a screen; None for as many as it needs.
    """

    progress: Progress
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields head, curves and classes; on a screen long lines are cut, elsewhere they take two lines."""
        width, height = options.max_width, self.height
        lines = list(_figures(self.progress))
        yield from _title(self.progress, width, is_screen=height is not None)
        if height is not None:
            lines = [_cut(line, width) for line in lines]
        yield _bar(self.progress)
        yield from lines
        yield Text()
        num_head_lines = 3 + len(lines)
        rows = _class_rows(self.progress)
        plot_height = 12 if height is None else _plot_height(height - num_head_lines, len(rows))
        if plot_height:
            yield from _plots(self.progress, width, plot_height, options.ascii_only)
        room = _PLAIN_CLASSES if height is None else height - num_head_lines - plot_height - 1
        if rows and room > 2:
            yield Text()
            yield from _classes(rows, width, room)


def _plot_height(room: int, num_classes: int) -> int:
    """Returns the lines for the plots: most of the room, less where there are classes to show."""
    if room < 6:
        return 0
    for_classes = min(num_classes + 3, room * 2 // 5) if num_classes else 0
    return min(room - for_classes, 24)


def _title(progress: Progress, width: int, *, is_screen: bool) -> Iterator[Text]:
    """Shows run and state at both ends of a line; a long name is cut on a screen, else it has a line."""
    name, state = Text(str(progress.run), style="bold"), _state(progress)
    if not is_screen and name.cell_len + state.cell_len + 2 > width:
        yield from (name, state)
        return
    _shorten(name, max(width - state.cell_len - 2, 8))
    name.append(" " * max(width - name.cell_len - state.cell_len, 2))
    yield name.append_text(state)


def _state(progress: Progress) -> Text:
    """Says in words and colour how far the run is."""
    metrics, summary = progress.metrics, progress.summary
    state: str = progress.state
    if progress.state == "silent":
        state = f"nothing written for {_duration(progress.silent_seconds)}: stopped, killed or hanging"
    elif progress.state == "interrupted":
        state = f"interrupted {_duration(progress.silent_seconds)} ago, resume=auto goes on"
    elif progress.state == "waiting":
        state = f"no step logged yet, last written {_duration(progress.silent_seconds)} ago"
    elif summary is not None and isinstance(seconds := summary.get("wall_seconds"), int | float):
        is_early = "stopped_early" in summary
        state = f"finished {'early (patience) ' if is_early else ''}in {_duration(seconds)}"
    if metrics.stages and progress.state != "finished":
        state = f"stage {metrics.stages[-1]['stage'] + 1}, {state}"
    return Text(state, style=_STATE_STYLES[progress.state])


def _bar(progress: Progress) -> Table:
    """Shows the epochs done of those planned as a bar, with the time left."""
    done, planned = progress.epochs_done, progress.epochs
    share = min(done / planned, 1.0) if planned else 0.0
    left = progress.seconds_left
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        f"epoch {math.floor(done * 10 + 1e-6) / 10:g}/{planned if planned else '?'}",
        ProgressBar(total=1.0, completed=share, complete_style="cyan", finished_style="cyan"),
        f"{share:.0%}",
        "" if left is None else f"{_duration(left)} left",
    )
    return row


def _figures(progress: Progress) -> Iterator[Text]:
    """Yields newest losses, rate and speed; newest and best AP; that it waits for data, where it does."""
    metrics = progress.metrics
    line = Text()
    if metrics.steps:
        newest = metrics.steps[-1]
        for name in metrics.loss_names:
            if name in newest:
                line.append(f"{name} ", style="dim").append(f"{_number(newest[name])}  ")
        rates = sorted({_number(rate) for rate in newest.get("lr", ())}, key=float, reverse=True)
        line.append("lr ", style="dim").append(f"{'/'.join(rates)}  ")
        line.append(f"{_number(newest.get('images_per_second'), '.3g')} images/s")
    yield line
    yield _evaluated(progress)
    if metrics.loading and (waited := metrics.loading[-1].get("waited_share") or 0.0) >= _LOADER_BOUND:
        yield Text(f"{waited:.0%} of the time waiting for data", style="yellow")


def _evaluated(progress: Progress) -> Text:
    """Shows newest and best AP."""
    line, metrics = Text(), progress.metrics
    if not metrics.evaluations:
        return line.append("not evaluated yet", style="dim")
    newest = metrics.evaluations[-1]
    if has_ap(newest) or not metrics.has_no_objects:
        line.append("AP ", style="dim").append(f"{_number(newest.get('map'))}  ")
        line.append("AP50 ", style="dim").append(f"{_number(newest.get('map50'))}  ")
        if "mask_map" in newest:
            line.append("mask AP ", style="dim").append(f"{_number(newest['mask_map'])}  ")
    else:
        line.append("AP ", style="dim").append(f"n/a: {NO_OBJECTS}  ")
    line.append(f"(epoch {newest['epoch']})", style="dim")
    if (best := metrics.best_evaluation) is not None:
        line.append("   best AP ", style="dim").append(_number(best["map"]), style="bold")
        line.append(f"  (epoch {best['epoch']})", style="dim")
    return line


def _plots(progress: Progress, width: int, height: int, ascii_only: bool) -> Iterator[Text]:
    """Plots loss, AP and, where there is room, the learning rate, side by side."""
    count = max(1, min(_MAX_PLOTS, width // _MIN_PLOT_WIDTH))
    each = (width - 2 * (count - 1)) // count
    curves = progress.curves
    epochs, losses = known_points(curves.epochs, curves.losses.get("loss", []))
    loss = Curve("loss, smoothed", epochs, smooth(losses), "magenta")
    aps = [
        Curve("AP50", *known_points(curves.evaluated, curves.ap50), "yellow"),
        Curve("AP", *known_points(curves.evaluated, curves.ap), "cyan"),
        Curve("mask AP", *known_points(curves.evaluated, curves.mask_ap), "magenta"),
    ]
    rates = zip(*curves.rates.values(), strict=True)
    highest = [max((rate for rate in row if rate is not None), default=None) for row in rates]
    rate = Curve("highest learning rate", *known_points(curves.epochs, highest), "green")
    drawn = [
        plot([loss], each, height, ascii_only=ascii_only),
        plot(aps, each, height, y_from=0.0, ascii_only=ascii_only),
        plot([rate], each, height, y_from=0.0, ascii_only=ascii_only),
    ]
    for parts in zip(*drawn[:count], strict=True):
        yield Text("  ").join(parts)


def _class_rows(progress: Progress) -> list[dict[str, Any]]:
    """Returns the classes with objects of the newest evaluation, the worst first."""
    if not progress.metrics.evaluations:
        return []
    rows = progress.metrics.evaluations[-1].get("per_class") or []
    known = [row for row in rows if next(wrong_places(row, _CLASS_ROW), None) is None]
    return sorted(known, key=lambda row: float(row["ap"]))


def _classes(rows: list[dict[str, Any]], width: int, height: int) -> Iterator[Text]:
    """Lists as many classes as there is room for, in columns."""
    columns = max(1, min((width + 3) // (_CLASS_WIDTH + 3), -(-len(rows) // max(height - 1, 1))))
    shown = rows[: columns * (height - 1)]
    per_column = -(-len(shown) // columns)
    longest = max(Text(str(row["name"])).cell_len for row in shown) + 1
    room = (width + 3) // columns - 3 - _CLASS_FIGURES
    name_width = max(min(longest, room), _CLASS_WIDTH - _CLASS_FIGURES)
    what = "class" if len(shown) == len(rows) else f"worst {len(shown)}/{len(rows)}"
    heads = [
        f"{name:{name_width}}{'objects':>8}{'AP':>6}{'AP50':>7}" for name in [what, *["class"] * columns]
    ]
    yield _cut(Text("   ".join(heads[:columns]), style="dim"), width)
    for line in range(per_column):
        parts = []
        for row in shown[line::per_column]:
            name = Text(str(row["name"]))
            _shorten(name, name_width - 1)
            name.pad_right(name_width - name.cell_len)
            name.append(f"{row['num_objects']:>8}", style="dim")
            parts.append(name.append(f"{row['ap']:>6.3f}{row['ap50']:>7.3f}"))
        yield _cut(Text("   ").join(parts), width)


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="crop")
    return line


def _shorten(name: Text, width: int) -> None:
    """Cuts a name and show that it goes on, in letters that every terminal has."""
    if name.cell_len > width:
        name.truncate(width - 2, overflow="crop")
        name.append("..")


def _number(value: object, style: str | None = None) -> str:
    """Formats a figure to about four digits, or as a format says."""
    if not isinstance(value, int | float):
        return "-"
    if style is not None:
        return format(value, style)
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """Formats a time, such as 45 s, 12 min, 3 h 05 min, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
