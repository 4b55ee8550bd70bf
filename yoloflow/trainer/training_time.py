"""The time and speed of a training."""

from __future__ import annotations

import time
from collections.abc import Mapping


class TrainingTime:
    """Measures a run over all its processes, and the speed between two logged steps."""

    def __init__(self) -> None:
        self._started = self._epoch_started = self._lap_started = time.monotonic()
        self._seconds_before = self._step_seconds = 0.0
        self._step_images = self._lap_images = 0

    def begin(self) -> None:
        """Starts the time of this process."""
        self._started = time.monotonic()

    def begin_epoch(self) -> None:
        """Starts an epoch and its first lap."""
        self._epoch_started = self._lap_started = time.monotonic()
        self._lap_images = 0

    def add_images(self, number: int) -> None:
        """Counts the images of a step, of all ranks."""
        self._lap_images += number

    def end_lap(self) -> float:
        """Starts the next lap and returns the images per second of the last one."""
        now = time.monotonic()
        seconds, images = now - self._lap_started, self._lap_images
        self._step_seconds += seconds
        self._step_images += images
        self._lap_started, self._lap_images = now, 0
        return images / seconds

    @property
    def epoch_seconds(self) -> float:
        """Seconds since the epoch began."""
        return max(time.monotonic() - self._epoch_started, 1e-9)

    @property
    def seconds(self) -> float:
        """Seconds of this and all earlier processes of the run."""
        return time.monotonic() - self._started + self._seconds_before

    def to_json(self) -> dict[str, float]:
        """Returns the figures of `summary.json`; only steps count in the images per second."""
        speed = self._step_images / max(self._step_seconds, 1e-9)
        return {"wall_seconds": round(self.seconds, 1), "images_per_second": round(speed, 2)}

    def state_dict(self) -> dict[str, float]:
        """Returns plain numbers to go on from after a resume."""
        return {"seconds": self.seconds, "step_seconds": self._step_seconds, "step_images": self._step_images}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Goes on from what `state_dict` gave."""
        self._seconds_before, self._step_seconds = state["seconds"], state["step_seconds"]
        self._step_images = int(state["step_images"])
