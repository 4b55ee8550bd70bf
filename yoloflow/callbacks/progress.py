"""The line that shows how far a training is, as wide as there is room for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

_SHORTEST_BAR = 8
_LONGEST_BAR = 40


@dataclass(frozen=True, slots=True)
class Progress:
    """Says how far a training is.

    Attributes:
        epoch: 1-based epoch in progress; epochs: of the training.
        step: steps done; steps: of the training.
        images_per_second: the rate, 0 where it is not known yet.
        seconds_left: estimated time to the end, evaluations included; None where it is not known yet.
        losses: name and value of each loss item, the total first; empty before the first logged step.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float = 0.0
    seconds_left: float | None = None
    losses: list[tuple[str, float]] = field(default_factory=list)

    def line(self, width: int | None = None) -> str:
        """Returns one line: bar, epoch, count, rate, time left, losses.

        Args:
            width: characters at most. Cut are first the losses but the total, then the bar, the total and the
                epoch; count, rate and time left stay as long as they fit. None: everything but the bar.
        """
        left = "-:--:--" if self.seconds_left is None else timedelta(seconds=round(self.seconds_left))
        rate = f"{self.images_per_second:.1f}" if self.images_per_second else "-"
        line = f"{self.step}/{self.steps}  {rate} img/s  {left} left"
        epoch = f"epoch {self.epoch}/{self.epochs}  "
        losses = [f"  {name} {value:.3f}" for name, value in self.losses]
        if width is None:
            return "".join([epoch, line, *losses])
        if len(epoch) + len(line) > width:
            return line[:width]
        line = epoch + line
        for shown in ("".join(losses), *losses[:1]):
            room = min(width - len(line + shown) - len("[]  "), _LONGEST_BAR)
            if room >= _SHORTEST_BAR:
                done = room * self.step // self.steps
                return f"[{'#' * done:.<{room}}]  {line}{shown}"
        total = "".join(losses[:1])
        return line + total if len(line + total) <= width else line
