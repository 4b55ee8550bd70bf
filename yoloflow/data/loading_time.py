"""Seconds of loading, by what was done."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class SpanTimer:
    """Counts seconds by name; an inner span counts for itself and not for the outer one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
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
            self._seconds[name] += passed - self._inner
            self._inner = outer + passed

    def take(self) -> dict[str, float]:
        """Return all that was counted, and start again."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken


class LoadingTime:
    """The seconds that a loader's consumer waited, and that its workers worked.

    Attributes:
        waited: seconds without a batch.
        worked: seconds of all workers, by what they did.
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
        """Return `waited` and `worked`, and start again."""
        taken = self.waited, dict(self.worked)
        self.waited = 0.0
        self.worked.clear()
        return taken


def describe_work(seconds: Mapping[str, float]) -> str:
    """Describe the largest parts of the work, such as "random_perspective 31%, decode 27%, ..."."""
    total = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:4]
    return ", ".join(f"{name} {part / total:.0%}" for name, part in largest)
