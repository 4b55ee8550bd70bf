"""Where the time of loading goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class SpanTimer:
    """Seconds by name; what runs inside another span counts for itself and not for the other.

    Attributes:
        seconds: of each name since the last `take`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = 0.0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count the time inside for `name`."""
        outer, self._inner = self._inner, 0.0
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            self.seconds[name] += passed - self._inner
            self._inner = outer + passed

    def take(self) -> dict[str, float]:
        """All that was counted; the clock begins anew."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


class LoadingTime:
    """What the consumer of a loader waited for, and what its processes did meanwhile.

    Attributes:
        waited: seconds that the consumer spent waiting for batches.
        worked: seconds of all loading processes, by what they did.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.worked: dict[str, float] = defaultdict(float)

    def add(self, waited: float, worked: Mapping[str, float]) -> None:
        """Count one batch."""
        self.waited += waited
        for name, seconds in worked.items():
            self.worked[name] += seconds

    def take(self) -> tuple[float, dict[str, float]]:
        """`waited` and `worked` so far; the clock begins anew."""
        taken = self.waited, dict(self.worked)
        self.waited = 0.0
        self.worked.clear()
        return taken


def describe_work(seconds: Mapping[str, float]) -> str:
    """The largest parts of the work, such as "random_perspective 31%, decode 27%, ..."."""
    total = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {part / total:.0%}" for name, part in largest)
