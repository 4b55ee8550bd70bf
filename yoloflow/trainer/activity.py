"""The present activity of a training, for messages about one that does not get on."""

from __future__ import annotations

import time
from collections import defaultdict

from yoloflow.runtime.ranks import Ranks


class Activity:
    """Holds what a rank is doing and since when.

    Attributes:
        ranks: this process among its peers.
        spent: seconds of this process so far by kind of activity, without the present one.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.spent: dict[str, float] = defaultdict(float)
        self._kind, self._since = "preparation", time.monotonic()
        self.begin("starting", "preparation")

    def begin(self, what: str, kind: str) -> None:
        """Notes that something else begins now; `what` stands in messages as it is, `kind` in `spent`."""
        now = time.monotonic()
        self.spent[self._kind] += now - self._since
        self._what, self._kind, self._since = what, kind, now

    @property
    def started(self) -> float:
        """Time of the monotonic clock at which it began."""
        return self._since

    @property
    def seconds(self) -> float:
        """Seconds that it has taken."""
        return time.monotonic() - self._since

    def __str__(self) -> str:
        ranks = self.ranks
        who = f"rank {ranks.rank} of {ranks.world_size}: " if ranks.world_size > 1 else ""
        return f"{who}{self._what}"
